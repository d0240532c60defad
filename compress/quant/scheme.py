"""Everything that decides the structure of a quantized graph, as plain data that a manifest holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, Literal

from compress.quant.targets import ORT_CPU

FEWEST_BITS, MOST_BITS = 2, 8


@dataclass(frozen=True)
class Scheme:
    """How the numbers of a network become integers.

    Args:
        exclude: shell patterns of layer names to leave in float.
        weight_bits: 2 to 8, of all layers that `layer_bits` does not name. Codes are stored as int8.
        layer_bits: shell pattern of layer names -> 2 to 8; the last that matches counts.
        per_channel: a scale per output channel of a weight, rather than one for all of it. The table of an embedding always has
            one per row.
        symmetric: activations that take both signs have their zero in the middle of the 256 codes.
        biases: every quantized layer has a bias, where it had none a bias of zeros; bias correction needs it.
        activations: `static`: rounded over ranges that calibration found; `dynamic`: over the range of the tensor at hand, for
            linear layers alone; `float`: not at all, and only the weights of linear layers and embeddings are rounded, to
            codes with a scale per block.
        block_size: with `float`, how many inputs of a row share a scale; None for all of them.
        symmetric_weights: with `float`, the zero of each block is its middle code.
        target: the runtime that the integers are for, a name in `compress.quant.targets.TARGETS`.
        amx: whether convolutions are exported for the matrix unit of the processor, see `compress.onnx_rewrites.amx`.
    """

    exclude: tuple[str, ...] = ()
    weight_bits: int = MOST_BITS
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    per_channel: bool = True
    symmetric: bool = False
    biases: bool = False
    activations: Literal["static", "dynamic", "float"] = "static"
    block_size: int | None = None
    symmetric_weights: bool = True
    target: str = ORT_CPU.name
    amx: bool = False

    def excludes(self, layer: str) -> bool:
        """Whether a layer is to stay in float."""
        return any(fnmatchcase(layer, pattern) for pattern in self.exclude)

    def bits_of(self, layer: str, *, is_table: bool = False) -> int:
        """How many bits the codes of a layer's weight have.

        A table that no pattern names has 8 beside integer activations: nothing learns its rounding, and no sum saturates.
        """
        named = [bits for pattern, bits in self.layer_bits.items() if fnmatchcase(layer, pattern)]
        others = MOST_BITS if is_table and self.activations != "float" else self.weight_bits
        return named[-1] if named else others

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "exclude": list(self.exclude),
            "weight_bits": self.weight_bits,
            "layer_bits": dict(self.layer_bits),
            "per_channel": self.per_channel,
            "symmetric": self.symmetric,
            "biases": self.biases,
            "activations": self.activations,
            "block_size": self.block_size,
            "symmetric_weights": self.symmetric_weights,
            "target": self.target,
            "amx": self.amx,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Scheme":
        """From what `to_dict` gave; other keys are ignored, and missing ones have their default."""
        values = {each.name: plain[each.name] for each in fields(cls) if each.name in plain}
        return cls(**{**values, "exclude": tuple(values.get("exclude", ()))})
