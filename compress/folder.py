"""The folder of a run: what is in it, when it is finished, and what a resumed run finds there."""

import contextlib
import copy
import json
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from compress.artifact import Artifact, record_from_dict, record_to_dict
from compress.errors import UserError
from compress.files import write_atomically
from compress.quant.ptq import quantizers_in
from compress.store import MANIFEST, WEIGHTS, load_model, read_manifest, save_model

RECIPE, REPORT, MARKDOWN, HTML = "recipe.yaml", "report.json", "report.md", "report.html"
MODEL, BASELINE, HALF = "model.onnx", "baseline.onnx", "model-fp16.onnx"
TRAINING = "training.csv"
FILES = (MODEL, BASELINE, HALF, MANIFEST, WEIGHTS, RECIPE, REPORT, MARKDOWN, HTML, TRAINING)
STAGES, RECORD, ORIGIN = ".stages", "record.json", "origin.json"
STAGE_FILES = (ORIGIN, WEIGHTS, MANIFEST, RECORD)  # what `RunFolder.keep` writes


@dataclass(frozen=True)
class RunFolder:
    """A run's folder.

    Args:
        path: the folder; made on `prepare`.
    """

    path: Path

    @property
    def stages(self) -> Path:
        return self.path / STAGES

    def finished(self) -> bool:
        """Whether a run ended here: the report is written last."""
        return (self.path / REPORT).is_file()

    def report(self) -> dict[str, Any]:
        try:
            return json.loads((self.path / REPORT).read_text(encoding="utf8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / REPORT} cannot be read: {error}") from None

    def prepare(self, *, force: bool, resume: bool) -> None:
        """Make the folder, or clear or keep what is in it.

        Raises:
            UserError: it holds a run and neither `force` nor `resume` is given, holds other things, or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            present = {entry.name for entry in self.path.iterdir() if not entry.name.endswith(".tmp")}
            foreign = present - {*FILES, STAGES}
            if present and not resume:
                if not force:
                    raise UserError(
                        f"{self.path} is not empty; choose another --out, continue it with --resume, or replace it with --force"
                    )
                if foreign:
                    raise UserError(
                        f"{self.path} holds '{sorted(foreign)[0]}', which no run wrote; --force replaces only the files of a run"
                    )
                self.clear()
            probe = self.path / ".probe.tmp"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror or error}") from None

    def clear(self) -> None:
        """Remove the files of a run; the report first, so that a torn removal does not look finished."""
        for name in (REPORT, *FILES):
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()
        shutil.rmtree(self.stages, ignore_errors=True)

    def write_recipe(self, recipe: dict[str, Any]) -> None:
        """Write the resolved recipe."""
        write_atomically(self.path / RECIPE, yaml.safe_dump(recipe, sort_keys=False).encode())

    def recipe_text(self) -> str:
        """The resolved recipe as it is in the folder; empty where the file is gone or is no text."""
        try:
            return (self.path / RECIPE).read_text(encoding="utf8")
        except (OSError, ValueError):
            return ""

    def check_same(self, recipe: dict[str, Any]) -> None:
        """Refuse to resume with a recipe other than the folder's.

        Raises:
            UserError: names what differs, and both values.
        """
        path = self.path / RECIPE
        if not path.is_file():
            return
        try:
            here = _flat(yaml.safe_load(path.read_text(encoding="utf8")))
        except (yaml.YAMLError, AttributeError, TypeError, KeyError):
            raise UserError(f"{path} is not the recipe of a run any more; start anew with --force") from None
        wanted = _flat(recipe)
        for key in [*here, *wanted]:
            if here.get(key) != wanted.get(key):
                raise UserError(
                    f"{self.path} was started with {key} {_shown(here.get(key))}, not {_shown(wanted.get(key))}; "
                    "resume it with the same options, or start anew with --force"
                )

    def keep(self, artifact: Artifact, folder: Path, origin: dict[str, Any]) -> None:
        """Save a finished stage; its record last, since that is what says it is finished."""
        if len(artifact.history) > 1:
            save_model(folder, artifact.model, artifact.reference, {"origin": origin})
        else:  # the baseline is the source itself
            write_atomically(folder / ORIGIN, json.dumps(origin).encode())
        record = record_to_dict(artifact.history[-1])
        write_atomically(folder / RECORD, json.dumps(record, indent=1).encode())

    def drop_if_nothing_finished(self) -> None:
        """Remove what a failed run wrote, unless a pass is done that `resume` could build on."""
        if self.finished() or len(list(self.stages.glob(f"*/{RECORD}"))) > 1:
            return
        self.clear()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def restore(self, artifact: Artifact, folder: Path, origin: dict[str, Any]) -> Artifact | None:
        """The artefact after the stage in `folder`, or None where that stage did not finish.

        Raises:
            UserError: the stage was made from another source, such as a file that has changed since.
        """
        try:
            record = record_from_dict(json.loads((folder / RECORD).read_text(encoding="utf8")))
        except (OSError, ValueError):
            return None
        first = not artifact.history
        made_from = json.loads((folder / ORIGIN).read_text(encoding="utf8")) if first else read_manifest(folder)["origin"]
        if made_from != json.loads(json.dumps(origin)):
            raise UserError(
                f"the model's source has changed since {self.path} was started; restore it, or start anew with --force"
            )
        file = folder / MODEL if (folder / MODEL).is_file() else None
        if first:
            return replace(artifact, history=(record,), file=file)
        model = load_model(folder, copy.deepcopy(artifact.reference))
        last_float = artifact.last_float if quantizers_in(model) else model
        return replace(artifact, model=model, last_float=last_float, history=(*artifact.history, record), file=file)


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    """A resolved recipe with one key per option, in words that a person used: `seed`, `passes`, `finetune epochs`."""
    steps = [next(iter(step.items())) for step in recipe["passes"]]
    flat = {key: value for key, value in recipe.items() if key != "passes"}
    flat["passes"] = [name for name, _ in steps]
    seen: Counter[str] = Counter()
    for name, options in steps:
        seen[name] += 1
        which = f"{name} {seen[name]}" if seen[name] > 1 else name  # a pass may be there several times
        flat.update({f"{which} {option}": value for option, value in options.items()})
    return flat


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
