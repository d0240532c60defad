"""Two processes that train one model, against one process that trains it alone on the same batches.

Torch is imported once: this file, run as a script, forks two processes for each of the functions in `SCENARIOS`, and one for
those that say what a single process does. The tests look at what they found.
"""

import importlib
import itertools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import TCPStore

import compress
from compress import workers
from compress.artifact import Artifact
from compress.errors import CompressError, UserError
from compress.losses import Contrastive
from compress.passes.prune_channels import PruneChannels
from compress.passes.prune_weights import PruneWeights
from compress.passes.qat import QAT
from compress.pipeline import transformed
from compress.quant import qat
from compress.sparsity.masks import mark_sparse_
from compress.task import Task
from compress.testing import TinyResidual, tiny_task
from compress.training import FitResult, Settings, fit
from compress.training.loop import CSV

Found = dict[str, Any]


def rank() -> int:
    return workers.membership().rank


def classes(sizes: tuple[int, ...] = (15, 15, 15, 4)) -> list[tuple[Tensor, Tensor]]:
    """Points and the side of a line that they lie on; odd batches, so that parts differ in size."""
    x = torch.randn(sum(sizes), 2, generator=torch.Generator().manual_seed(1))
    return list(zip(x.split(sizes), (x.sum(1) > 0).long().split(sizes), strict=True))


def shuffled() -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of rank 0, in an order of its own; no other rank asks for them."""
    assert rank() == 0
    batches = classes()
    return iter([batches[index] for index in torch.randperm(len(batches))])


def net(*between: nn.Module, seed: int | None = None) -> nn.Module:
    """Another one in each process, unless a seed is given."""
    torch.manual_seed(100 + rank() if seed is None else seed)
    return nn.Sequential(nn.Linear(2, 8), *between, nn.ReLU(), nn.Linear(8, 2))


def cross_entropy(logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target)


def trained(model: nn.Module, loss: Any = cross_entropy, *, epochs: int = 3, lr: float = 0.1, **options: Any) -> Found:
    """What is left of a training."""
    settings = Settings(epochs=epochs, lr=lr, **{name: options.pop(name) for name in tuple(options) if name in SETTINGS})
    torch.manual_seed(7)
    done = fit(model, options.pop("train", shuffled), loss, settings, autocast=False, **options)
    return {**told(done), "weights": state(model), "loss": state(loss) if isinstance(loss, nn.Module) else {}}


SETTINGS = {"accumulate", "clip_norm", "average", "patience", "retry"}


def told(done: FitResult) -> Found:
    rows = [(epoch.steps, epoch.samples, epoch.accuracy, epoch.score) for epoch in done.epochs]
    terms = [epoch.terms for epoch in done.epochs]
    return {
        "losses": done.losses,
        "terms": terms,
        "rows": rows,
        "stopped": done.stopped,
        "restarts": done.restarts,
        "count": done.processes,
    }


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


class Scaled(nn.Module):
    """A loss with a parameter of its own, and one that no batch uses."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((2,), 1.0 + rank()))
        self.idle = nn.Parameter(torch.ones(2, 2))

    def forward(self, logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        found = F.cross_entropy(logits * self.scale, target)
        self.terms = {"most": 0.75 * found.detach(), "rest": 0.25 * found.detach()}
        return found


def plain(folder: Path) -> Found:
    return trained(net(), Scaled(), clip_norm=0.5, accumulate=2)


def averaged(folder: Path) -> Found:
    return trained(net(), average=0.8)


def normed(folder: Path) -> Found:
    return trained(net(nn.BatchNorm1d(8)), train=lambda: classes((16, 16, 16)))


def masked(folder: Path) -> Found:
    model = net()
    with torch.no_grad():
        model[0].weight[:3] = 0
    mark_sparse_(model[0])

    def before_step(done: int, steps: int) -> bool:
        if done == 5:
            with torch.no_grad():
                model[0].weight[3 + rank()] = 0  # processors that round otherwise may choose others
        return done == 5

    return trained(model, before_step=before_step)


def rounded(folder: Path) -> Found:
    """Quantized by rank 0; the others have the same graph with other numbers."""
    x = torch.cat([x for x, _ in classes()])
    prepared = qat.prepare(net(), (x,), calibration=lambda: [(x * (1 + rank()),)])
    return trained(prepared, lr=0.05, before_step=lambda done, steps: bool(qat.freeze_ranges_(prepared)) if done == 9 else False)


class Noisy(Contrastive):
    """Draws random numbers, and remembers what it saw."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(2, 2, samples=49, dim=4, queue=20)
        self.drawn: list[float] = []

    def forward(self, logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        self.drawn.append(torch.rand(()).item())
        return super().forward(logits, inputs[0], target) + F.cross_entropy(logits, target)


def noisy(folder: Path, keep: Path | None = None, kill: tuple[int, int] | None = None) -> Found:
    """With everything that is a process's own: dropout, statistics of its part, a queue; `kill`: rank, and steps done."""

    def before_step(done: int, steps: int) -> bool:
        if (rank(), done) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    loss = Noisy()
    model = net(nn.BatchNorm1d(8), nn.Dropout(0.3))
    found = trained(model, loss, epochs=4, train=lambda: classes((16, 16, 16)), before_step=before_step, keep=keep)
    return {**found, "drawn": loss.drawn}


def killed(folder: Path) -> Found:
    """Killed in the third epoch."""
    (folder / "kept").mkdir(exist_ok=True)
    return noisy(folder, folder / "kept", (1, 7))


def orphaned(folder: Path) -> Found:
    return noisy(folder, None, (0, 1))


def resumed(folder: Path) -> Found:
    """After `killed`."""
    return {"epochs": (folder / "kept" / CSV).read_text().count("\n") - 1, **noisy(folder, folder / "kept")}


def diverging(folder: Path) -> Found:
    """Only the part of rank 1 has no loss, once."""
    calls = itertools.count(1)

    def loss(logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target) * (math.nan if next(calls) == 7 and rank() == 1 else 1)

    return trained(net(), loss)


def again(folder: Path) -> Found:
    """As `diverging`, in the first epoch, and begun again."""
    calls = itertools.count(1)

    def loss(logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target) * (math.nan if next(calls) == 3 and rank() == 1 else 1)

    return trained(net(), loss, epochs=2, retry=True)


def stopping(folder: Path) -> Found:
    """By scores that only rank 0 has."""
    scores = iter([0.5, 0.9, 0.7, 0.6, 0.8] if rank() == 0 else [])
    return trained(net(), epochs=5, patience=2, validate=lambda model: next(scores))


def small(folder: Path) -> Found:
    return trained(net(), train=lambda: classes((4, 1)))


def failing(folder: Path) -> Found:
    def before_step(done: int, steps: int) -> bool:
        if rank() == 1:
            raise ValueError("the disk is full")
        return False

    return trained(net(), before_step=before_step)


class Random(TinyResidual):
    """Made anew in each process, from other random numbers."""


PASSES = [PruneChannels(0.25, round_to=4), PruneWeights(schedule="cubic", epochs=1), QAT(epochs=1, weight_bits=4)]


def task() -> Task:
    """Calibration, with all that follows from it, is rank 0's."""
    known = tiny_task()

    def calibration() -> Iterable[tuple[Tensor, ...]]:
        assert os.environ.get("RANK", "0") == "0"
        return known.calibration()

    return replace(known, calibration=calibration)


def whole(folder: Path) -> Found:
    """A run that trains what is pruned, masked and rounded; only rank 0 may write to the folder that it is told."""
    torch.manual_seed(5 + rank())
    options = {"timing": {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.1}, "device": "cpu"}
    options["out"] = folder / "run" if rank() == 0 else Path("/nowhere")
    done = compress.run(Random(), task(), PASSES, **options)
    again = compress.run(Random(), task(), PASSES, **options, resume=True)
    assert again.report == done.report
    training = [epoch["loss"] for stage in done.report["stages"] for epoch in stage["details"].get("training", ())]
    return {"weights": state(done.model), "again": state(again.model), "losses": training}


def by_hand(folder: Path) -> Found:
    """The passes of `whole`, in one process and without a file."""
    torch.manual_seed(5)
    artifact, training = Artifact.start(Random(), task()), []
    for seed, pass_ in enumerate(PASSES, 1):
        artifact = transformed(pass_, artifact, seed, torch.device("cpu"))
        training += [epoch["loss"] for epoch in artifact.details.get("training", ())]
    return {"weights": state(artifact.model), "losses": training}


# Each row is one life of two processes, or of a single one; what ends in an error has a life of its own.
PAIRS = [
    [plain, averaged, normed, masked, rounded, noisy, diverging, again, stopping, whole],
    [killed],
    [resumed],
    [orphaned],
    [small],
    [failing],
]
SINGLE = [plain, averaged, normed, rounded, by_hand]


def live(scenarios: list[Callable[[Path], Found]], folder: Path, joins: tuple[int, int] | None) -> None:
    """In a process of its own: write down what is found, or the error."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # without threads, which a forked process could not have
    who = "single" if joins is None else str(joins[0])
    together: AbstractContextManager[None] = nullcontext()
    if joins is not None:  # as torchrun does it
        os.environ |= {"RANK": who, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(joins[1])}
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        assert workers.launched()
        together = workers.joined_as_launched()
    path = folder
    try:
        with together:
            for scenario in scenarios:
                path = folder / f"{scenario.__name__}-{who}.pt"
                torch.save(scenario(folder), path)
    except CompressError as error:
        torch.save({"error": f"{type(error).__name__}: {error}"}, path)


def main(folder: Path) -> None:
    # What torch imports at the first step and the first export, once for all.
    for module in ("torch._dynamo", "torch.export", "torch.onnx._internal.exporter._core", "onnxscript", "onnxruntime"):
        importlib.import_module(module)
    fork = multiprocessing.get_context("fork")
    for scenarios, count in [(SINGLE, 1), *((row, 2) for row in PAIRS)]:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        joins = [None] if count == 1 else [(number, store.port) for number in range(count)]
        processes = [fork.Process(target=live, args=(scenarios, folder, each)) for each in joins]
        for process in processes:
            process.start()
        for process in processes:
            process.join()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Found]]:
    """Gives what rank 0 and rank 1, or the `who` named, found in a scenario."""
    folder = tmp_path_factory.mktemp("found")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, str(folder)], env=environment, capture_output=True, text=True, check=False)
    print(done.stderr)  # of a process that failed in another way than it should; shown where a test fails
    return lambda scenario, *who: [torch.load(folder / f"{scenario.__name__}-{one}.pt") for one in who or ("0", "1")]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """To the bit."""
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.allclose(one[name], other[name], rtol=0, atol=tolerance)] == []


@pytest.mark.parametrize("scenario", [plain, averaged, rounded])
def test_steps_are_those_of_one_process(found: Callable[..., list[Found]], scenario: Callable[[Path], Found]) -> None:
    first, second, single = found(scenario, "0", "1", "single")
    assert first["losses"] == second["losses"] == pytest.approx(single["losses"], abs=1e-5 if scenario is not rounded else 1e-4)
    assert first["rows"] == single["rows"]  # steps, samples and accuracy
    assert (first["count"], single["count"]) == (2, 1)
    for part in ("weights", "loss"):
        assert_same(first[part], second[part])
        assert_near(first[part], single[part], 1e-5)
    assert first["terms"] == second["terms"]
    if scenario is plain:
        for found_terms, loss in zip(first["terms"], single["losses"], strict=True):
            assert found_terms == pytest.approx({"most": 0.75 * loss, "rest": 0.25 * loss}, abs=1e-5)
        assert not torch.equal(single["loss"]["scale"], torch.ones(2))
        assert torch.equal(first["loss"]["idle"], torch.ones(2, 2))  # no gradient, and so no decay


def test_batch_norm_sees_parts_and_its_statistics_are_of_all_samples(found: Callable[..., list[Found]]) -> None:
    first, second, single = found(normed, "0", "1", "single")
    assert first["losses"] == pytest.approx(single["losses"], rel=0.05)
    assert first["losses"] != pytest.approx(single["losses"], rel=1e-4)
    assert_same(first["weights"], second["weights"])
    assert_near({"mean": first["weights"]["1.running_mean"]}, {"mean": single["weights"]["1.running_mean"]}, 0.01)
    assert_near({"var": first["weights"]["1.running_var"]}, {"var": single["weights"]["1.running_var"]}, 0.1)


def test_zeros_stay_and_are_those_of_rank_0(found: Callable[..., list[Found]]) -> None:
    first, second = found(masked)
    assert_same(first["weights"], second["weights"])
    assert (first["weights"]["0.weight"] == 0).all(1).nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_what_is_a_process_s_own_stays_so(found: Callable[..., list[Found]]) -> None:
    first, second = found(noisy)
    assert first["losses"] == second["losses"]
    assert_same(first["weights"], second["weights"])
    assert not torch.equal(first["loss"]["queue"], second["loss"]["queue"])
    assert torch.equal(first["loss"]["of_student.weight"], second["loss"]["of_student.weight"])
    assert not set(first["drawn"]) & set(second["drawn"])


def test_a_killed_process_ends_all_and_the_training_goes_on_as_if_none_had_been(found: Callable[..., list[Found]]) -> None:
    [error] = found(killed, "0")
    assert error == {"error": f"WorkerError: a process of this run was killed or lost; {workers.CONTINUE}"}
    assert found(orphaned, "1") == [error]
    for whole, after in zip(found(noisy), found(resumed), strict=True):
        assert after["epochs"] == 2
        assert after["losses"] == whole["losses"]
        assert after["drawn"] == whole["drawn"][-6:]  # three batches in each of two epochs
        for part in ("weights", "loss"):
            assert_same(after[part], whole[part])


def test_all_stop_where_the_loss_of_one_is_no_number(found: Callable[..., list[Found]]) -> None:
    first, second = found(diverging)
    why = "the loss became nan in epoch 2 of 3, at step 7, batch 3; the weights are those after epoch 1"
    assert (first["stopped"], second["stopped"]) == (why, why)
    assert_same(first["weights"], second["weights"])
    assert [run["restarts"] for run in found(again)] == [1, 1]
    assert [len(run["losses"]) for run in found(again)] == [2, 2]


def test_all_stop_by_the_scores_of_rank_0(found: Callable[..., list[Found]]) -> None:
    for run in found(stopping):
        assert run["stopped"] == "stopped after epoch 4 of 5, 2 after the best, epoch 2"
        assert [score for _, _, _, score in run["rows"]] == [0.5, 0.9, 0.7, 0.6]


def test_a_batch_that_is_too_small_is_told(found: Callable[..., list[Found]]) -> None:
    [error] = found(small, "0")
    assert error == {"error": "UserError: batch 2 has 1 samples, too few for 2 processes; use fewer, or larger batches"}


def test_rank_0_says_what_failed_elsewhere(found: Callable[..., list[Found]]) -> None:
    assert found(failing, "0") == [{"error": "WorkerError: rank 1 failed: ValueError: the disk is full"}]


def test_a_run_trains_what_is_pruned_masked_and_rounded(found: Callable[..., list[Found]]) -> None:
    first, second = found(whole)
    [single] = found(by_hand, "single")
    assert first["losses"] == second["losses"] == pytest.approx(single["losses"], rel=1e-3)
    assert_near(first["weights"], single["weights"], 1e-3)
    for other in (second["weights"], first["again"], second["again"]):
        assert_same(first["weights"], other)


def test_only_passes_that_train_run_everywhere() -> None:
    kinds = [(PruneWeights(), False), (PruneWeights(schedule="cubic"), True), (PruneChannels(0.5), False), (QAT(), True)]
    assert [getattr(pass_, "trains", False) for pass_, _ in kinds] == [trains for _, trains in kinds]


def test_without_gloo_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    with pytest.raises(UserError) as error:
        workers.check_gloo()
    assert str(error.value) == "this build of torch has no gloo, by which processes talk to each other; leave --processes out"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
