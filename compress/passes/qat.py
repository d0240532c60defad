"""Quantization-aware training: int8, then training with its rounding until the rounding costs less."""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import fx, nn

from compress import workers
from compress.artifact import Artifact
from compress.distillation import Options, Teacher, objective
from compress.errors import PassError, UserError
from compress.outputs import fixed_batch, predictor
from compress.passes.base import check_range
from compress.passes.finetune import soft_labels
from compress.passes.int8 import Int8
from compress.passes.recovery import described, rows
from compress.quant.ptq import quantizers_in
from compress.quant.qat import finish, freeze_ranges_, move_, trainable_
from compress.quiet import quiet
from compress.store import MANIFEST, WEIGHTS, load_model, read_manifest, save_model
from compress.training import FitResult, Settings, fit
from compress.training.settings import check

UNTRAINED = "untrained"  # beside the state of a training: what it started from


@dataclass(frozen=True)
class QAT(Int8, Settings):
    """The pass `int8`, whose options it has, and training from there on; worth its time below 8 bits.

    Batch norm is folded before, so that what trains is what runs. Everything computes in float32. The epoch with the best
    validation score is kept, and where none is as good as before training, nothing of the training is.

    Source: Esser et al. 2020, "Learned Step Size Quantization"; Jacob et al. 2018, "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference", section 3.

    Args:
        learn_scales: whether the step sizes are trained; otherwise they stay as calibration chose them.
        freeze: share of the steps, at the end, in which the step sizes stand still; in [0, 1].
        distill, temperature, alpha: as in the pass `finetune`.
        epochs, lr, weight_decay, optimizer, schedule, accumulate, clip_norm, average, mixup, patience, retry, tensorboard: of
            the training, see `compress.training.Settings`.
    """

    bias_correction: bool | None = False  # training does it
    epochs: int = 2
    lr: float = 0.01
    weight_decay: float = 1e-4
    learn_scales: bool = True
    freeze: float = 0.2
    average: float | None = 0.99
    clip_norm: float | None = 1.0
    distill: bool = True
    temperature: float = 4.0
    alpha: float = 0.9

    name: ClassVar[str] = "qat"
    needs: ClassVar[tuple[str, ...]] = ("calibration", "train")

    def __post_init__(self) -> None:
        if self.time_budget is not None:
            why = "it bounds the search within max_drop; qat takes as long as its epochs"
            raise UserError(f"{self.name}: time_budget is an option of int8; {why}")
        super().__post_init__()
        if self.max_drop is not None:
            why = "qat trains until the rounding costs less, and keeps the best epoch"
            raise UserError(f"{self.name}: max_drop is an option of int8; {why}")
        check(self, self.name)
        check_range(self.name, "freeze", self.freeze, 0, 1, open_ends=False)
        check_range(self.name, "temperature", self.temperature, 0, float("inf"), open_ends=True)
        check_range(self.name, "alpha", self.alpha, 0, 1, open_ends=False)

    def apply(self, artifact: Artifact) -> nn.Module:
        device = next(artifact.model.parameters()).device
        untrained = self._untrained(artifact)
        assert isinstance(untrained, fx.GraphModule)
        if not quantizers_in(untrained):
            return untrained
        if fixed_batch(untrained) is not None:
            raise UserError(f"{self.name} cannot train a network whose forward fixes the batch; use int8")
        with quiet():  # torch warns of its own pytree when a captured graph is copied
            network = copy.deepcopy(untrained)
        move_(trainable_(network, artifact.model, learn_scales=self.learn_scales), device)
        try:
            done = self._fit(network, artifact)
        except PassError as error:  # the loss is no number any more
            artifact.notes.append(f"nothing of the training is kept: {error}")
            return untrained
        return self._better(untrained, finish(move_(network, torch.device("cpu"))), done, artifact)

    def _untrained(self, artifact: Artifact) -> nn.Module:
        """What training starts from, on the CPU. Made by one process, for which layers stay in float is a matter of time."""
        with tempfile.TemporaryDirectory() as scratch:
            folder, model = Path(scratch), None
            if workers.first():
                with workers.alone():
                    model = self._calibrated(artifact)
                if workers.count() > 1:
                    save_model(folder, model, artifact.reference, {})
            workers.share_files(folder, (WEIGHTS, MANIFEST))
            return load_model(folder, copy.deepcopy(artifact.reference)) if model is None else model

    def _calibrated(self, artifact: Artifact) -> nn.Module:
        """The network of `int8`; of a training that was interrupted the one that it started from, as times vary."""
        folder = artifact.progress / UNTRAINED if artifact.progress is not None else None
        if folder is not None and (folder / MANIFEST).is_file():
            facts = read_manifest(folder)
            artifact.notes.extend(facts["notes"])
            return load_model(folder, copy.deepcopy(artifact.reference))
        model = super().apply(artifact)
        artifact.written.clear()  # training changes it
        if folder is not None:
            folder.mkdir(exist_ok=True)
            save_model(folder, model, artifact.reference, {"notes": artifact.notes})
        return model

    def _fit(self, network: fx.GraphModule, artifact: Artifact) -> FitResult:
        task = artifact.task
        assert task.train is not None
        validate = task.validate
        device = next(network.parameters()).device

        def freeze(done: int, steps: int) -> bool:
            if done >= (1 - self.freeze) * steps:
                freeze_ranges_(network)
            return False

        weights = soft_labels(self.alpha if self.distill else 0.0)
        teacher = Teacher(artifact.reference, device, autocast=False) if "kd" in weights else None
        options = Options(self.temperature)
        with objective(network, teacher, weights, task.example_inputs, options=options) as loss:
            return fit(
                network,
                task.train,
                loss,
                self,
                what=self.name,
                before_step=freeze,
                autocast=False,
                validate=(lambda model: validate(predictor(model))) if validate is not None else None,
                keep=artifact.progress,
            )

    def _better(self, untrained: nn.Module, trained: nn.Module, done: FitResult, artifact: Artifact) -> nn.Module:
        """The trained network, or the one from before where that scores better; with a note."""
        artifact.notes.append(described(done) + (", distilled from the original" if self.distill else ""))
        if done.stopped is not None:
            artifact.notes.append(done.stopped)
        artifact.details["training"] = rows(done)
        if done.best is None or artifact.task.validate is None:
            artifact.notes.append("no validation data: the last epoch is kept, unseen whether it is better than before training")
            return trained
        score, before = done.scores[done.best - 1], artifact.task.validate(predictor(untrained))
        if score < before:
            which, kept = f"nothing of the training is kept: epoch {done.best} of {self.epochs}, the best,", untrained
        else:
            which, kept = f"epoch {done.best} of {self.epochs} is kept: it", trained
        found, untaught = f"{100 * score:.2f} % on the validation data", f"{100 * before:.2f} %"
        artifact.notes.append(f"{which} scores {found}, int8 without training {untaught}")
        return kept
