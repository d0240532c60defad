"""Weight-only quantization of linear layers and embeddings to 4 or 8 bits: a smaller file, computed in float."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from compress.artifact import Artifact
from compress.errors import UserError
from compress.passes.captured import quantized
from compress.quant.scheme import Scheme

BITS = (4, 8)
BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class WeightOnly:
    """Weights of linear layers and tables of embeddings as integers of few bits with a scale per block; all else in float.

    For networks whose size is the trouble: no calibration data, no rounding of activations. At 4 bits the weights stay packed
    in ONNX Runtime's memory, too, and the file needs that runtime; at 8 bits it is made of standard operators, and the
    weights are widened to floats when it is opened.

    The BERT of `int8_dynamic`, 90.8 MB and 24.9 ms in float: 14.3 MB at 4 bits in blocks of 32, 12.1 MB with a scale per row,
    23.0 MB at 8 bits with a scale per row, in 24.7 to 25.3 ms. With one row instead of 128, as when text is generated, reading
    the weights is what takes time: six layers of 2048 x 2048 took 3.5 ms at 4 bits, 7.5 in float. MiniLM at 4 bits, on reviews:
    86.7 % of 1,000 sentences in blocks of 32, as in float, and 81.5 % with a scale per row.

    Source: Dettmers, Zettlemoyer 2023, "The case for 4-bit precision: k-bit Inference Scaling Laws", sections 2 and 5;
    Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", section 4
    (grouping). Weights are rounded to nearest.

    Args:
        bits: 4 or 8.
        block_size: inputs of a row that share a scale: 16, 32, 64, 128 or 256; the last block of a row may be shorter. 0 is
            one scale per row, that is per output channel.
        symmetric: the zero of each block is its middle code. Otherwise each block has a zero point of its own, which is
            closer where its values lie to one side.
        exclude: shell patterns of layer names to leave in float.
        allow_noop: no error where there is no linear layer or embedding.
    """

    bits: int = 4
    block_size: int = 32
    symmetric: bool = True
    exclude: tuple[str, ...] = ()
    allow_noop: bool = False

    name: ClassVar[str] = "weight_only"
    stage: ClassVar[str] = "integers"
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UserError(f"{self.name}: bits must be 4 or 8, got {self.bits}")
        if self.block_size not in (0, *BLOCK_SIZES):
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise UserError(f"{self.name}: block_size must be one of {sizes}, or 0 for one scale per row; got {self.block_size}")

    def apply(self, artifact: Artifact) -> nn.Module:
        scheme = Scheme(
            self.exclude,
            self.bits,
            activations="float",
            block_size=self.block_size or None,
            symmetric_weights=self.symmetric,
        )
        model, what = quantized(artifact, scheme, self.name, allow_noop=self.allow_noop)
        if what:
            blocks = f"in blocks of {self.block_size}" if self.block_size else "with a scale per row"
            artifact.notes.append(f"{what} have weights of {self.bits} bits {blocks}, and compute in float")
        return model
