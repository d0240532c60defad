"""Layers that integers make slower here, found by profile and given back to float where the whole file gains by it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import fx, nn

from compress.gauge import Gauge
from compress.measure.profile import layer_times

# Smaller gains are within what two measurements of one file differ by.
WORTHWHILE = 0.97


@dataclass(frozen=True)
class Times:
    """Milliseconds of single samples, p50.

    Attributes:
        before, after: of the float network and of the quantized one, timed side by side.
        layers: those given back to float -> (in float, in integers), each with its conversions.
    """

    before: float
    after: float
    layers: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def without_slow_layers(
    model: nn.Module, quantize: Callable[[tuple[str, ...]], fx.GraphModule], layers: tuple[str, ...], gauge: Gauge
) -> tuple[fx.GraphModule, Times]:
    """The quantized network with those layers in float that are slower in integers, and the times that decided.

    A profile of both files proposes: layers whose kernel and conversions take longer in integers. The whole file decides: they
    go back to float only if it is at least 3 % faster with them in float.

    Args:
        model: the float network.
        quantize: gives the quantized network with these layers left in float.
        layers: names of all that are quantized.
    """
    quantized = quantize(())
    files = gauge.write(model, "float"), gauge.write(quantized, "integers")
    before, after = gauge.latencies_ms(*files)
    slow = slower_in_integers(*files, layers, gauge)
    if slow and len(slow) < len(layers):
        candidate = quantize(tuple(slow))
        now, then = gauge.latencies_ms(files[1], gauge.write(candidate, "mixed"))
        if then <= WORTHWHILE * now:
            return candidate, Times(before, after * then / now, slow)
    return quantized, Times(before, after)


def slower_in_integers(
    float_file: Path, integer_file: Path, layers: tuple[str, ...], gauge: Gauge
) -> dict[str, tuple[float, float]]:
    """Layers that take longer in the second file than in the first -> milliseconds in both."""
    x = [x[:1].numpy() for x in gauge.example_inputs]
    floats, integers = (layer_times(path, x, layers, gauge.threads) for path in (float_file, integer_file))
    return {name: (floats[name], integers[name]) for name in layers if integers.get(name, 0) > floats.get(name, float("inf"))}
