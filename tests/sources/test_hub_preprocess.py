"""`preprocessor_config.json` as this project's preprocessing: the same pixels as the model's own processor gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from compress.sources.hub_preprocess import preprocess_of, read_processor


def processors() -> list[str]:
    names = "ViT ConvNext Levit PoolFormer EfficientNet MobileNetV1 Bit CLIP Beit Segformer"
    return [f"{name}ImageProcessorPil" for name in names.split()]


@pytest.mark.parametrize("name", processors())
def test_preprocessing_is_what_the_models_own_processor_does(tmp_path: Path, name: str) -> None:
    """Pixel by pixel, on an image that is not square."""
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is missing; image processors are not compared")
    from compress.data.image_files import decode

    processor = getattr(transformers, name)(**({"size": {"shortest_edge": 224}} if name.startswith("ConvNext") else {}))
    processor.save_pretrained(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    image = pillow.fromarray(noise).resize((410, 300))
    image.save(tmp_path / "image.png")
    expected = torch.as_tensor(np.asarray(processor(image, return_tensors="np")["pixel_values"][0]))
    preprocess = preprocess_of(read_processor(tmp_path), 3)
    got = preprocess.normalized(decode(tmp_path / "image.png", preprocess)[None])[0]
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": 224}, ((224, 224), None)),
        ({"size": 256, "do_center_crop": True, "crop_size": 224}, ((224, 224), 256)),
        ({"size": 384, "crop_pct": 0.875}, ((384, 384), None)),
        ({"size": [32, 40]}, ((32, 40), None)),
        ({"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}}, ((224, 224), 256)),
    ],
)
def test_sizes_as_older_files_write_them(values: dict, expected: tuple) -> None:
    found = preprocess_of({**values, "do_normalize": False}, 3)
    assert (found.size, found.resize) == expected
    assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("values", "byte", "expected"),
    [
        ({"image_mean": 0.5, "image_std": 0.25}, 51, (0.2 - 0.5) / 0.25),
        ({"image_mean": [10, 20, 30], "image_std": [5, 5, 5], "do_rescale": False}, 51, (51 - 10) / 5),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5}, 51, (51 / 127.5 - 0.5) / 0.5),
        (
            {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 1 / 127.5, "rescale_offset": True},
            51,
            51 / 127.5 - 1,
        ),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "include_top": True}, 51, (0.2 - 0.5) / 0.5 / 0.5),
    ],
)
def test_scales_and_offsets(values: dict, byte: int, expected: float) -> None:
    preprocess = preprocess_of({"size": 2, **values}, 3)
    pixels = preprocess.normalized(torch.full((1, 3, 2, 2), byte, dtype=torch.uint8))
    assert float(pixels[0, 0, 0, 0]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "values",
    [{"size": 224, "do_flip_channel_order": True}, {"image_mean": 0.5, "image_std": 0.5}, {"size": 224, "do_normalize": True}],
    ids=["blue first", "no size", "unknown statistics"],
)
def test_what_cannot_be_said_is_nothing(values: dict) -> None:
    assert preprocess_of(values, 3) is None
