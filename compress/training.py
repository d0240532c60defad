"""One training loop for fine-tuning, distillation and the zoo's own weights."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.checkpoint import Checkpoint
from compress.errors import PassError, UserError
from compress.outputs import first_tensor
from compress.progress import report
from compress.sparsity.masks import keep_zeros

# (logits, inputs, target) -> loss. The inputs are there for losses that ask a teacher.
Loss = Callable[[Tensor, tuple[Tensor, ...], Tensor], Tensor]
Batches = Iterable[tuple[Tensor, ...]]


@dataclass(frozen=True)
class FitResult:
    """What a training run did.

    Attributes:
        losses: the mean loss of each epoch.
        scores: what `validate` gave after each epoch; empty without it.
    """

    losses: tuple[float, ...]
    steps: int
    samples: int
    seconds: float
    precision: str
    scores: tuple[float, ...] = ()

    @property
    def best(self) -> int | None:
        """The epoch with the highest score, counted from 1, the last of equals; None without scores."""
        return max(range(len(self.scores), 0, -1), key=lambda epoch: self.scores[epoch - 1]) if self.scores else None


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the processor has instructions for it (there it halves the time of a step), else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    flags = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if flags == "AVX512" and native else None


def count_batches(batches: Batches) -> int:
    """Batches in an epoch; iterates over all of them where there is no `len`."""
    return len(batches) if hasattr(batches, "__len__") else sum(1 for _ in batches)  # type: ignore[arg-type]


def fit(
    model: nn.Module,
    train: Callable[[], Batches],
    loss: Loss,
    *,
    epochs: int,
    lr: float,
    weight_decay: float = 5e-4,
    what: str = "train",
    after_epoch: Callable[[int, float], None] | None = None,
    before_step: Callable[[int, int], bool] | None = None,
    autocast: bool = True,
    clip_norm: float | None = None,
    average: float | None = None,
    validate: Callable[[nn.Module], float] | None = None,
) -> FitResult:
    """Train `model` in place: SGD with Nesterov momentum under a one-cycle schedule of learning rate and momentum.

    Convolution weights run in channels-last layout and, where the processor has it, under bfloat16 autocast; parameters
    stay float32. Zeros in the weights of sparse layers stay zero. The model is left in eval mode.

    Args:
        train: gives one epoch of `(*inputs, target)` batches on each call.
        lr: the peak learning rate; reached after 30 % of the steps, where the momentum is at its lowest: it goes from 0.95
            to 0.85 and back.
        after_epoch: called with the epoch, counted from 1, and its mean loss.
        before_step: called with the steps done and the steps in all; true where it wrote zeros into sparse layers, which are
            held from then on.
        autocast: False computes in float32 everywhere.
        clip_norm: gradients are scaled down to this Euclidean norm, of all of them together, where it is larger.
        average: the model ends with the exponential moving average of its weights, of this decay in [0, 1).
        validate: scores the model, averaged where asked for, after each epoch; it ends as it was after the best one.

    Raises:
        UserError: `train` gives no batch.
        PassError: the loss is not finite; names the epoch and the step.

    Source: Smith and Topin 2019, "Super-Convergence", section 3, for the schedule.
    """
    device = next(model.parameters()).device
    dtype = autocast_dtype(device) if autocast else None
    steps_per_epoch = count_batches(train())
    if steps_per_epoch == 0:
        raise UserError(f"{what}: the training data are empty")
    channels_last_(model)
    optimizer = _optimizer(model, lr, weight_decay)
    checkpoint = Checkpoint(model, average, validate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(2, epochs * steps_per_epoch))
    start, steps, samples, means = time.perf_counter(), 0, 0, []
    model.train()
    with keep_zeros(model) as zeros:
        for epoch in range(1, epochs + 1):
            total = torch.zeros((), device=device)
            count = 0
            for batch in train():
                if before_step is not None and before_step(steps, epochs * steps_per_epoch):
                    zeros.renew()
                *inputs, target = (_to_device(x, device) for x in batch)
                with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                    logits = first_tensor(model(*inputs))
                value = loss(logits.float(), tuple(inputs), target)
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                if clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
                optimizer.step()
                schedule.step()
                checkpoint.after_step()
                total += value.detach()
                count, steps, samples = count + 1, steps + 1, samples + len(target)
                note = f"loss {total.item() / count:.3f}" if count % 10 == 0 else ""
                report(what, steps, epochs * steps_per_epoch, note)
            mean = total.item() / count
            if not math.isfinite(mean):
                where = f"in epoch {epoch} of {epochs}, at step {steps} or before"
                raise PassError(f"the loss became {mean} {where}; try a lower lr than {lr}")
            means.append(mean)
            if after_epoch is not None:
                after_epoch(epoch, mean)
            checkpoint.after_epoch(zeros.write_)
        checkpoint.finish_(zeros.write_)
    precision = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    return FitResult(tuple(means), steps, samples, time.perf_counter() - start, precision, tuple(checkpoint.scores))


def _optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.SGD:
    """Biases and norm parameters are not decayed: pulling a scale to zero changes the function, not its size."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=lr, momentum=0.95, nesterov=True)


def channels_last_(model: nn.Module) -> nn.Module:
    """Lay out the weights of 2d convolutions with channels last, in place: the layout of the fast kernels on the CPU."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.ndim == 4:
        return tensor.to(device, memory_format=torch.channels_last)
    return tensor.to(device)


def reestimate_batch_norm(model: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> int:
    """Set the running statistics of every batch norm, in place, to the average over `batches` of inputs.

    What pruning leaves behind are statistics of channels that no longer see the same input; a few hundred samples mend
    them without any gradient. All else stays in eval mode, and momentum is restored. Gives the number of layers updated.

    Raises:
        UserError: there is no batch to average over.

    Source: Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 (precise BN).
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    device = next(model.parameters()).device
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
        layer.train()
    seen = 0
    try:
        with torch.no_grad():
            for batch in batches:
                model(*(x.to(device) for x in batch))
                seen += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
    if seen == 0:
        raise UserError("batch norm cannot be re-estimated: the calibration data are empty")
    return len(layers)
