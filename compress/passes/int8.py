"""Static post-training quantization to 8-bit integers, for ONNX Runtime's integer kernels."""

import fnmatch
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.export import captured_inputs
from compress.measure.environment import saturates
from compress.quant.ptq import AUTO, calibrate, prepare
from compress.quant.ranges import METHODS
from compress.store import structure_of


@dataclass(frozen=True)
class Int8:
    """Weights as int8 with a scale per output channel, activations as uint8 with a scale per tensor.

    Batch norm is folded into the convolutions first. Residual additions and pooling stay in integers.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference"; Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 3.

    Args:
        exclude: shell patterns of layer names to leave in float.
        ranges: how each activation's range is chosen, see `compress.quant.ranges`: `minmax` keeps every value seen;
            `moving_average`, `percentile` (99.99 % of the values), `entropy` and `mse` clip; `auto` takes for each tensor
            the one of these that changes the outputs of the layers behind it least.
        weight_bits: 8; or 7, which processors without VNNI need, because they saturate in between. None decides by the
            processor at hand.
        allow_noop: no error where no layer could be quantized.
    """

    exclude: tuple[str, ...] = ()
    ranges: Literal["auto", "mse", "minmax", "moving_average", "percentile", "entropy"] = "mse"
    weight_bits: Literal[7, 8] | None = None
    allow_noop: bool = False

    name: ClassVar[str] = "int8"
    stage: ClassVar[str] = "integers"
    needs: ClassVar[tuple[str, ...]] = ("calibration",)

    def __post_init__(self) -> None:
        if self.ranges not in (AUTO, *METHODS):
            raise UserError(f"{self.name}: ranges must be one of {', '.join((AUTO, *METHODS))}, got '{self.ranges}'")
        if self.weight_bits not in (None, 7, 8):
            raise UserError(f"{self.name}: weight_bits must be 7, 8 or none, got {self.weight_bits}")

    def apply(self, artifact: Artifact) -> nn.Module:
        # On the CPU, wherever training ran: that is where the graph is captured, observed and measured.
        model, signature = artifact.model.cpu(), artifact.signature
        assert artifact.task.calibration is not None
        bits = self.weight_bits or (7 if saturates() else 8)
        example = artifact.task.example_inputs
        inputs = captured_inputs(model, example, signature)
        structure = structure_of(model, artifact.reference)
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        graph_module, placement = prepare(
            model, inputs, exclude=self.exclude, weight_bits=bits, dynamic_shapes=signature.dynamic_shapes
        )
        unknown = [pattern for pattern in self.exclude if not fnmatch.filter(placement.layers, pattern)]
        if unknown:
            raise UserError(f"{self.name}: exclude '{unknown[0]}' matches no convolution or linear layer")
        samples = calibrate(graph_module, artifact.task.calibration, self.ranges)
        if samples == 0:
            raise PassError(f"{self.name}: the calibration data are empty")
        artifact.notes.append(f"ranges from {samples} calibration samples")
        if bits == 7:
            artifact.notes.append("7-bit weights: this processor has no VNNI, and 8-bit products would saturate")
        # What the store needs to rebuild this graph, beside the numbers in the state dict, and the report to explain it.
        graph_module.meta["quantization"] = {
            "exclude": list(self.exclude),
            "weight_bits": bits,
            "inputs": [[list(x.shape), str(x.dtype).removeprefix("torch.")] for x in inputs],
            "axes": [list(axes) for axes in signature.axes],
            "float_shapes": shapes,
            "left_in_float": placement.left_in_float,
            "structure": structure,
        }
        return graph_module
