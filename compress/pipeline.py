"""The loop: check everything first, then for each pass fork, apply, verify, measure, commit."""

import contextlib
import copy
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress import workers
from compress.artifact import Artifact, Record
from compress.errors import CompressError, PassError, UserError
from compress.export import export_onnx
from compress.measure import count_macs, count_nonzero, count_parameters, open_onnx, time_one
from compress.measure.environment import available_cores
from compress.measure.latency import Latency
from compress.measure.runtimes import check_installed
from compress.outputs import tensors
from compress.passes.base import ORDER, Pass
from compress.pruning.oracle import watched
from compress.quant.ptq import quantizers_in
from compress.quant.targets import ORT_CPU, TARGETS
from compress.task import Predict, Task

HOW_TO_GIVE = {
    "calibration": "give Task(calibration=...), or --data with a data set",
    "train": "give Task(train=...), or --data with training images; recovery after --prune can be left out with --no-finetune",
    "evaluate": "give Task(evaluate=...), or --data with a data set",
    "validate": "give Task(validate=...), or --data with training images",
}

MODEL = "model.onnx"  # in the folder of a stage
CONTROL = "_control"  # behind the name of a pass in the row of its training without a teacher

# Stage -> the stages that may stand anywhere before it. Recovery alternates with structure, and then with zeros, which
# training holds; structure would move them. Nothing trains what is clustered, and integers are last.
_FLOATS = {"structure", "sparsify", "recover"}
MAY_FOLLOW = {
    "structure": {"structure", "recover"},
    "sparsify": _FLOATS,
    "recover": _FLOATS,
    "cluster": _FLOATS | {"cluster"},
    "integers": _FLOATS | {"cluster"},
}


def check(passes: Sequence[Pass], task: Task) -> None:
    """Say, before anything runs, what cannot work: no pass, an illegal order, something the task lacks.

    Raises:
        UserError: names the pass, and what would be right.
    """
    check_choice(passes)
    for pass_ in passes:
        for need in pass_.needs:
            if getattr(task, need) is None:
                raise UserError(f"{pass_.name} needs {need} data, and the task has none; {HOW_TO_GIVE[need]}")


def check_choice(passes: Sequence[Pass]) -> None:
    """The part of `check` that needs no task, so that a typing mistake is told before a model is loaded."""
    if not passes:
        raise UserError("no pass was asked for; say what to do, for example --prune 0.5 --int8")
    for pass_ in passes:
        if not isinstance(pass_, Pass):
            raise UserError(f"{pass_!r} is not a pass: it needs name, stage, needs and apply(artifact)")
        if pass_.stage not in ORDER:
            raise UserError(f"{pass_.name}: stage '{pass_.stage}' is unknown; it is one of {', '.join(ORDER)}")
    for before, after in combinations(passes, 2):
        if before.stage not in MAY_FOLLOW[after.stage]:
            raise UserError(f"{after.name} cannot come after {before.name}; the order is {', then '.join(ORDER)}")
        if before.stage == "cluster" and "train" in after.needs:
            raise UserError(f"{after.name} cannot come after {before.name}: it trains, and shared values would part; use int8")


def rehearse(passes: Sequence[Pass], model: nn.Module, task: Task) -> None:
    """Let each pass that can, such as one that needs a teacher, find out before anything runs what it would stumble over.

    Raises:
        UserError: it would.
    """
    for pass_ in passes:
        if hasattr(pass_, "rehearse"):
            pass_.rehearse(model, task)


def runtime_of(passes: Sequence[Pass]) -> str:
    """What a run measures with: the runtime that its integers are for, else ONNX Runtime on the CPU.

    Raises:
        UserError: it is not installed.
    """
    asked = [target for pass_ in passes if (target := getattr(pass_, "target", None)) in TARGETS]
    runtime = str(asked[-1]) if asked else ORT_CPU.name
    check_installed(runtime)
    return runtime


def options_of(pass_: Pass | None) -> dict[str, Any]:
    """A pass's options as plain data, every default written out; nothing of no pass."""
    if not is_dataclass(pass_):
        return {}
    values = {field.name: getattr(pass_, field.name) for field in fields(pass_)}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """An option as a recipe can hold it; of a module, which none can, its class."""
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__}"
    return list(value) if isinstance(value, tuple) else value


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random: a pass starts from the same numbers whether or not the run was interrupted."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - users' own loaders draw from the global generator
    random.seed(seed)


@dataclass(frozen=True)
class Meter:
    """Measures a stage: writes its ONNX file, and runs that.

    Args:
        threads: of the runtime while it is timed; accuracy is computed with all cores.
        limits: of the timing loop, see `time_interleaved`; a test shortens it.
        runtime: that runs the files, see `open_onnx`.
    """

    threads: int
    limits: dict[str, float]
    runtime: str = "ort-cpu"

    def measure(self, name: str, artifact: Artifact, path: Path, options: dict[str, Any], seconds: float) -> Record:
        """Export `artifact.model` to `path`, or move its file there, and fill in a row of the table.

        Raises:
            UserError: the model takes batches of one size above 1 alone.
        """
        example, model = artifact.task.example_inputs, artifact.model
        if not artifact.signature.axes[0] and len(example[0]) > 1:  # else it would hold a single sample
            raise UserError(
                f"the forward of {type(artifact.reference).__name__} takes batches of {len(example[0])} alone, and a run times "
                "single samples; let it take any number, such as by x.flatten(1) where it calls x.reshape with that number"
            )
        if artifact.file is None:
            export_onnx(model, example, path, artifact.signature)
        else:
            artifact.file.replace(path)
        session = open_onnx(path, self.runtime, self.threads)
        single = [x[:1].numpy() for x in example]
        times = Latency(time_one(lambda: session.run(*single), **self.limits), 1, session.runtime, self.threads)
        accuracy, samples = evaluated(artifact.task, open_onnx(path, self.runtime, available_cores()).predict)
        return Record(
            name=name,
            options=options,
            seconds=round(seconds, 3),
            accuracy=accuracy,
            eval_samples=samples,
            params=count_parameters(model),
            nonzero_params=count_nonzero(model),
            macs=count_macs(model, example),
            size_bytes=path.stat().st_size,
            latency_ms=latency_row(times),
            notes=tuple(artifact.notes),
            details=artifact.details,
        )


def latency_row(times: Latency) -> dict[str, Any]:
    """The form in which a report holds a latency."""
    percentiles = {f"p{percent}": round(times.percentile(percent), 4) for percent in (50, 90, 99)}
    return {**percentiles, "batch": times.batch, "runtime": times.runtime, "threads": times.threads}


def evaluated(task: Task, predict: Predict) -> tuple[float | None, int | None]:
    """The task's score of a prediction function, and how many samples it sent; None, None without evaluation data."""
    if task.evaluate is None:
        return None, None
    samples = 0

    def counting(*inputs: Tensor | np.ndarray) -> np.ndarray:
        nonlocal samples
        samples += len(inputs[0])
        return predict(*inputs)

    score = float(task.evaluate(counting))
    if not math.isfinite(score):
        raise CompressError(f"Task.evaluate gave {score}; a finite number is needed")
    return score, samples


def apply(pass_: Pass, model: nn.Module, task: Task, *, seed: int = 0, device: str | torch.device = "cpu") -> nn.Module:
    """One pass on a plain module, transactionally: `model` itself is never changed, and a broken result is never returned.

    >>> from compress.passes.prune_channels import PruneChannels
    >>> from compress.testing import tiny_model, tiny_task
    >>> model = tiny_model()
    >>> smaller = apply(PruneChannels(ratio=0.5), model, tiny_task())
    >>> model.stem.out_channels, smaller.stem.out_channels
    (16, 8)

    Raises:
        UserError: the task lacks what the pass needs.
        PassError: the result fails a post-condition.
    """
    check([pass_], task)
    return transformed(pass_, Artifact.start(model, task), seed, torch.device(device)).model


def transformed(pass_: Pass, artifact: Artifact, seed: int, device: torch.device) -> Artifact:
    """The artefact after a pass, verified, on the CPU; the given one is untouched."""
    seed_everything(seed)
    fork = replace(artifact, model=copy.deepcopy(artifact.model).to(device), notes=[], details={}, written=[])
    model = pass_.apply(fork)
    if not isinstance(model, nn.Module):
        raise PassError(f"{pass_.name} returned a {type(model).__name__}, not a module; the model from before stands")
    # One layout whether the model comes from memory or from disk: the layout decides the order of float sums.
    model = model.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    verify(pass_, artifact, model)
    last_float = artifact.last_float if quantizers_in(model) else model
    return replace(fork, model=model, last_float=last_float, file=fork.written[-1] if fork.written else None)


def verify(pass_: Pass, before: Artifact, model: nn.Module) -> None:
    """The post-conditions of a pass: the forward runs, outputs keep names and shapes, all is finite, something changed.

    Raises:
        PassError: names the pass and what failed; the caller still holds the model from before.
    """
    stands = "the model from before stands"
    example = before.task.example_inputs
    with torch.no_grad():
        wanted = {name: tuple(x.shape) for name, x in tensors(before.model.eval()(*example)).items()}
        with watched(model) as path:
            try:
                outputs = tensors(model(*example))
            except Exception as error:  # a broken model can raise anything
                first = str(error).strip().splitlines() or [type(error).__name__]
                hint = f"; leave it alone with --pass '{pass_.name}:exclude=NAME'" if hasattr(pass_, "exclude") else ""
                raise PassError(f"{pass_.name} broke the forward at '{path[-1]}' ({first[0]}); {stands}{hint}") from error
    found = {name: tuple(x.shape) for name, x in outputs.items()}
    if found != wanted:
        raise PassError(f"{pass_.name} changed the model's outputs from {wanted} to {found}; {stands}")
    for name, x in outputs.items():
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise PassError(f"{pass_.name} left NaN or infinity in the output '{name}'; {stands}")
    # The last of several steps may find that rounding took it all before.
    start = before.reference if getattr(pass_, "cumulative", False) else before.model
    if not getattr(pass_, "allow_noop", False) and not differs(start, model):
        raise PassError(f"{pass_.name} changed nothing; {stands} (its option allow_noop accepts that)")


def differs(before: nn.Module, after: nn.Module) -> bool:
    """Whether any name, shape or number of the state differs."""
    old, new = before.state_dict(), after.state_dict()
    return old.keys() != new.keys() or any(x.shape != new[name].shape or not torch.equal(x, new[name]) for name, x in old.items())


@dataclass(frozen=True)
class Plan:
    """How a pipeline is run.

    Args:
        folder: where the stages' files go; one sub-folder each.
        seed: each pass is seeded with `seed` plus its position, so that a resumed run continues as it would have.
        device: where passes work; measuring is done by `meter`.
        on_stage: called with each row as soon as it is there.
        keep: called with the artefact and its folder once a stage is done, to save what resuming needs.
        restore: gives the artefact of a finished stage's folder, or None where the stage is not finished.
        share: gives every other process what `keep` saved in a folder.
    """

    folder: Path
    meter: Meter
    seed: int
    device: torch.device
    on_stage: Callable[[Record], None]
    keep: Callable[[Artifact, Path], None]
    restore: Callable[[Artifact, Path], Artifact | None]
    share: Callable[[Path], None]


def run_pipeline(artifact: Artifact, passes: Sequence[Pass], plan: Plan) -> Artifact:
    """The artefact after all passes, with one record per stage, the first of them `baseline`.

    Of several processes rank 0 does all that is to do, and tells the others each stage's result. Passes that have `trains`
    run in all of them, since training is shared; of these runs, too, only that of rank 0 counts.

    Raises:
        UserError: before anything runs, if the passes cannot work on this task.
        PassError: a pass failed; the stages before it are kept in the folder.
    """
    check(passes, artifact.task)
    for position, pass_ in enumerate([None, *passes]):
        controlled = getattr(pass_, "control", False) is True and hasattr(pass_, "without_teacher")
        control = pass_.without_teacher() if controlled else None  # type: ignore[union-attr]
        if control is not None:  # only its row stays
            artifact = replace(artifact, history=_stage(artifact, control, position, plan, CONTROL).history)
        artifact = _stage(artifact, pass_, position, plan)
        if control is not None:
            _check_equal(*artifact.history[-2:])
    return artifact


def _check_equal(control: Record, taught: Record) -> None:
    """Raise PassError unless both trained for as many steps, on as many samples."""
    ends = [record.details["training"][-1] for record in (control, taught)]
    (without, samples), (steps, seen) = ((end["steps"], end["samples"]) for end in ends)
    if (without, samples) != (steps, seen):
        raise PassError(
            f"{taught.name} and its control cannot be compared: {steps} steps on {seen} samples, and {without} on {samples}; "
            "Task.train must give the same number of batches on each call"
        )


def _stage(artifact: Artifact, pass_: Pass | None, position: int, plan: Plan, suffix: str = "") -> Artifact:
    """The artefact after one pass, measured, kept and shown; or as it was kept before the run was interrupted."""
    name = "baseline" if pass_ is None else pass_.name + suffix
    folder = plan.folder / f"{position:02d}-{name}"
    done = plan.restore(artifact, folder) if workers.first() else None
    if workers.told(lambda: done is None):
        done = _worked(artifact, pass_, name, position, folder, plan)
    plan.share(folder)
    done = done or plan.restore(artifact, folder)
    workers.wait()
    assert done is not None
    return done


def _worked(artifact: Artifact, pass_: Pass | None, name: str, position: int, folder: Path, plan: Plan) -> Artifact | None:
    """The artefact after one pass, measured, kept and shown; None in the processes that only help to train."""
    together = getattr(pass_, "trains", False) is True
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    if pass_ is not None and (together or workers.first()):
        with contextlib.nullcontext() if together else workers.alone():
            artifact = transformed(pass_, replace(artifact, progress=folder), plan.seed + position, plan.device)
    workers.wait()  # no other process computes while rank 0 measures
    if not workers.first():
        return None
    record = plan.meter.measure(name, artifact, folder / MODEL, options_of(pass_), time.perf_counter() - begun)
    artifact = replace(artifact, history=(*artifact.history, record), file=folder / MODEL)
    plan.keep(artifact, folder)
    plan.on_stage(record)
    return artifact
