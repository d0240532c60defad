"""Training towards a teacher: another network, or the untouched original."""

import copy
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn

from compress import zoo
from compress.artifact import Artifact
from compress.distillation import Options, Teacher, objective
from compress.distillation.cache import Cache
from compress.distillation.terms import find
from compress.errors import UserError
from compress.files import CACHE
from compress.outputs import first_tensor, predictor
from compress.passes.base import check_range
from compress.passes.recovery import train_
from compress.task import Task
from compress.training import Batches, Settings
from compress.training.loop import count_batches
from compress.training.settings import check

ORIGINAL = "original"


@dataclass(frozen=True)
class Distill(Settings):
    """Train towards a teacher's outputs, and by what its layers compute.

    The losses, by name: ce (the labels), kd, dkd (logits); hint, at, rkd_distance, rkd_angle, crd (outputs of layers);
    tinybert_hidden, tinybert_attention, tinybert_prediction, minilm (transformers). Widths that differ are projected, and the
    projections are dropped afterwards. Batch norm statistics are re-estimated at the end, on training batches.

    Source: of each loss, see `compress.distillation.terms` and `compress.losses`.

    Args:
        teacher: `original`, the run's own uncompressed model; a MODEL as the command line takes it; or, in Python, a module.
        teacher_weights: a file of weights for the teacher.
        losses: name of a loss to its weight, above 0.
        pairs: layer of the student to layer of the teacher, for losses on layers; without, those of the same name, or blocks at
            the same share of the depth of two transformers.
        temperature: softens both distributions of kd and dkd, above 0.
        label_smoothing: share of a label that is spread over all classes, in [0, 1).
        control: train the same student a second time, on the labels alone, and show it beside.
        allow_noop: no error where training changed no number.
        epochs, lr, weight_decay, optimizer, schedule, accumulate, clip_norm, average, mixup, patience, retry, tensorboard: of
            the training, see `compress.training.Settings`.
    """

    teacher: str | nn.Module = ORIGINAL
    teacher_weights: str | None = None
    losses: dict[str, float] = field(default_factory=lambda: {"kd": 0.9, "ce": 0.1})
    pairs: dict[str, str] = field(default_factory=dict)
    temperature: float = 4.0
    label_smoothing: float = 0.0
    control: bool = False
    allow_noop: bool = False

    name: ClassVar[str] = "distill"
    stage: ClassVar[str] = "recover"
    needs: ClassVar[tuple[str, ...]] = ("train",)

    def __post_init__(self) -> None:
        check(self, self.name)
        if not isinstance(self.losses, Mapping):
            example = "losses={'kd': 0.9, 'ce': 0.1}"
            raise UserError(f"{self.name}: losses must map names of losses to weights, such as {example}, got {self.losses!r}")
        if not self.losses:
            raise UserError(f"{self.name}: losses is empty; name one, such as kd=0.9,ce=0.1")
        for loss, weight in self.losses.items():
            try:
                find(loss)
            except UserError as error:
                raise UserError(f"{self.name}: {error}") from None
            check_range(self.name, f"the weight of {loss}", weight, 0, float("inf"), open_ends=True)
        check_range(self.name, "temperature", self.temperature, 0, float("inf"), open_ends=True)
        check_range(self.name, "label_smoothing", self.label_smoothing, 0, 0.999, open_ends=False)
        if self.teacher_weights is not None and self.teacher == ORIGINAL:
            raise UserError(f"{self.name}: the teacher original has its own weights; teacher_weights goes with a MODEL")
        if self.control and self.patience is not None:
            raise UserError(f"{self.name}: control needs as many steps with and without teacher; leave patience out")
        if self.patience is not None:
            object.__setattr__(self, "needs", ("train", "validate"))

    def rehearse(self, model: nn.Module, task: Task) -> None:
        """Before anything runs: find the teacher, and compare it with the model as it stands.

        Raises:
            UserError: there is no such teacher, or it cannot be compared as asked for.
        """
        if {find(name).sees for name in self.losses} == {"labels"}:
            return
        student, inputs = copy.deepcopy(model), task.example_inputs
        teacher = Teacher(student if self.teacher == ORIGINAL else self._network(task), next(model.parameters()).device)
        try:
            with torch.no_grad(), objective(student, teacher, self.losses, inputs, pairs=self.pairs) as loss:
                logits = first_tensor(student.eval()(*inputs))
                loss(logits.float(), inputs, torch.zeros(len(logits), dtype=torch.long))
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None

    def apply(self, artifact: Artifact) -> nn.Module:
        model, task = artifact.model, artifact.task
        device = next(model.parameters()).device
        teacher, about = self._teacher(artifact, device)
        options = Options(self.temperature, self.label_smoothing, samples_in(task.train))
        try:
            with objective(model, teacher, self.losses, task.example_inputs, pairs=self.pairs, options=options) as loss:
                train_(artifact, self, loss, self.name, about)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None
        finally:
            if teacher is not None and teacher.cache is not None:
                teacher.cache.save()
        return model

    def without_teacher(self) -> "Distill":
        """The control: the same training on the labels alone."""
        return replace(self, teacher=ORIGINAL, teacher_weights=None, losses={"ce": 1.0}, pairs={}, control=False)

    def _teacher(self, artifact: Artifact, device: torch.device) -> tuple[Teacher | None, str]:
        """The teacher, where a loss needs one, and what to say about it."""
        sees = {find(name).sees for name in self.losses}
        if sees == {"labels"}:
            return None, ", from the labels alone"
        task = artifact.task
        named = f"by {', '.join(f'{name} {weight:g}' for name, weight in self.losses.items())}"
        if self.teacher == ORIGINAL:
            network, about = artifact.reference, f", distilled from the original {named}"
        else:
            network = self._network(task)
            about = f", distilled from {self._title} {named}"
            if task.validate is not None:  # a teacher that expects other inputs shows here
                about += f"; the teacher scores {100 * task.validate(predictor(network)):.2f} % on the validation data"
        cache = None
        if sees <= {"labels", "logits"} and artifact.progress is not None and not self.mixup:
            cache = Cache(CACHE.expanduser() / "teachers", network, samples_in(task.train))
        return Teacher(network, device, cache=cache), about

    @property
    def _title(self) -> str:
        return self.teacher if isinstance(self.teacher, str) else f"a {type(self.teacher).__name__}"

    def _network(self, task: Task) -> nn.Module:
        """The teacher that is not the original, in eval mode, once it has run on the student's inputs."""
        if isinstance(self.teacher, str):
            if difflib.get_close_matches(self.teacher, [ORIGINAL], cutoff=0.7):
                raise UserError(f"{self.name}: unknown teacher '{self.teacher}'. Did you mean '{ORIGINAL}'?")
            try:
                network = zoo.load(self.teacher, self.teacher_weights).model.eval()
            except UserError as error:
                about = str(error).replace("--weights FILE", "--teacher-weights FILE")  # the other are the student's
                raise UserError(f"{self.name}: the teacher: {about}") from None
        else:
            network = self.teacher.eval()
        try:
            predictor(network)(*task.example_inputs)
        except Exception as error:  # another network's forward can raise anything
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.name}: the teacher {self._title} does not run on the student's inputs ({first})") from None
        return network


def samples_in(train: Callable[[], Batches] | None) -> int:
    """How many samples an epoch has at most; no random number is used up."""
    assert train is not None
    with torch.random.fork_rng():
        batches = train()
        first = next(iter(batches), None)
    return 0 if first is None else count_batches(batches) * len(first[-1])
