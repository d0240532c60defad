"""Layers that integers make slower here, found by profile and given back to float where the whole file gains by it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import fx, nn

from compress.gauge import Gauge
from compress.measure.profile import layer_times
from compress.quant.graph import layer_of
from compress.quant.targets import WEIGHTED

Layers = tuple[str, ...]
# Smaller gains are within what two measurements of one file differ by, and what a tiny layer loses is not worth a float.
WORTHWHILE = 0.97
LEAST_MS = 0.02
# Layers that a note names.
SHOWN = 3


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

    def notes(self) -> list[str]:
        """What a person should know; nothing where integers are faster throughout."""
        found = []
        if self.layers:
            named = [f"{name} ({after:.2f} ms, in float {before:.2f})" for name, (before, after) in self.layers.items()]
            more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
            found.append(f"in float, since they are slower in integers here: {', '.join(named[:SHOWN])}{more}")
        if self.after * WORTHWHILE > self.before and self.after - self.before >= LEAST_MS:
            found.append(f"SLOWER in integers here: {self.after:.2f} ms, in float {self.before:.2f} ms")
        return found


def slow_layers(
    files: tuple[Path, Path], quantized: fx.GraphModule, quantize: Callable[[Layers], nn.Module], gauge: Gauge
) -> Times:
    """The layers that are slower in integers, and the times that decided.

    A profile of both files proposes: layers whose kernel and conversions take longer in integers, by 0.02 ms or more. The whole
    file decides: they go back to float only if it is at least 3 % faster with them in float.

    Args:
        files: of the float network, and of `quantized`.
        quantize: gives the quantized network with these layers left in float; its ranges do not matter.
    """
    before, after = gauge.latencies_ms(*files)
    layers = tuple(dict.fromkeys(layer_of(node) for node in quantized.graph.nodes if _in_integers(node)))
    slow = slower_in_integers(*files, layers, gauge)
    if slow and len(slow) < len(layers):
        mixed = gauge.write(quantize(tuple(slow)), "mixed")
        now, then = gauge.latencies_ms(files[1], mixed)
        if then <= WORTHWHILE * now:
            return Times(*gauge.latencies_ms(files[0], mixed), slow)
    return Times(before, after)


def _in_integers(node: fx.Node) -> bool:
    """Whether a node of a quantized graph is a convolution or linear layer whose weight has a quantizer."""
    return node.target in WEIGHTED and isinstance(node.args[1], fx.Node) and node.args[1].op == "call_module"


def slower_in_integers(float_file: Path, integer_file: Path, layers: Layers, gauge: Gauge) -> dict[str, tuple[float, float]]:
    """Layers that take longer in the second file than in the first -> milliseconds in both."""
    x = [x[:1].numpy() for x in gauge.example_inputs]
    floats, integers = (layer_times(path, x, layers, gauge.threads) for path in (float_file, integer_file))
    compared = [name for name in layers if name in floats and name in integers]
    return {name: (floats[name], integers[name]) for name in compared if integers[name] - floats[name] >= LEAST_MS}
