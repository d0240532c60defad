"""A torch model as an ONNX file."""

import contextlib
import copy
import functools
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from compress.errors import CompressError, UserError
from compress.files import write_atomically
from compress.onnx_rewrites import rewrite
from compress.outputs import batch_of_two, tensors
from compress.quant.onnx_operators import onnx_translations
from compress.quant.targets import for_amx, target_of
from compress.quiet import quiet

OPSET = 20
IMAGE_AXES = {0: "batch", 2: "height", 3: "width"}


class CaptureError(UserError):
    """`torch.export` cannot follow the model's forward, so that there is no ONNX file of it."""


@dataclass(frozen=True)
class Signature:
    """How a model looks from outside, in torch and in its ONNX file.

    Attributes:
        inputs: names, in the order of `forward`.
        outputs: names, `logits` for a single tensor.
        axes: per input, the dynamic axes and their names; the others are fixed to the example's.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: tuple[dict[int, str], ...]

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """The axes as `torch.export` wants them."""
        return tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in self.axes)


def input_names(model: nn.Module, count: int) -> tuple[str, ...]:
    """`input` for one; the names of `forward`'s parameters for several."""
    if count == 1:
        return ("input",)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple(names[:count]) if len(names) >= count else tuple(f"input_{index}" for index in range(count))


def signature(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Signature:
    """The names and the largest set of dynamic axes with which `model` can be exported.

    Tries batch, height and width, then the batch alone, then none: a layer that flattens a fixed number of pixels, or that
    pools to a fixed grid, leaves only the batch free.

    Raises:
        UserError: the model's forward fails on the example inputs.
        CaptureError: it cannot be captured, even with fixed shapes.
    """
    outputs = run_forward(model, example_inputs)
    names = input_names(model, len(example_inputs))
    batched = batch_of_two(example_inputs)
    full = tuple(IMAGE_AXES if x.ndim == 4 else {0: "batch"} for x in batched)
    choices = [full, tuple({0: "batch"} for _ in batched), tuple({} for _ in batched)]
    failure: Exception | None = None
    for axes in dict.fromkeys(tuple(tuple(a.items()) for a in choice) for choice in choices):
        found = Signature(names, tuple(outputs), tuple(dict(a) for a in axes))
        try:
            with torch.no_grad(), quiet():
                inputs = captured_inputs(model, example_inputs, found)
                program = torch.export.export(model, inputs, dynamic_shapes=found.dynamic_shapes, strict=False)
            if any(2 in part for part in found.axes) and not _takes_other_sizes(model, program.graph, example_inputs):
                continue
            return found
        except Exception as error:  # torch.export raises many kinds
            failure = error
    assert failure is not None
    raise CaptureError(f"{type(model).__name__} cannot be captured by torch.export: {_first_line(failure)}") from failure


def run_forward(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The outputs on the example inputs, by name.

    Raises:
        UserError: an input has no axis for the batch, or the forward fails.
    """
    for number, x in enumerate(example_inputs, 1):
        if x.ndim == 0:
            raise UserError(f"example input {number} is a single number; the first axis of every input is the batch")
    try:
        with torch.no_grad():
            return tensors(model.eval()(*example_inputs))
    except Exception as error:  # a user's forward can raise anything
        shapes = ", ".join(str(tuple(x.shape)) for x in example_inputs)
        raise UserError(f"the model's forward fails on the example inputs of shape {shapes}: {_first_line(error)}") from error


def _takes_other_sizes(model: nn.Module, graph: torch.fx.Graph, example_inputs: tuple[Tensor, ...]) -> bool:
    """Whether the file will work on images of any size, of which torch.export's success is no proof.

    It takes a flattening of h * w pixels for "any h and w with this product", so that one has to try; and torch.onnx
    writes an adaptive pooling to a grid, say 7 x 7, with the windows of the example's size.
    """
    adaptive = (torch.ops.aten.adaptive_avg_pool2d.default, torch.ops.aten.adaptive_max_pool2d.default)
    if any(node.target in adaptive and any(size != 1 for size in node.args[1]) for node in graph.nodes):
        return False
    try:
        with torch.no_grad():
            model(*(x.repeat(1, 1, 2, 2) if x.ndim == 4 else x for x in example_inputs))
    except Exception:  # a user's forward can raise anything
        return False
    return True


def captured_inputs(model: nn.Module, inputs: tuple[Tensor, ...], signature: Signature) -> tuple[Tensor, ...]:
    """What a graph is captured with: at least 2 samples where the batch is free, else one, if the model takes that."""
    if signature.axes[0]:
        return batch_of_two(inputs)
    single = tuple(x[:1] for x in inputs)
    try:
        with torch.no_grad():
            model(*single)
    except Exception:  # a user's forward can raise anything; this one insists on the batch of the example
        return inputs
    return single


def export_onnx(
    model: nn.Module, example_inputs: tuple[Tensor, ...], path: Path, signature: Signature, *, fp16: bool = False
) -> None:
    """Write `model`, which is not changed, to `path`, weights included, completely or not at all.

    Args:
        fp16: in half precision, inputs and outputs too.

    Raises:
        CompressError: torch's exporter failed; the text holds its first line.
        UserError: the file cannot be written.
    """
    inputs = captured_inputs(model, example_inputs, signature)
    if fp16:
        model = copy.deepcopy(model).half()
        inputs = tuple(x.half() if x.is_floating_point() else x for x in inputs)
    _read_operators_once()
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                model.eval(),
                inputs,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(signature.inputs),
                output_names=list(signature.outputs),
                dynamic_shapes=signature.dynamic_shapes,
                custom_translation_table=onnx_translations(),
            )
    except Exception as error:  # the exporter raises many kinds
        cause = error.__cause__ or error
        raise CompressError(f"torch.onnx.export failed on {type(model).__name__}: {_first_line(cause)}") from error
    assert program is not None
    proto = program.model_proto
    rewrite(proto, target_of(model).name, amx=for_amx(model))
    _name_axes(proto, signature)
    proto.doc_string = ""
    for node in proto.graph.node:  # stack traces with the paths of this machine
        del node.metadata_props[:]
    onnx.checker.check_model(proto)
    write_atomically(path, proto.SerializeToString())


def _read_operators_once() -> None:
    """Let torch's exporter keep its table of operators, which it makes at each call from the sources of 500 functions.

    That is a third of the time of a small export. Where another version of torch has no such table, nothing is gained.
    """
    with contextlib.suppress(ImportError, AttributeError):
        torchlib = importlib.import_module("torch.onnx._internal.exporter._registration").onnxscript_apis
        if not hasattr(torchlib.get_torchlib_ops, "cache_info"):
            torchlib.get_torchlib_ops = functools.cache(torchlib.get_torchlib_ops)


def _name_axes(proto: onnx.ModelProto, signature: Signature) -> None:
    """Give the dynamic axes our names, wherever the exporter's symbols stand."""
    renamed: dict[str, str] = {}
    for value, axes in zip(proto.graph.input, signature.axes, strict=True):
        for axis, name in axes.items():
            renamed[value.type.tensor_type.shape.dim[axis].dim_param] = name
    for value in [*proto.graph.input, *proto.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = renamed.get(dim.dim_param, dim.dim_param)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
