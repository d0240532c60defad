"""What the passes that quantize share: the captured graph with its quantizers, and what the store needs to rebuild it."""

import fnmatch
from collections.abc import Callable

from torch import fx, nn

from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.export import captured_inputs
from compress.onnx_rewrites.amx import FEWEST_BITS, gains
from compress.quant.parameters import groups_of, parameter, reads_alone, weight_quantizer
from compress.quant.placement import Placement
from compress.quant.ptq import check_weights, folded, insert_quantizers
from compress.quant.scheme import Scheme
from compress.store import structure_of


def captured(
    artifact: Artifact, scheme: Scheme, rescale: Callable[[fx.GraphModule], None] = lambda graph_module: None
) -> tuple[fx.GraphModule, Placement]:
    """The artefact's model, moved to the CPU, as a graph with its quantizers, whose ranges are not set.

    Its `meta["quantization"]` has what the store needs to rebuild the graph, beside the numbers in the state dict, and the
    report to explain it.

    Args:
        rescale: called with the folded graph before the quantizers of weights cover the weights.

    Raises:
        UserError: the forward cannot be captured, or a weight holds NaN or infinity.
    """
    model, signature = artifact.model.cpu(), artifact.signature
    inputs = captured_inputs(model, artifact.task.example_inputs, signature)
    structure = structure_of(model, artifact.reference)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    graph_module = folded(model, inputs, signature.dynamic_shapes, scheme.target)
    rescale(graph_module)
    placement = insert_quantizers(graph_module, scheme)
    check_weights(graph_module, placement)
    graph_module.meta["quantization"] = {
        **scheme.to_dict(),
        "inputs": [[list(x.shape), str(x.dtype).removeprefix("torch.")] for x in inputs],
        "axes": [list(axes) for axes in signature.axes],
        "float_shapes": shapes,
        "left_in_float": placement.left_in_float,
        "structure": structure,
    }
    return graph_module, placement


def quantized(artifact: Artifact, scheme: Scheme, what: str, *, allow_noop: bool) -> tuple[nn.Module, str]:
    """The artefact's model as a graph whose quantizers need no calibration; and what they are on, for a note.

    Args:
        what: the pass, for messages.
        allow_noop: where nothing can be quantized, give back the model as it is, and an empty text.

    Raises:
        UserError: a pattern of `scheme.exclude` matches no layer.
        PassError: nothing can be quantized.
    """
    model = artifact.model
    graph_module, placement = captured(artifact, scheme)
    for pattern in scheme.exclude:
        if not fnmatch.filter(placement.layers, pattern):
            raise UserError(f"{what}: exclude '{pattern}' matches no linear layer or embedding")
    if not placement.weights and not placement.tables:
        if allow_noop:
            return model, ""
        raise PassError(
            f"{what} found no linear layer or embedding to quantize in {type(model).__name__}; the pass int8 takes convolutions, "
            "too, and the option allow_noop lets the network pass as it is"
        )
    return graph_module, _counted(placement)


def _counted(placement: Placement) -> str:
    """`36 linear layers and 3 embeddings`, of those quantized."""
    parts = [(len(placement.weights), "linear layer"), (len(placement.tables), "embedding")]
    return " and ".join(f"{count} {what}{'s' if count > 1 else ''}" for count, what in parts if count)


def gaining_by_amx(graph_module: fx.GraphModule) -> int:
    """How many convolutions of a graph with quantizers are stored for the matrix unit, see `compress.onnx_rewrites.amx`.

    A weight that something else reads, too, stays as it is.
    """
    found = 0
    for node in graph_module.graph.nodes:
        quantizer = weight_quantizer(graph_module, node)
        if quantizer is None or quantizer.bits < FEWEST_BITS:
            continue
        rounded = node.args[1]
        if len(rounded.users) == 1 and reads_alone(graph_module, rounded.args[0]):
            found += gains(parameter(graph_module, rounded).shape, groups_of(node))
    return found
