"""`torchvision:NAME` and `timm:NAME`: against small stand-ins for both libraries, and against the real ones where present."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from compress import zoo
from compress.data.preprocess import Preprocess
from compress.errors import UserError
from compress.sources import timm_models, torchvision_models
from compress.sources.libraries import import_library

PICTURE = Preprocess((8, 8), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), resize=10)
CATEGORIES = ("tench", "goldfish", "great white shark")
INSTALL = "install it with: pip install 'compress-toolkit[vision]'"


class TinyNet(nn.Module):
    """Images to `classes` logits, with its classifier last, as the networks of both libraries have it."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.num_classes = classes
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


def forget(monkeypatch: pytest.MonkeyPatch, *libraries: str) -> None:
    """Take modules that are imported out of the way for the time of a test."""
    for name in [name for name in sys.modules if name.partition(".")[0] in libraries]:
        monkeypatch.delitem(sys.modules, name)


def put(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> None:
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


def breaks(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    """A library `name` that runs `code` when it is imported."""
    forget(monkeypatch, name)
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A torchvision of one network, whose weights are "downloaded" from a file here."""
    forget(monkeypatch, "torchvision")
    torch.save(TinyNet().state_dict(), tmp_path / "weights.pth")
    start = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()[:8]
    published = (tmp_path / "weights.pth").rename(tmp_path / f"tiny-{start}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    transform = SimpleNamespace(crop_size=[8], resize_size=[10], mean=list(PICTURE.mean), std=list(PICTURE.std))
    default = SimpleNamespace(url=published.as_uri(), meta={"categories": list(CATEGORIES)}, transforms=lambda: transform)

    def get_model(name: str, weights: object = None, progress: bool = True, num_classes: int = 3) -> nn.Module:
        assert name == "tiny"
        model = TinyNet(num_classes)
        if weights is default:
            cached = tmp_path / "home" / "hub" / "checkpoints" / published.name
            model.load_state_dict(torch.load(cached, weights_only=False))  # as torchvision does
        return model

    put(monkeypatch, "torchvision")
    put(
        monkeypatch,
        "torchvision.models",
        list_models=lambda module: ["tiny", "tinier"],
        get_model_weights=lambda name: SimpleNamespace(DEFAULT=default),
        get_model=get_model,
    )
    return SimpleNamespace(published=published, default=default)


def test_torchvision_gives_weights_labels_and_preprocessing(torchvision: SimpleNamespace) -> None:
    source = zoo.load("torchvision:tiny")
    expected = torch.load(torchvision.published, weights_only=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in source.model.state_dict().items())
    assert source.preprocess == PICTURE
    assert source.labels == CATEGORIES
    assert source.origin == {"kind": "torchvision", "name": "tiny", "classes": 3, "options": {}}
    assert not source.model.training


def test_torchvision_rebuilds_and_takes_weights_of_other_classes(torchvision: SimpleNamespace, tmp_path: Path) -> None:
    other = TinyNet(7)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    source = zoo.load("torchvision:tiny", str(tmp_path / "other.pth"))
    assert torch.equal(source.model.fc.weight, other.fc.weight)
    assert source.labels == ()
    rebuilt = zoo.rebuild(json.loads(json.dumps(source.origin)))
    rebuilt.load_state_dict(source.model.state_dict())
    assert not (tmp_path / "home").exists()  # nothing was fetched


def test_torchvisions_weights_are_never_unpickled_before_they_are_known_to_be_tensors(
    torchvision: SimpleNamespace, tmp_path: Path
) -> None:
    class RunsCode:
        def __reduce__(self):
            return Path.touch, (tmp_path / "proof",)

    cached = tmp_path / "home" / "hub" / "checkpoints" / torchvision.published.name
    cached.parent.mkdir(parents=True)
    torch.save({"fc.weight": RunsCode()}, cached)
    with pytest.raises(UserError) as error:
        zoo.load("torchvision:tiny")
    assert str(error.value) == (
        f"{cached} cannot be loaded as a state dict: it holds more than tensors, and unpickling it could run code; "
        "save the state dict alone"
    )
    assert not (tmp_path / "proof").exists()


def test_torchvision_without_a_network(torchvision: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    torchvision.default.url = "http://127.0.0.1:9/tiny-0123abcd.pth"
    with pytest.raises(UserError) as error:
        zoo.load("torchvision:tiny")
    assert str(error.value) == (
        "http://127.0.0.1:9/tiny-0123abcd.pth could not be downloaded ([Errno 111] Connection refused); "
        "give a state dict of torchvision's tiny with --weights FILE"
    )


def test_torchvisions_near_and_far_misses(torchvision: SimpleNamespace) -> None:
    for name, hint in (("tinny", "Did you mean 'tiny'?"), ("zzz", "torchvision.models.list_models() lists them.")):
        with pytest.raises(UserError) as error:
            zoo.load(f"torchvision:{name}")
        assert str(error.value) == f"torchvision has no classification model '{name}'. {hint}"


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A timm of one network with weights, one without, and one without a classifier."""
    forget(monkeypatch, "timm")
    weights = TinyNet().state_dict()
    state = SimpleNamespace(weights=weights, fails=None, crop_mode="center")

    def create_model(name: str, pretrained: bool, num_classes: int | None = None) -> nn.Module:
        model = TinyNet(3 if num_classes is None else num_classes)
        if pretrained:
            if state.fails:
                raise RuntimeError("wrapped") from state.fails
            model.load_state_dict(weights)
        if name == "headless":
            model.num_classes = 0
        return model

    def settings(model: nn.Module) -> dict:
        size = {"input_size": (3, 8, 8), "crop_pct": 0.8, "crop_mode": state.crop_mode}
        return {**size, "mean": PICTURE.mean, "std": PICTURE.std, "interpolation": "bicubic"}

    data = ModuleType("timm.data")
    data.resolve_model_data_config = settings
    data.infer_imagenet_subset = lambda model: "three" if model.num_classes == 3 else None
    data.ImageNetInfo = lambda subset: SimpleNamespace(label_descriptions=lambda: list(CATEGORIES))
    put(
        monkeypatch,
        "timm",
        data=data,
        list_models=lambda: ["tiny", "bare", "headless"],
        list_pretrained=lambda: ["tiny.in1k"],
        get_pretrained_cfg=lambda name: SimpleNamespace(has_weights=name != "bare", hf_hub_id=None, hf_hub_filename=None),
        create_model=create_model,
    )
    return state


@pytest.mark.parametrize("name", ["tiny", "tiny.in1k"])
def test_timm_gives_weights_labels_and_preprocessing(timm: SimpleNamespace, name: str) -> None:
    source = zoo.load(f"timm:{name}")
    assert all(torch.equal(tensor, timm.weights[key]) for key, tensor in source.model.state_dict().items())
    assert source.preprocess == replace(PICTURE, interpolation="bicubic")  # 8 / 0.8 = 10
    assert source.labels == CATEGORIES
    assert source.origin == {"kind": "timm", "name": name, "classes": 3}


def test_timm_squashes_where_its_settings_say_so(timm: SimpleNamespace) -> None:
    timm.crop_mode = "squash"
    assert zoo.load("timm:tiny").preprocess.resize is None


def test_timm_rebuilds_and_takes_weights_of_other_classes(timm: SimpleNamespace, tmp_path: Path) -> None:
    other = TinyNet(7)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    source = zoo.load("timm:tiny", str(tmp_path / "other.pth"))
    assert torch.equal(source.model.fc.weight, other.fc.weight)
    assert (source.origin["classes"], source.labels) == (7, ())
    zoo.rebuild(json.loads(json.dumps(source.origin))).load_state_dict(source.model.state_dict())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", "timm has no model 'tinny'. Did you mean 'tiny'?"),
        ("zzz", "timm has no model 'zzz'. timm.list_models() lists them."),
        ("bare", "timm has no weights for bare; give a state dict of timm's bare with --weights FILE"),
        ("headless", "timm's headless has no classifier; take one that has, or give weights with one: --weights FILE"),
    ],
)
def test_timms_models_that_cannot_be_loaded(timm: SimpleNamespace, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        zoo.load(f"timm:{name}")
    assert str(error.value) == message


def test_timm_without_a_network(timm: SimpleNamespace) -> None:
    timm.fails = ConnectionError("no route\nto host")
    with pytest.raises(UserError) as error:
        zoo.load("timm:tiny")
    assert str(error.value) == (
        "the weights of timm's tiny cannot be loaded (ConnectionError: no route); give a state dict of timm's tiny with "
        "--weights FILE"
    )


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_missing_library_names_its_install_line(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, library)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError) as error:
        zoo.load(f"{library}:resnet18")
    assert str(error.value) == f"{library} is not installed; {INSTALL}"


def test_a_missing_dependency_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    breaks(tmp_path, monkeypatch, "timm", "import torchvision_of_nobody")
    with pytest.raises(UserError) as error:
        zoo.load("timm:resnet18")
    assert str(error.value) == f"timm needs torchvision_of_nobody, which is not installed; {INSTALL}"


MISFIT = 'raise RuntimeError("operator torchvision::nms does not exist")'


@pytest.mark.parametrize(("library", "who"), [("torchvision", ""), ("timm", "timm cannot be imported: ")])
def test_a_torchvision_for_another_torch_gives_one_line(library, who, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What happens with PyPI's torchvision beside the CPU build of torch, on its own and through timm."""
    breaks(tmp_path, monkeypatch, library, MISFIT)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError) as error:
        zoo.load(f"{library}:resnet18")
    assert str(error.value) == (
        f"{who}the installed torchvision was not built for torch {torch.__version__} (RuntimeError: operator torchvision::nms "
        "does not exist); install the one that fits: pip install --force-reinstall --no-deps torchvision --index-url "
        "https://download.pytorch.org/whl/cpu"
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match=r"whl/cu130$"):
        zoo.load(f"{library}:resnet18")


def test_a_library_that_hides_the_cause_is_seen_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """transformers raises a ModuleNotFoundError of its own about the model, caused by the operator that is missing."""
    hidden = "raise ModuleNotFoundError('Could not import module Net', name='x') from error"
    code = f"try:\n    {MISFIT}\nexcept RuntimeError as error:\n    {hidden}"
    breaks(tmp_path, monkeypatch, "wrapper", code)
    with pytest.raises(UserError, match=r"^wrapper cannot be imported: the installed torchvision was not built for torch"):
        import_library("wrapper", "wrapper")


def test_another_breakage_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    breaks(tmp_path, monkeypatch, "timm", 'raise OSError("libfoo.so: cannot open shared object file")')
    with pytest.raises(UserError) as error:
        zoo.load("timm:resnet18")
    assert str(error.value) == (
        "timm is installed but cannot be imported (OSError: libfoo.so: cannot open shared object file); "
        "try: pip install --force-reinstall 'compress-toolkit[vision]'"
    )


def real(library: str):
    """The library itself, or a skip that says why it is not tested."""
    try:
        return import_library(library, library.partition(".")[0])
    except UserError as error:
        pytest.skip(f"the real {library} is not tested: {error}")


def test_the_real_torchvision_rebuilds_what_its_weights_are_for(tmp_path: Path) -> None:
    models = real("torchvision.models")
    for name in ("resnet18", "vit_b_16", "googlenet", "inception_v3", "squeezenet1_1", "vgg11"):
        options = torchvision_models._options(name, models.get_model_weights(name).DEFAULT)
        with torch.device("meta"):
            model = torchvision_models._build(name, 7, options)
        assert len(list(model.parameters())[-1]) == 7, name
    torch.save(models.get_model("resnet18", num_classes=7).state_dict(), tmp_path / "w.pth")
    source = zoo.load("torchvision:resnet18", str(tmp_path / "w.pth"))
    assert source.preprocess == Preprocess((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256)
    zoo.rebuild(json.loads(json.dumps(source.origin))).load_state_dict(source.model.state_dict())


def test_the_real_timm(tmp_path: Path) -> None:
    timm = real("timm")
    torch.save(timm.create_model("resnet10t", num_classes=7).state_dict(), tmp_path / "w.pth")
    source = zoo.load("timm:resnet10t.c3_in1k", str(tmp_path / "w.pth"))
    assert source.origin == {"kind": "timm", "name": "resnet10t.c3_in1k", "classes": 7}
    assert source.preprocess.size == (176, 176)
    zoo.rebuild(json.loads(json.dumps(source.origin))).load_state_dict(source.model.state_dict())
    labels = timm_models._labels(timm, SimpleNamespace(num_classes=1000))
    assert (len(labels), labels[0]) == (1000, "tench, Tinca tinca")
