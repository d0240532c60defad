"""What every kind of MODEL resolves to."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from compress.data.preprocess import Preprocess
from compress.task import Task


@dataclass(frozen=True)
class Source:
    """A model with its weights, and all that is known about it.

    Attributes:
        model: in eval mode, on the CPU.
        origin: plain data from which `compress.zoo.rebuild` builds the same architecture in a clean process.
        preprocess: what the model takes in; None where nothing is known (text, or a user's own model).
        labels: the names of the model's classes, in order; empty where unknown.
        tokenizer: for a text model, what turns a list of strings into input tensors.
        task: where the user's own function gave one.
        data: the default data set's name.
        defaults: options of passes, by pass, that differ from the pass's own default.
    """

    model: nn.Module
    origin: dict[str, Any]
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    tokenizer: Any = None
    task: Task | None = None
    data: str | None = None
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> "Source":
        """What the manifest of a run's folder knows of the source, enough for data to fit it; the model is an empty module."""
        preprocess = Preprocess.from_dict(manifest["preprocess"]) if manifest["preprocess"] else None
        return cls(nn.Module(), manifest["origin"], preprocess, tuple(manifest["labels"]))
