"""Weight files: what is understood, and what is refused without ever running it."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compress.errors import UserError
from compress.sources.weights import classes_in, load_weights_, read_weights


def tiny() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 5))


class RunsCode:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = str(proof)

    def __reduce__(self):
        return Path.touch, (Path(self.proof),)


def same(state: dict, other: dict) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "best_prec1": 91.7},
    ],
    ids=["plain", "state_dict", "model", "module.", "both"],
)
def test_the_ways_in_which_training_scripts_save(tmp_path: Path, wrap) -> None:
    state = tiny().state_dict()
    torch.save(wrap(state), tmp_path / "a.pth")
    assert same(read_weights(tmp_path / "a.pth"), state)


def test_safetensors_and_half_precision(tmp_path: Path) -> None:
    state = tiny().state_dict()
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file(half, tmp_path / "a.safetensors")
    read = read_weights(tmp_path / "a.safetensors")
    assert same(read, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in half.items()})
    assert read["0.weight"].dtype == torch.float32


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, proof = tmp_path / "a.pth", tmp_path / "proof"
    torch.save({"0.weight": RunsCode(proof)}, path)
    with pytest.raises(UserError) as error:
        read_weights(path)
    assert str(error.value) == (
        f"{path} cannot be loaded as a state dict: it holds more than tensors, and unpickling it could run code; "
        "save the state dict alone"
    )
    assert not proof.exists()
    pickle.loads(pickle.dumps(RunsCode(proof)))  # the trap does work
    assert proof.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(tiny(), tmp_path / "a.pth")
    with pytest.raises(
        UserError, match="it holds more than tensors, and unpickling it could run code; save the state dict alone"
    ):
        read_weights(tmp_path / "a.pth")


def test_torn_missing_and_other_files(tmp_path: Path) -> None:
    gone, torn, torn_safe, other = (tmp_path / name for name in ("gone.pth", "torn.pth", "torn.safetensors", "list.pth"))
    torch.save(tiny().state_dict(), torn)
    torn.write_bytes(torn.read_bytes()[:1000])
    torn_safe.write_bytes(b"x" * 100)
    torch.save([torch.ones(1)], other)
    expected = {
        gone: f"no such weight file: {gone}",
        torn: f"{torn} cannot be loaded as a state dict: it is torn, or not a file that torch.save wrote",
        other: f"{other} cannot be loaded as a state dict: it holds a list, not names with tensors",
    }
    for path, message in expected.items():
        with pytest.raises(UserError) as error:
            read_weights(path)
        assert str(error.value) == message
    with pytest.raises(UserError) as error:
        read_weights(torn_safe)
    assert str(error.value).startswith(f"{torn_safe} cannot be read as safetensors: ")


def test_loading_fills_every_tensor(tmp_path: Path) -> None:
    model, other = tiny(), tiny()
    load_weights_(model, other.state_dict(), "a.pth")
    assert same(model.state_dict(), other.state_dict())


def test_old_files_without_a_count_of_batches_fit() -> None:
    state = {name: tensor for name, tensor in tiny().state_dict().items() if not name.endswith("num_batches_tracked")}
    load_weights_(tiny(), state, "a.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("3.bias"), "'3.bias' is missing (1 of 9 are)"),
        (lambda s: s.update({"3.biass": torch.ones(5)}), "it has '3.biass', which the model has not. Did you mean '3.bias'?"),
        (lambda s: s.update({"3.bias": torch.ones(7)}), "'3.bias' has shape (7,) in the file, (5,) in the model"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_what_does_not_fit_is_named(change, message: str) -> None:
    state = tiny().state_dict()
    change(state)
    with pytest.raises(UserError) as error:
        load_weights_(tiny(), state, "a.pth")
    assert str(error.value) == f"a.pth does not fit Sequential: {message}"


def test_nan_is_refused() -> None:
    state = tiny().state_dict()
    state["0.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError) as error:
        load_weights_(tiny(), state, "a.pth")
    assert str(error.value) == "a.pth holds a NaN or an infinity in '0.weight'"


def test_the_number_of_classes_is_the_rows_of_the_only_matrix() -> None:
    assert classes_in(tiny().state_dict()) == 5
    assert classes_in({"0.weight": torch.ones(2, 2, 3, 3)}) is None
    assert classes_in({"0.weight": torch.ones(2, 2), "1.weight": torch.ones(5, 2)}) is None
