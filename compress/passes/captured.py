"""What the passes that quantize without calibration share: the captured graph, and what the store needs to rebuild it."""

import fnmatch

from torch import nn

from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.export import captured_inputs
from compress.quant.placement import Placement
from compress.quant.ptq import prepare
from compress.quant.scheme import Scheme
from compress.store import structure_of


def quantized(artifact: Artifact, scheme: Scheme, what: str, *, allow_noop: bool) -> tuple[nn.Module, str]:
    """The artefact's model, moved to the CPU, as a graph with all quantizers set; and what they are on, for a note.

    Args:
        what: the pass, for messages.
        allow_noop: where nothing can be quantized, give back the model as it is, and an empty text.

    Raises:
        UserError: a pattern of `scheme.exclude` matches no layer.
        PassError: nothing can be quantized.
    """
    model, signature = artifact.model.cpu(), artifact.signature
    inputs = captured_inputs(model, artifact.task.example_inputs, signature)
    structure = structure_of(model, artifact.reference)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    graph_module, placement = prepare(model, inputs, scheme, dynamic_shapes=signature.dynamic_shapes)
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
    graph_module.meta["quantization"] = {
        **scheme.to_dict(),
        "inputs": [[list(x.shape), str(x.dtype).removeprefix("torch.")] for x in inputs],
        "axes": [list(axes) for axes in signature.axes],
        "float_shapes": shapes,
        "left_in_float": placement.left_in_float,
        "structure": structure,
    }
    return graph_module, _counted(placement)


def _counted(placement: Placement) -> str:
    """`36 linear layers and 3 embeddings`, of those quantized."""
    parts = [(len(placement.weights), "linear layer"), (len(placement.tables), "embedding")]
    return " and ".join(f"{count} {what}{'s' if count > 1 else ''}" for count, what in parts if count)
