"""What keeps a quantized network accurate, in the order in which it has to happen, with a line on what each method did."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx

from compress.quant.adaround import adaround_
from compress.quant.bias_correction import correct_biases_
from compress.quant.equalize import equalize_
from compress.quant.lockstep import float_parameters
from compress.quant.ptq import calibrate
from compress.quant.smooth import smooth_
from compress.quant.weight_ranges import fit_weight_ranges_

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Methods:
    """What is asked for; the options of the pass `int8`, which explains them."""

    equalize: bool = False
    smooth: float | None = None
    bias_correction: bool = False
    rounding: Literal["nearest", "adaround"] = "nearest"
    rounding_steps: int = 500


def rescale_(graph_module: fx.GraphModule, batches: Batches, methods: Methods) -> list[str]:
    """Move ranges between the layers of a folded graph, in place; gives a line for each method."""
    notes = []
    if methods.equalize:
        pairs = len(equalize_(graph_module))
        notes.append(f"equalized {_count(pairs, 'pair')} of layers" if pairs else "equalize found no pair of layers to equalize")
    if methods.smooth is not None:
        norms = len(smooth_(graph_module, batches(), methods.smooth))
        found = f"smoothed what {_count(norms, 'layer norm')} give{'s' * (norms == 1)}, alpha {methods.smooth:g}"
        notes.append(found if norms else "smooth found no layer norm that linear layers alone read")
    return notes


def calibrate_(
    graph_module: fx.GraphModule, batches: Batches, ranges: str, methods: Methods, seed: int = 0
) -> tuple[int, list[str]]:
    """Set ranges, weights and biases of a graph with quantizers, in place; gives the samples seen and a line for each method.

    Args:
        ranges: of activations, see `compress.quant.ptq.calibrate`.
        seed: of learned rounding.
    """
    originals = float_parameters(graph_module)
    notes = []
    if methods.rounding == "adaround":
        fitted = fit_weight_ranges_(graph_module)
        # Of what is rounded to nearest, for a start; the ranges that count are those of the network as it is rounded then.
        if calibrate(graph_module, batches, "minmax") == 0:
            return 0, []
        rounded = adaround_(graph_module, originals, batches, steps=methods.rounding_steps, seed=seed)
        also = f"; the ranges of {fitted} of them by squared error" if fitted else ""
        found = f"learned the rounding of {_count(rounded, 'weight')} in {_count(methods.rounding_steps, 'step')} each{also}"
        notes.append(found if rounded else "adaround found no weight to round")
    samples = calibrate(graph_module, batches, ranges)
    if methods.bias_correction and samples:
        corrected = correct_biases_(graph_module, originals, batches)
        notes.append(
            f"corrected the biases of {_count(corrected, 'layer')}" if corrected else "bias_correction found no bias to correct"
        )
    return samples, notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
