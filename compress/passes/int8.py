"""Static post-training quantization to 8-bit integers."""

import fnmatch
import tempfile
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import fx, nn

from compress.artifact import Artifact
from compress.errors import PassError, UserError
from compress.gauge import Gauge
from compress.guard import Bound, guarded
from compress.measure import count_macs
from compress.measure.environment import has_amx, saturates
from compress.passes.base import check_range
from compress.passes.captured import captured, gaining_by_amx
from compress.quant.ptq import AUTO, calibrate
from compress.quant.ranges import METHODS
from compress.quant.refine import Methods, calibrate_, rescale_
from compress.quant.samples import first_samples
from compress.quant.scheme import FEWEST_BITS, MOST_BITS, Scheme
from compress.quant.suspects import worst_layers
from compress.quant.targets import ORT_CPU, TARGETS
from compress.slow_layers import slow_layers

# Of the samples that say which layers are tried first; and the limits of the timing loop for each network that is tried.
SAMPLES = 64
TIMING = {"min_seconds": 0.3, "min_runs": 15}
# Below, a whole network takes some hundredths of a millisecond, and no layer loses much by integers.
LEAST_MACS = 1_000_000
ROUNDINGS = ("nearest", "adaround")
# ResNet-20, divergence from the float network without and with bias correction: 1.32 and 0.36 with 3 bits, 0.099 and 0.055 with
# 4, 0.0098 and 0.0045 with 6, 0.0023 and 0.0020 with 8; EfficientNet-Lite0 with 8 bits: 0.0079 and 0.0116.
BITS_TO_CORRECT = 6


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
        weight_bits: 2 to 8. Processors without VNNI need 7, because they saturate in between. None decides by the processor
            at hand. Codes of up to 4 bits are packed two to a byte in the file; the kernels are those of 8 bits, so no
            number of bits makes a network faster.
        bits: shell pattern of layer names -> bits of their weights, instead of `weight_bits`; the last that matches counts.
        per_channel: a scale for each output channel of a weight, rather than one for all of it.
        symmetric: activations with both signs have their zero in the middle of the codes.
        equalize: whether weights of neighbouring layers get alike ranges, see `compress.quant.equalize`.
        smooth: how much of an activation's outliers moves into the weights behind its layer norm, in (0, 1), see
            `compress.quant.smooth`; None leaves them where they are.
        bias_correction: whether biases make up for the mean error of each layer, see `compress.quant.bias_correction`; layers
            without a bias get one. None: where weights of at most 6 bits are rounded to nearest. Above, or with learned
            rounding, there is little to make up for, and outputs of EfficientNet-Lite came out less sure of themselves.
        rounding: of weights, to the nearest code, or as learned layer by layer, see `compress.quant.adaround`, which is worth
            its minutes below 8 bits.
        rounding_steps: of that learning, for each layer, at least 1.
        max_drop: the most points (hundredths) that the score on the validation data may lose against the network before;
            layers go back to float until it holds, see `compress.guard`. None quantizes all of them, whatever it costs.
        keep_slow: whether layers stay in integers that are slower so on this machine, see `compress.slow_layers`. Networks below
            a million MACs are not timed, nor those under `max_drop`, which weighs time by itself.
        target: the runtime that the integers are for, which a run then measures with: `ort-cpu`, or `openvino`, where
            activations are computed inside the layer in front; see `compress.quant.targets`. Single layers are timed for
            `ort-cpu` alone.
        amx: whether convolutions that gain by it are stored for the matrix unit of Intel's processors, where ONNX Runtime then
            computes the same integers in less time, and in more elsewhere; see `compress.onnx_rewrites.amx`. None decides by the
            processor at hand.
        time_budget: seconds after which that search begins no further network; None lets it finish.
        allow_noop: no error where no layer could be quantized.
    """

    exclude: tuple[str, ...] = ()
    ranges: Literal["auto", "mse", "minmax", "moving_average", "percentile", "entropy"] = "auto"
    weight_bits: int | None = None
    bits: dict[str, int] = field(default_factory=dict)
    per_channel: bool = True
    symmetric: bool = False
    equalize: bool = False
    smooth: float | None = None
    bias_correction: bool | None = None
    rounding: Literal["nearest", "adaround"] = "nearest"
    rounding_steps: int = 500
    keep_slow: bool = False
    max_drop: float | None = None
    time_budget: float | None = None
    target: Literal["ort-cpu", "openvino"] = "ort-cpu"
    amx: bool | None = None
    allow_noop: bool = False

    name: ClassVar[str] = "int8"
    stage: ClassVar[str] = "integers"
    needs: ClassVar[tuple[str, ...]] = ("calibration",)

    def __post_init__(self) -> None:
        if self.ranges not in (AUTO, *METHODS):
            raise UserError(f"{self.name}: ranges must be one of {', '.join((AUTO, *METHODS))}, got '{self.ranges}'")
        if self.target not in TARGETS:
            raise UserError(f"{self.name}: target must be one of {', '.join(TARGETS)}, got '{self.target}'")
        if self.amx and self.target != ORT_CPU.name:
            raise UserError(f"{self.name}: amx is how files for ort-cpu are written; target {self.target} has no use for it")
        asked = {"weight_bits": self.weight_bits} if self.weight_bits is not None else {}
        for what, bits in (asked | {f"bits of '{pattern}'": bits for pattern, bits in self.bits.items()}).items():
            if bits not in range(FEWEST_BITS, MOST_BITS + 1):
                raise UserError(f"{self.name}: {what} must be a whole number in [{FEWEST_BITS}, {MOST_BITS}], got {bits}")
        if self.smooth is not None:
            check_range(self.name, "smooth", self.smooth, 0, 1, open_ends=True)
        if self.rounding not in ROUNDINGS:
            raise UserError(f"{self.name}: rounding must be one of {', '.join(ROUNDINGS)}, got '{self.rounding}'")
        if self.rounding_steps < 1:
            raise UserError(f"{self.name}: rounding_steps must be at least 1, got {self.rounding_steps}")
        if self.max_drop is not None:
            check_range(self.name, "max_drop", self.max_drop, 0, 100, open_ends=False)
            object.__setattr__(self, "needs", (*type(self).needs, "validate"))
        if self.time_budget is not None:
            check_range(self.name, "time_budget", self.time_budget, 0, float("inf"), open_ends=True)
            if self.max_drop is None:
                raise UserError(f"{self.name}: time_budget is the time to search within max_drop; give that, too")

    def apply(self, artifact: Artifact) -> nn.Module:
        artifact.model.cpu()  # wherever training ran: the graph is captured, observed and measured on the CPU
        if self.max_drop is not None:
            return self._guarded(artifact, self.max_drop)
        timed = self.target == ORT_CPU.name and not self.keep_slow
        if not timed or count_macs(artifact.model, artifact.task.example_inputs) < LEAST_MACS:
            return self._quantized(artifact)
        return self._fast(artifact)

    def _without(self, in_float: tuple[str, ...]) -> "Int8":
        return replace(self, exclude=(*self.exclude, *map(escape, in_float)))

    def _fast(self, artifact: Artifact) -> nn.Module:
        """The network without the layers that are slower in integers."""

        def plain(in_float: tuple[str, ...]) -> fx.GraphModule:
            """As quick to make as can be: no time depends on ranges and roundings."""
            quick = replace(self, equalize=False, smooth=None, bias_correction=False, rounding="nearest")
            network = quick._without(in_float)._prepared(replace(artifact, notes=[]))
            calibrate(network, lambda: [artifact.task.example_inputs], "minmax")
            return network

        learns, first = self.rounding == "adaround", replace(artifact, notes=[])
        with tempfile.TemporaryDirectory() as scratch:
            folder = artifact.progress or Path(scratch)
            gauge = Gauge(folder, artifact.task.example_inputs, artifact.signature, None, artifact.threads, TIMING)
            before = artifact.file or gauge.write(artifact.model, "float")
            network = plain(()) if learns else self._quantized(first)
            after = gauge.write(network, "integers")
            times = slow_layers((before, after), network, plain, gauge)
        if learns or times.layers:
            network = self._without(tuple(times.layers))._quantized(artifact)
            network.meta["quantization"]["left_in_float"].update(
                dict.fromkeys(times.layers, "slower in integers on this machine")
            )
        else:
            artifact.notes.extend(first.notes)
            artifact.written.extend([after] if artifact.progress is not None else [])
        artifact.notes.extend(times.notes())
        return network

    def _guarded(self, artifact: Artifact, max_drop: float) -> nn.Module:
        """The fastest network found that loses no more than `max_drop` points, or else the best, with notes and all trials."""
        task = artifact.task
        calibration = task.calibration
        assert calibration is not None

        def quantize(in_float: tuple[str, ...]) -> nn.Module:
            # Calibrated anew each time: what a layer reads depends on whether the weights before it are rounded.
            return self._without(in_float)._quantized(replace(artifact, notes=[]))

        def propose(in_float: tuple[str, ...]) -> list[str]:
            network = self._without(in_float)._prepared(replace(artifact, notes=[]))
            return worst_layers(network, lambda: first_samples(network, calibration(), SAMPLES), self.ranges)

        with tempfile.TemporaryDirectory() as scratch:
            gauge = Gauge(
                Path(scratch), task.example_inputs, artifact.signature, task.validate, artifact.threads, TIMING, self.target
            )
            log = artifact.progress / "trials.jsonl" if artifact.progress is not None else None
            found = guarded(artifact.model, quantize, propose, gauge, Bound(max_drop / 100, self.time_budget), log)
        chosen = self._without(found.chosen.in_float)._quantized(artifact)
        artifact.notes.append(found.summary())
        artifact.details["guard"] = found.to_dict()
        chosen.meta["quantization"]["left_in_float"].update(dict.fromkeys(found.chosen.in_float, "kept for the accuracy"))
        return chosen

    def _quantized(self, artifact: Artifact) -> fx.GraphModule:
        assert artifact.task.calibration is not None
        graph_module = self._prepared(artifact)
        seed = torch.initial_seed() % 2**32
        samples, notes = calibrate_(graph_module, artifact.task.calibration, self.ranges, self._methods(), seed)
        if samples == 0:
            raise PassError(f"{self.name}: the calibration data are empty")
        artifact.notes.extend([f"ranges from {samples} calibration samples", *notes])
        return graph_module

    def _methods(self) -> Methods:
        fewest = min(self.weight_bits or MOST_BITS, *self.bits.values(), MOST_BITS)
        correct = self.bias_correction
        if correct is None:
            correct = self.rounding == "nearest" and fewest <= BITS_TO_CORRECT
        return Methods(self.equalize, self.smooth, correct, self.rounding, self.rounding_steps)

    def _prepared(self, artifact: Artifact) -> fx.GraphModule:
        """The graph with its quantizers, not calibrated."""
        bits = self.weight_bits or (7 if saturates() else MOST_BITS)
        methods = self._methods()
        amx = self.target == ORT_CPU.name and (has_amx() if self.amx is None else self.amx)
        scheme = Scheme(
            self.exclude, bits, self.bits, self.per_channel, self.symmetric, methods.bias_correction, target=self.target, amx=amx
        )
        calibration = artifact.task.calibration
        assert calibration is not None
        graph_module, placement = captured(
            artifact, scheme, lambda graph: artifact.notes.extend(rescale_(graph, calibration, methods))
        )
        for option, patterns in (("exclude", self.exclude), ("bits", self.bits)):
            unknown = [pattern for pattern in patterns if not fnmatch.filter(placement.layers, pattern)]
            if unknown:
                raise UserError(f"{self.name}: {option} '{unknown[0]}' matches no convolution or linear layer")
        if self.weight_bits is None and bits < MOST_BITS:
            artifact.notes.append(f"{bits}-bit weights: this processor has no VNNI, and 8-bit products would saturate")
        if amx and (count := gaining_by_amx(graph_module)):
            artifact.notes.append(f"{count} convolution{'s' * (count > 1)} stored for AMX, with the zero point of weights at -1")
        return graph_module
