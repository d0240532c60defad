"""A run on the machines of a Ray cluster."""

import contextlib
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from compress import workers
from compress.artifact import Record
from compress.device import check_device
from compress.errors import CompressError, UserError, WorkerError
from compress.folder import RunFolder
from compress.measure.environment import available_cores
from compress.progress import Sink, report, watch
from compress.recipe import Recipe
from compress.run import Options, Run, load, run_recipe
from compress.sources.libraries import first_line, import_library

EXTRA = "'compress-toolkit[ray]'"
MODULES = ("ray", "ray.util.queue", "ray.util.scheduling_strategies", "ray.train", "ray.train.torch")
LOCAL = "local"
RESTARTS = 3  # after which a run that loses its processes again and again ends
WAIT = 10.0  # seconds for a machine to answer
PAUSE = 1.0  # seconds between two looks at whether the run has ended, and at least between two reports of progress
NOTES = ".ray.tmp"  # what Ray Train and rank 0 write down for a next start; a run's folder takes no notice of such names
BEGUN = "begun"  # among them, once the first stage is done
SHARED = "all machines of a cluster must see the folder of the run and the working folder, under the same paths"


@dataclass(frozen=True)
class Given:
    """What each process is told.

    Attributes:
        options: whose `force` is for the first start only; every other one is a resumption.
        place: the working folder, to which the paths of a recipe are relative.
        screen: a queue to the process that a person sees.
    """

    recipe: Recipe
    options: Options
    place: Path
    screen: Any


def run_on_ray(recipe: Recipe, options: Options, count: int, address: str) -> Run:
    """`run_recipe` on a Ray cluster, whose training is shared by `count` processes, wherever Ray Train places them.

    This process only waits and shows what rank 0 says. Where a process is killed or its machine is lost, Ray starts all of
    them again, up to three times, and they go on behind the last epoch, as with `--resume`. Every machine needs this
    package and sees the working folder and `options.out`.

    Args:
        address: what `ray.init` takes: HOST:PORT, `auto` for the cluster that this machine belongs to, or `local` for one of
            its own on this machine, which ends with the run.

    Raises:
        UserError: as `run_recipe`; or no Ray, no cluster, no folder, or one that not all machines see; or, on `local`, more
            than four processes for each core.
        WorkerError: a process failed, or was killed more often than Ray may start them.
    """
    if options.out is None:
        raise UserError("a run on a cluster needs a folder that all of its machines see; give one as out")
    if workers.count() > 1:
        raise UserError(f"torchrun has already started {workers.count()} processes; leave --ray out")
    if address == LOCAL:
        workers.check_fits(count, available_cores())
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # what Ray would print of a lost process is said by a note
    ray, *_, train, _ = (import_library(name, EXTRA) for name in MODULES)
    out = Path.cwd() / options.out
    with _prepared(out, options), _connected(ray, address, count):
        device = "cuda" if _on_gpus(ray.cluster_resources(), options, count) else "cpu"
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        screen = ray.util.queue.Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        force = options.force and not options.resume
        plain = Options(out=out, device=device, threads=options.threads, force=force, timing=options.timing)
        try:
            _follow(_trainer(train, Given(recipe, plain, Path.cwd(), screen), count), screen, options)
        except train.TrainingFailedError as error:
            why = _lost(getattr(error, "worker_failures", {})) or first_line(error)
            raise WorkerError(f"Ray Train gave up, {why}; {workers.CONTINUE}") from None
    return Run(load(out), RunFolder(out).report(), options.out)


@contextlib.contextmanager
def _prepared(out: Path, options: Options) -> Iterator[None]:
    """The folder of the run, there within; a run that `force` replaces stays until rank 0 knows that the new one can begin."""
    RunFolder(out).prepare(force=False, resume=options.resume or options.force)
    shutil.rmtree(out / NOTES, ignore_errors=True)  # of a run that was killed
    try:
        yield
    finally:
        shutil.rmtree(out / NOTES, ignore_errors=True)
        with contextlib.suppress(OSError):
            out.rmdir()  # where nothing was begun


def _trainer(train: Any, given: Given, count: int) -> Any:
    """Ray's, of `count` processes that do `_work`."""
    assert given.options.out is not None
    return train.torch.TorchTrainer(
        _work,
        train_loop_config={"given": given},
        # What processes say to each other goes by gloo; `workers` adds NCCL for numbers on GPUs.
        torch_config=train.torch.TorchConfig(backend="gloo", timeout_s=int(workers.LONGEST.total_seconds())),
        scaling_config=train.ScalingConfig(num_workers=count, use_gpu=given.options.device == "cuda"),
        run_config=train.RunConfig(
            name=NOTES,
            storage_path=str(given.options.out),
            failure_config=train.FailureConfig(max_failures=RESTARTS),
            callbacks=[_announcer(train, given.screen)],
        ),
    )


def _lost(failures: dict[int, Exception]) -> str:
    """The first process that is gone, and how; empty where none is."""
    return next((f"rank {rank}: {first_line(cause)}" for rank, cause in sorted(failures.items())), "")


def _announcer(train: Any, screen: Any) -> Any:
    """What says on the screen, from where Ray looks after the processes, that it starts them again."""

    class Announcer(train.UserCallback):  # type: ignore[misc]
        times = 0

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            self.times += 1
            if self.times <= RESTARTS:
                again = f"Ray starts all processes again, {self.times} of {RESTARTS} times"
                screen.put(("note", (f"lost {_lost(worker_exceptions)}; {again}",)))

    return Announcer()


@contextlib.contextmanager
def _connected(ray: Any, address: str, count: int) -> Iterator[None]:
    """A connection to the cluster within, whose end is the end of all that was started on it; without logs on this screen."""
    alone = {"num_cpus": count, "include_dashboard": False} if address == LOCAL else {}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **alone)
    except Exception as error:  # of many kinds, by what is wrong with an address
        raise UserError(f"no Ray cluster answers at {address} ({first_line(error)}); start one with: ray start --head") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT; Ray itself would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in host:
        socket.create_connection((host.strip("[]"), int(port)), WAIT).close()


def _on_gpus(there: dict[str, float], options: Options, count: int) -> bool:
    """Whether the processes train on GPUs; where the cluster lacks what they need now, Ray waits for it, and that is said.

    Raises:
        UserError: an unknown device.
    """
    check_device(options.device)
    gpus = options.device == "cuda" or (options.device == "auto" and there.get("GPU", 0) >= count)
    kind = "GPU" if gpus else "CPU"
    if there.get(kind, 0) < count:
        options.on_note(f"{count} processes need as many {kind}s, and the cluster has {there.get(kind, 0):g}: waiting for more")
    return gpus


def _follow(trainer: Any, screen: Any, options: Options) -> None:
    """Show what rank 0 says, until the run has ended; raise what failed, in whichever process."""
    raised: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except (Exception, SystemExit) as error:  # the latter is how Ray ends what waits when the connection ends
            raised.append(error)

    # Ray would take Ctrl-C for itself if it ran in the main thread.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    shown: dict[str, Callable[..., None]] = {
        "stage": options.on_stage,
        "note": options.on_note,
        "progress": report,
        "failed": _fail,
    }
    while thread.is_alive() or not screen.empty():
        try:
            kind, values = screen.get(timeout=PAUSE)
        except queue.Empty:
            continue
        shown[kind](*values)
    if raised:
        raise raised[0]


def _fail(error: Exception) -> None:
    raise error


def _work(config: dict[str, Given]) -> None:
    """What each process does. What fails is said, not raised: Ray starts anew what raises, and to no other end."""
    given = config["given"]

    def say(kind: str, *values: Any) -> None:
        given.screen.put((kind, values))

    # Ray has opened the store that torchrun's agent would have opened.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    try:
        with workers.joined_as_launched(), watch(_seldom(partial(say, "progress"))):
            _go_to(given)
            run_recipe(given.recipe, replace(_at_this_start(given.options, say), on_note=partial(say, "note")))
    except WorkerError:
        pass  # another process has said why, or is gone, which Ray notices
    except CompressError as error:
        say("failed", error)
    except Exception as error:
        say("failed", WorkerError(f"rank {os.environ['RANK']} failed: {first_line(error)}"))


def _at_this_start(options: Options, say: Callable[..., None]) -> Options:
    """Options that clear the folder at most once: after the first stage, whose end they note there, a start is a resumption."""
    assert options.out is not None
    begun = options.out / NOTES / BEGUN
    force = options.force and not begun.exists()

    def on_stage(record: Record) -> None:
        begun.parent.mkdir(exist_ok=True)
        begun.touch()
        say("stage", record)

    return replace(options, force=force, resume=not force, on_stage=on_stage)


def _go_to(given: Given) -> None:
    """Be where the paths of the recipe begin."""
    for folder in (given.place, given.options.out):
        if folder is None or not folder.is_dir():
            raise UserError(f"{folder} is not there on {socket.gethostname()}: {SHARED}")
    os.chdir(given.place)


def _seldom(sink: Sink) -> Sink:
    """A sink of progress that passes on at most one report in a second, and in rank 0 only."""
    last = 0.0

    def tell(what: str, done: int, total: int | None, note: str) -> None:
        nonlocal last
        if workers.first() and time.monotonic() - last >= PAUSE:
            last = time.monotonic()
            sink(what, done, total, note)

    return tell
