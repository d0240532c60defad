"""A whole run: model and task through the passes, then export, checks, measurements, and the folder that keeps it all."""

import copy
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import workers, zoo
from compress.artifact import Artifact, Record
from compress.device import choose_device
from compress.errors import UserError, WorkerError
from compress.export import export_onnx
from compress.files import write_atomically
from compress.folder import BASELINE, HALF, HTML, MARKDOWN, MODEL, REPORT, STAGE_FILES, TRAINING, RunFolder
from compress.intake import check_float32
from compress.measure import describe_environment, integer_coverage, open_onnx
from compress.measure.environment import available_cores
from compress.measure.openvino_coverage import openvino_coverage
from compress.parity import check_parity
from compress.passes.base import Pass
from compress.pipeline import CONTROL, Meter, Plan, check, check_choice, rehearse, run_pipeline, runtime_of
from compress.plots import RunPlots
from compress.progress import listen
from compress.quant.ptq import rounds_activations
from compress.quant.targets import OPENVINO, target_of
from compress.recipe import Recipe, read, resolved
from compress.report import build_report, layer_rows, to_html, to_markdown
from compress.report.json_text import dumps
from compress.report.text import headline, stage_table, verdicts
from compress.side_by_side import side_by_side
from compress.sources.source import Source
from compress.store import MANIFEST, WEIGHTS, load_model, read_manifest, save_model
from compress.tables import html_block, markdown_table
from compress.task import Task
from compress.training.log import COLUMNS, to_csv


@dataclass(frozen=True)
class Run:
    """What a run gives back.

    Attributes:
        model: the compressed torch model, in eval mode, on the CPU.
        report: what `report.json` holds; see `compress/report/schema.json`.
        folder: where the files are; None if no folder was asked for.
    """

    model: nn.Module
    report: dict[str, Any]
    folder: Path | None

    @property
    def plot(self) -> RunPlots:
        """Pictures for a notebook: `run.plot.pareto()` of the stages, `run.plot.layers()` of their widths (extra `plot`)."""
        return RunPlots(self.report)

    def __repr__(self) -> str:
        """The table of the stages as Markdown, then what a person should know, gained and lost; not pages of a dictionary."""
        lines = [*markdown_table(*stage_table(self.report)), "", *verdicts(self.report), *headline(self.report)]
        return "\n".join([*lines, *([f"files: {self.folder}"] if self.folder is not None else [])])

    def _repr_html_(self) -> str:
        return html_block(*stage_table(self.report), lines=[*verdicts(self.report), *headline(self.report)])


@dataclass(frozen=True)
class Options:
    """What decides where and how, but not what, a run computes.

    Args:
        out: the run's folder; None keeps nothing on disk.
        device: `auto`, `cpu` or `cuda`: where passes train. Measuring always includes ONNX Runtime on the CPU.
        threads: of the runtime while it is timed: 1, since a core is what a deployment pays for. Training and evaluation
            take all cores that this process may use, and the report has a row with all cores too.
        force: replace a run that is in `out`.
        resume: continue the run in `out` behind its last finished pass.
        on_stage: called with each row of the table as soon as it is measured.
        on_note: called with anything else that a person should know at once.
        timing: limits of the timing loop, see `time_interleaved`.
    """

    out: Path | None = None
    device: str = "auto"
    threads: int = 1
    force: bool = False
    resume: bool = False
    on_stage: Callable[[Record], None] = lambda record: None
    on_note: Callable[[str], None] = lambda note: None
    timing: dict[str, float] | None = None


def run(
    model: nn.Module | str | None = None,
    task: Task | None = None,
    passes: Sequence[Pass] | None = None,
    *,
    recipe: Path | str | None = None,
    seed: int | None = None,
    fp16: bool | None = None,
    **options: Any,
) -> Run:
    """Compress your own module, or a model by its name: the passes in order, then ONNX, parity, latency and a report.

        compress.run(module, task, [PruneChannels(), Int8()])
        compress.run("resnet18", recipe="cpu-int8", limit_eval=1000)

    Args:
        model: a module, which is not changed and comes with its `task`; or MODEL as on the command line, with a recipe; None: the
            recipe's.
        passes: objects with the members of `compress.passes.Pass`.
        recipe: instead of passes, a recipe's file, or its name (`compress recipes list`). With a module its passes, seed and fp16
            count, and not its data.
        seed: of every random choice; None: the recipe's, or 0.
        fp16: also write and check a half-precision file; None: as the recipe says, or not.
        options: fields of `Options`: out, device, threads, force, resume, on_stage; with a model's name also weights, data,
            limit_train and limit_eval, see `compress.recipe.Recipe`.

    Raises:
        UserError: before anything runs, if something asked for cannot work.
        PassError: a pass failed its post-conditions.
        ParityError: the ONNX file does not answer as the torch model does.
    """
    if (passes is None) == (recipe is None):
        raise UserError("say what to do by passes or by a recipe, such as recipe='cpu-int8', and not by both")
    if options.get("out") is not None:
        options["out"] = Path(options["out"])
    base = Recipe() if recipe is None else read(recipe)
    given: dict[str, Any] = {"seed": seed, "fp16": fp16}
    if not isinstance(model, nn.Module):
        if task is not None or passes is not None:
            raise UserError("a model by its name takes data by name and a recipe: compress.run('resnet18', data=..., recipe=...)")
        given |= {"model": model} | {name: options.pop(name, None) for name in ("weights", "data", "limit_train", "limit_eval")}
        return run_recipe(base.overridden(**given), Options(**options))
    if task is None:
        raise UserError("a module comes with its data: compress.run(model, task, ...)")
    mine = Recipe(type(model).__name__, seed=base.seed, fp16=base.fp16).overridden(**given)
    source = Source(model=model, origin={"kind": "module", "type": type(model).__qualname__})
    return _execute(source, task, base.make_passes() if passes is None else passes, mine, Options(**options))


def run_recipe(recipe: Recipe, options: Options) -> Run:
    """A run from plain data, as the command line does it: the model and the data are looked up by name."""
    if recipe.model is None:
        raise UserError("no model was given; name one, for example resnet18 (compress zoo list shows more)")
    choose_device(options.device)
    check_choice(recipe.make_passes())
    source = zoo.load(recipe.model, recipe.weights)
    wanted = recipe.with_defaults(source.defaults).make_passes()
    without_data = not any(pass_.needs for pass_ in wanted if pass_.name not in recipe.implied)
    task = zoo.load_task(source, recipe.data, recipe.limit_train, recipe.limit_eval, optional=without_data)
    passes = []
    for pass_ in wanted:
        lacking = [need for need in pass_.needs if getattr(task, need) is None]
        if lacking and pass_.name in recipe.implied:
            options.on_note(f"{pass_.name} left out: the task has no {lacking[0]} data")
        else:
            passes.append(pass_)
    if recipe.data is None and source.data is None and source.task is None:
        options.on_note("no data were given: no accuracy is measured")
    return _execute(source, task, passes, replace(recipe, data=recipe.data or source.data), options)


def _execute(source: Source, task: Task, passes: Sequence[Pass], recipe: Recipe, options: Options) -> Run:
    device = choose_device(options.device)
    if not workers.first():  # the folder, and what is said, are rank 0's
        options = Options(device=options.device)
    torch.set_num_threads(available_cores())
    check(passes, task)
    check_float32(source.model)
    rehearse(passes, source.model, task)
    plain = resolved(recipe, passes)
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(options.out or Path(scratch))
        if options.resume:
            folder.check_same(plain)
        if workers.told(lambda: options.resume and folder.finished()):
            workers.share_files(folder.path, (WEIGHTS, MANIFEST, REPORT))
            return Run(load_model(folder.path, copy.deepcopy(source.model)), folder.report(), options.out)
        folder.prepare(force=options.force, resume=options.resume)
        try:
            with listen(options.on_note):
                return _work(source, task, passes, recipe, plain, folder, device, options)
        except WorkerError:
            raise  # not for anything wrong with the run, which goes on from where it is
        except Exception:
            folder.drop_if_nothing_finished()
            raise


def _work(
    source: Source,
    task: Task,
    passes: Sequence[Pass],
    recipe: Recipe,
    plain: dict[str, Any],
    folder: RunFolder,
    device: torch.device,
    options: Options,
) -> Run:
    folder.write_recipe(plain)
    artifact = replace(Artifact.start(source.model, task), threads=options.threads)
    workers.equal_(artifact.reference.state_dict().values())  # made anew in each process, perhaps from random numbers
    origin = workers.told(lambda: source.origin)
    plan = Plan(
        folder=folder.stages,
        meter=Meter(options.threads, options.timing or {}, runtime_of(passes)),
        seed=recipe.seed,
        device=device,
        on_stage=options.on_stage,
        keep=lambda kept, stage: folder.keep(kept, stage, origin),
        restore=lambda before, stage: folder.restore(before, stage, origin),
        share=lambda stage: workers.share_files(stage, STAGE_FILES),
    )
    workers.wait()  # nobody loads a model or data while rank 0 measures
    artifact = run_pipeline(artifact, passes, plan)
    report = workers.told(lambda: _finish(artifact, folder, source, recipe, options))
    return Run(artifact.model, report, options.out)


def _finish(artifact: Artifact, folder: RunFolder, source: Source, recipe: Recipe, options: Options) -> dict[str, Any]:
    """Check and measure the last file against the first, and write everything that the folder keeps; the report last."""
    stages = sorted(path for path in folder.stages.iterdir() if path.is_dir() and not path.name.endswith(CONTROL))
    files = {BASELINE: stages[0] / "model.onnx", MODEL: stages[-1] / "model.onnx"}
    model, task = artifact.model, artifact.task
    kind = "int8" if rounds_activations(model) else "fp32"
    target = target_of(model).name
    parity = check_parity(model, open_onnx(files[MODEL], target).predict, task, kind, MODEL)
    quantization = model.meta.get("quantization", {}) if isinstance(model, torch.fx.GraphModule) else {}
    count = openvino_coverage if target == OPENVINO.name else integer_coverage
    coverage = count(files[MODEL], quantization.get("left_in_float"))
    half = _half_precision(artifact, folder) if recipe.fp16 else None
    for name, path in files.items():
        write_atomically(folder.path / name, path.read_bytes())
    rows = side_by_side(artifact, folder.path, options.threads, options.timing or {}, half=half is not None)
    report = build_report(
        model=recipe.model or type(model).__name__,
        data=recipe.data,
        seed=recipe.seed,
        input_shape=[[1, *x.shape[1:]] for x in task.example_inputs],
        environment=describe_environment(options.threads),
        stages=artifact.history,
        parity=parity,
        coverage=coverage,
        benchmarks=rows,
        fp16=half,
        layers=layer_rows(artifact.reference, artifact.last_float),
    )
    facts = {
        "origin": source.origin,
        "model": recipe.model,
        "preprocess": source.preprocess.to_dict() if source.preprocess else None,
        "labels": list(source.labels),
        "inputs": list(artifact.signature.inputs),
        "input_shape": report["input_shape"],
    }
    save_model(folder.path, model, artifact.reference, facts)
    epochs = [{"stage": stage.name, **row} for stage in artifact.history for row in stage.details.get("training", ())]
    if epochs:
        write_atomically(folder.path / TRAINING, to_csv(epochs, ("stage", *COLUMNS)).encode())
    write_atomically(folder.path / MARKDOWN, to_markdown(report).encode())
    page = to_html(report, folder.recipe_text(), by_name=source.origin["kind"] != "module")
    write_atomically(folder.path / HTML, page.encode())
    write_atomically(folder.path / REPORT, dumps(report).encode())
    shutil.rmtree(folder.stages, ignore_errors=True)
    return report


def _half_precision(artifact: Artifact, folder: RunFolder) -> dict[str, Any]:
    """Write and check the last float model in half precision: what a GPU is compared by."""
    path = folder.path / HALF
    export_onnx(copy.deepcopy(artifact.last_float), artifact.task.example_inputs, path, artifact.signature, fp16=True)
    parity = check_parity(artifact.last_float, open_onnx(path).predict, artifact.task, "fp16", HALF)
    return {"file": HALF, "size_bytes": path.stat().st_size, "parity": asdict(parity)}


def load(folder: Path | str, model: nn.Module | None = None) -> nn.Module:
    """The compressed torch model of a run's folder, rebuilt from `manifest.json` and `model.safetensors`, in eval mode.

    Args:
        model: the original architecture; needed only where the run was given a module, not a name. Not changed.

    Raises:
        UserError: no such model, torn files, a changed source file, or an architecture that does not fit.
    """
    folder = Path(folder)
    origin = read_manifest(folder)["origin"]
    return load_model(folder, copy.deepcopy(model) if model is not None else zoo.rebuild(origin))
