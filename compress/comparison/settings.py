"""What runs must share to be measured by one baseline: the network that they started from, the data, and the machine."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from compress.comparison.results import Result

WORDS: Mapping[str, str] = {
    "model": "model",
    "weights": "weights",
    "input_size": "input",
    "data": "data",
    "eval_samples": "evaluation samples",
    "original": "original",
    "machine": "machine",
}


@dataclass(frozen=True)
class Setting:
    """Runs are averaged, and ratios are taken, only within one of these.

    Attributes:
        weights: file that the run started from, where its recipe names one.
        input_size: shape of each input with batch 1, such as `1x3x48x48`.
        eval_samples: that accuracy was computed on; None without evaluation data.
        original: parameters, MACs and accuracy of the network before the first pass. They tell networks apart that have one
            name, and data that were given as Python objects.
        machine: processor with its instruction sets, runtime with its version, batch and threads: what latency depends on.
    """

    model: str
    weights: str | None
    input_size: str
    data: str | None
    eval_samples: int | None
    original: str
    machine: str

    def __str__(self) -> str:
        scored = "not scored" if self.eval_samples is None else f"{self.eval_samples} evaluation samples"
        weights = f" ({self.weights})" if self.weights else ""
        return f"{self.model}{weights} on {self.data or 'data of its own'}, {scored}, input {self.input_size}; {self.machine}"

    def against(self, other: "Setting") -> str:
        """What of this one is not as in the other, with both values, and which figures can therefore not be compared."""
        names = [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]
        if not {"original", "machine"}.issuperset(names):
            names = [name for name in names if name != "original"]  # another one is what the others lead to
        both = [(WORDS[name], _shown(getattr(self, name)), _shown(getattr(other, name))) for name in names]
        unlike = [f"{word} ({mine}, not {theirs})" for word, mine, theirs in both]
        # Data without a name may be other data wherever the network is another.
        scored = all(getattr(self, name) == getattr(other, name) for name in ("data", "eval_samples"))
        scored = scored and (self.data is not None or self.original == other.original)
        apart = [what for what, same in (("accuracy", scored), ("latency", self.machine == other.machine)) if not same]
        return "; ".join(unlike) + (f": {' and '.join(apart)} cannot be compared" if apart else "")


def setting_of(result: Result) -> Setting:
    """The setting that a run was measured in."""
    report, first = result.report, result.report["stages"][0]
    accuracy = "" if first["accuracy"] is None else f"{100 * first['accuracy']:.6g} %, "
    return Setting(
        model=report["model"],
        weights=result.weights,
        input_size=", ".join("x".join(map(str, shape)) for shape in report["input_shape"]),
        data=report["data"],
        eval_samples=first["eval_samples"],
        original=f"{accuracy}{first['params']} parameters, {first['macs']} MACs",
        machine=_machine(report["environment"], first["latency_ms"]),
    )


def _machine(environment: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    runtime, versions = latency["runtime"], environment["versions"]
    package = "openvino" if runtime == "openvino" else "onnxruntime"
    version = next((versions[name] for name in (package, f"{package}-gpu") if name in versions), "of unknown version")
    flags = " ".join(environment["isa_flags"]) or "unknown instruction sets"
    threads = f"{latency['threads']} thread" + ("s" if latency["threads"] != 1 else "")
    return f"{environment['cpu']} ({flags}), {runtime} {version}, batch {latency['batch']}, {threads}"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
