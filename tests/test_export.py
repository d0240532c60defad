"""What the written file looks like from outside, and that it answers as torch does; and what happens where it cannot be written."""

import errno
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import compress
from compress.errors import CompressError, UserError
from compress.export import Signature, batch_of_two, export_onnx, input_names, quiet, signature
from compress.measure import open_onnx
from compress.passes.int8 import Int8
from compress.task import Task
from compress.testing import check_pass


def exported(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> onnx.GraphProto:
    export_onnx(model, inputs, path, signature(model, inputs))
    return onnx.load(path).graph


def axes(values: list[onnx.ValueInfoProto]) -> dict[str, list[str | int]]:
    return {v.name: [dim.dim_param or dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in values}


def agrees(model: nn.Module, path: Path, *inputs: Tensor) -> bool:
    expected = model(*inputs).detach().numpy()
    return np.allclose(open_onnx(path).predict(*inputs), expected, atol=1e-5)


def test_batch_height_and_width_are_free_and_named(residual_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    graph = exported(residual_net, (images[:1],), tmp_path / "m.onnx")  # from a single sample: the batch is free all the same
    assert axes(graph.input) == {"input": ["batch", 3, "height", "width"]}
    assert axes(graph.output) == {"logits": ["batch", 5]}
    for shape in ((8, 3, 8, 8), (1, 3, 8, 8), (3, 3, 20, 13)):
        assert agrees(residual_net, tmp_path / "m.onnx", torch.randn(shape))


def test_a_net_that_flattens_pixels_has_a_free_batch_only(flattening_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    graph = exported(flattening_net, (images,), tmp_path / "m.onnx")
    assert axes(graph.input) == {"input": ["batch", 3, 8, 8]}
    for batch in (1, 2, 5):
        assert agrees(flattening_net, tmp_path / "m.onnx", torch.randn(batch, 3, 8, 8))


def pooling(pool: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pool).eval()


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d((2, 1))])
def test_a_net_that_pools_to_a_grid_has_a_free_batch_only(pool: nn.Module, images: Tensor) -> None:
    # torch.onnx bakes the windows of the example's size into the file: other sizes would give wrong numbers.
    assert signature(pooling(pool), (images,)).axes == ({0: "batch"},)


def test_a_net_that_pools_to_one_pixel_takes_every_size(images: Tensor, tmp_path: Path) -> None:
    assert signature(pooling(nn.AdaptiveAvgPool2d(1)), (images,)).axes == ({0: "batch", 2: "height", 3: "width"},)
    model = pooling(nn.AdaptiveMaxPool2d(1))
    exported(model, (images,), tmp_path / "m.onnx")
    assert agrees(model, tmp_path / "m.onnx", torch.randn(3, 3, 11, 6))


def test_several_inputs_keep_the_names_of_forward(two_input_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    inputs = (images, torch.randn(8, 4))
    graph = exported(two_input_net, inputs, tmp_path / "m.onnx")
    assert axes(graph.input) == {"image": ["batch", 3, "height", "width"], "numbers": ["batch", 4]}
    assert agrees(two_input_net, tmp_path / "m.onnx", torch.randn(1, 3, 5, 6), torch.randn(1, 4))


class TakesAnything(nn.Module):
    def forward(self, *inputs: Tensor, **options: bool) -> Tensor:
        return inputs[0] + inputs[1]


class TakesMore(nn.Module):
    def forward(self, args: Tensor, mask: Tensor, labels: Tensor | None = None, **options: bool) -> Tensor:
        return args + mask


def test_names_of_inputs() -> None:
    assert input_names(TakesMore(), 1) == ("input",)
    assert input_names(TakesMore(), 2) == ("args", "mask")
    assert input_names(TakesMore(), 3) == ("args", "mask", "labels")
    assert input_names(TakesAnything(), 2) == ("input_0", "input_1")


class ManyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> dict[str, object]:
        x = self.conv(x)
        return {"scores": x, "loss": None, "hidden": (x * 2, x + 1)}


def test_a_dictionary_names_the_outputs(images: Tensor, tmp_path: Path) -> None:
    model = ManyOutputs().eval()
    graph = exported(model, (images,), tmp_path / "m.onnx")
    assert [value.name for value in graph.output] == ["scores", "hidden_0", "hidden_1"]
    assert np.allclose(open_onnx(tmp_path / "m.onnx").predict(images), model(images)["scores"].detach(), atol=1e-5)


def test_batch_of_two_repeats_single_samples_only() -> None:
    one, three = torch.randn(1, 2), torch.randn(3, 2)
    doubled, same = batch_of_two((one, three))
    assert torch.equal(doubled, torch.cat([one, one]))
    assert same is three


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 12).flip(1) * 2


def test_a_batch_that_is_written_into_the_model_is_fixed(tmp_path: Path) -> None:
    model, x = FixedBatch(), torch.randn(2, 3, 4)
    assert signature(model, (x,)) == Signature(("input",), ("logits",), ({},))
    assert axes(exported(model, (x,), tmp_path / "m.onnx").input) == {"input": [2, 3, 4]}
    assert agrees(model, tmp_path / "m.onnx", x)


def test_an_input_that_forward_ignores_is_kept(tmp_path: Path) -> None:
    class Ignores(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * 2

    inputs = (torch.randn(2, 3), torch.randn(2, 3))
    assert list(axes(exported(Ignores(), inputs, tmp_path / "m.onnx").input)) == ["x", "mask"]


def test_half_precision_leaves_the_model_as_it_is(residual_net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    export_onnx(residual_net, (images,), tmp_path / "m.onnx", signature(residual_net, (images,)), fp16=True)
    graph = onnx.load(tmp_path / "m.onnx").graph
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert {p.dtype for p in residual_net.parameters()} == {torch.float32}
    assert open_onnx(tmp_path / "m.onnx").predict(images) == pytest.approx(residual_net(images).detach().numpy(), abs=0.02)


class Fails(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        raise ValueError("\n  only grey images\nand a second line")


class AsksData(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if bool((x > 0).all()) else x


def test_a_forward_that_fails_is_told_with_the_shapes() -> None:
    with pytest.raises(UserError) as error:
        signature(Fails(), (torch.zeros(1, 3, 4, 4), torch.zeros(1, 2)))
    assert str(error.value) == (
        "the model's forward fails on the example inputs of shape (1, 3, 4, 4), (1, 2): ValueError: only grey images"
    )


def test_a_forward_that_cannot_be_captured_is_told() -> None:
    with pytest.raises(UserError, match=r"^AsksData cannot be captured by torch.export: \w+: .+$"):
        signature(AsksData(), (torch.zeros(2, 3),))


class NoOnnx(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.airy_ai(x)


def test_an_operator_that_onnx_lacks_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=r"^torch.onnx.export failed on NoOnnx: \w+: .*airy_ai") as error:
        exported(NoOnnx(), (torch.zeros(2, 3),), tmp_path / "m.onnx")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "m.onnx"
    with pytest.raises(UserError) as error:
        exported(nn.Linear(3, 2), (torch.randn(2, 3),), path)
    assert str(error.value) == f"{path} cannot be written: No such file or directory"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError) as error:
        exported(nn.Linear(3, 2), (torch.randn(2, 3),), tmp_path / "m.onnx")
    tmp_path.chmod(0o700)
    assert str(error.value) == f"{tmp_path / 'm.onnx'} cannot be written: Permission denied"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"the old file")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("compress.files.os.fsync", full)
    with pytest.raises(UserError) as error:
        exported(nn.Linear(3, 2), (torch.randn(2, 3),), path)
    assert str(error.value) == f"{path} cannot be written: No space left on device"
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("m.onnx", b"the old file")]


def test_inside_quiet_nothing_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("some.library")
    with quiet():
        print("progress")
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        logger.warning("a package is missing")
        assert not logger.isEnabledFor(logging.WARNING)
        logger.critical("a whole graph")
    assert capfd.readouterr() == ("", "")
    assert logger.isEnabledFor(logging.WARNING)


def test_nothing_is_printed_and_nothing_about_this_machine_written(
    residual_net: nn.Module, images: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    exported(residual_net, (images[:1],), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
    content = (tmp_path / "m.onnx").read_bytes()
    assert not any(word in content for word in (b"/work", b".py", b"conftest", str(Path.cwd()).encode()))


class CountsSamples(nn.Module):
    """Bakes the number of samples into its graph, as Python's `len` does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).mean((2, 3)).expand(len(x), -1))


def test_a_model_that_counts_its_samples_is_written_for_single_samples_and_run_one_by_one(tmp_path: Path) -> None:
    model, x = CountsSamples().eval(), torch.randn(3, 3, 8, 8)
    found = signature(model, (x,))
    path = tmp_path / "model.onnx"
    export_onnx(model, (x,), path, found)
    session = open_onnx(path)
    assert session.inputs[0].shape[0] == 1
    with torch.no_grad():
        np.testing.assert_allclose(session.predict(x), model(x).numpy(), atol=1e-5)


def test_such_a_model_keeps_the_contract_of_a_pass_in_integers() -> None:
    x = torch.randn(3, 3, 8, 8)
    check_pass(Int8(), CountsSamples().eval(), Task((x[:1],), calibration=lambda: [(x,)]))
    run = compress.run(
        CountsSamples().eval(), Task((x,), calibration=lambda: [(x,)]), [Int8()], timing={"min_runs": 2, "min_seconds": 0}
    )
    assert run.report["input_shape"] == [[1, 3, 8, 8]]


def test_the_exporter_s_table_of_operators_is_made_once(
    residual_net: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxscript._internal import ast_utils

    exported(residual_net, (images,), tmp_path / "first.onnx")
    parsed, read = [], ast_utils.get_src_and_ast
    monkeypatch.setattr(ast_utils, "get_src_and_ast", lambda function: parsed.append(function) or read(function))
    exported(residual_net, (images,), tmp_path / "second.onnx")
    assert len(parsed) < 10  # 500 sources at each call without
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
