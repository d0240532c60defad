"""The training loop on a toy problem, and batch norm statistics against averages computed by hand."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import PassError, UserError
from compress.progress import watch
from compress.training import Epoch, Loss, Settings, fit, reestimate_batch_norm
from compress.training.loop import count_batches


def separable() -> list[tuple[Tensor, Tensor]]:
    """Points whose class is the side of a line that they lie on: 5 batches of 16, and one of 4."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(84, 2, generator=generator)
    return list(zip(x.split(16), (x.sum(1) > 0).long().split(16), strict=True))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def cross_entropy(logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target)


def clones(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_loss_falls_and_the_classes_are_learned() -> None:
    model = net()
    done = fit(model, separable, cross_entropy, Settings(epochs=8, lr=0.1))
    assert len(done.losses) == 8
    assert done.losses[-1] < 0.3 * done.losses[0]
    assert not model.training
    right = [(model(x).argmax(1) == y).float().mean() for x, y in separable()]
    assert sum(right) / len(right) > 0.93


def test_steps_and_samples_are_counted() -> None:
    done = fit(net(), separable, cross_entropy, Settings(epochs=3, lr=0.1))
    assert (done.steps, done.samples) == (3 * 6, 3 * 84)
    assert done.precision in ("float32", "bfloat16")
    assert done.seconds > 0


def test_the_reported_losses_are_the_means_of_the_steps() -> None:
    seen: list[float] = []

    def spying(logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        value = F.cross_entropy(logits, target)
        seen.append(value.item())
        return value

    epochs: list[Epoch] = []
    done = fit(net(), separable, spying, Settings(epochs=2, lr=0.1), after_epoch=epochs.append)
    assert done.losses == pytest.approx([sum(seen[:6]) / 6, sum(seen[6:]) / 6])
    assert [(epoch.number, epoch.steps, epoch.samples, epoch.loss) for epoch in epochs] == [
        (1, 6, 84, done.losses[0]),
        (2, 12, 168, done.losses[1]),
    ]


def test_the_loss_sees_logits_in_float32_inputs_and_target() -> None:
    kinds = set()

    def spying(logits: Tensor, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        kinds.add((logits.dtype, len(inputs), inputs[0].shape[1:], target.dtype))
        return F.cross_entropy(logits, target)

    fit(net(), separable, spying, Settings(epochs=1, lr=0.1))
    assert kinds == {(torch.float32, 1, (2,), torch.int64)}


def test_equal_seeds_give_equal_weights() -> None:
    def shuffled() -> Iterator[tuple[Tensor, ...]]:
        batches = separable()
        return iter([batches[index] for index in torch.randperm(len(batches))])

    def trained(seed: int) -> dict[str, Tensor]:
        model = net()
        torch.manual_seed(seed)
        fit(model, shuffled, cross_entropy, Settings(epochs=2, lr=0.1))
        return model.state_dict()

    first, second, other = trained(3), trained(3), trained(4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_frozen_parameters_stay_and_biases_are_not_decayed() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    # With a loss that has no slope, nothing but decay moves a parameter.
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit(model, separable, lambda logits, inputs, target: 0 * logits.sum(), Settings(epochs=1, lr=0.1, weight_decay=0.1))
    assert torch.equal(model[0].weight, frozen)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"3.weight"}
    assert (model[3].weight.abs() <= before["3.weight"].abs()).all()


def test_the_schedule_peaks_at_the_given_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[tuple[float, float]] = []
    step = torch.optim.SGD.step

    def spying(self: torch.optim.SGD, closure: Callable[[], float] | None = None) -> object:
        rates.append((self.param_groups[0]["lr"], self.param_groups[0]["momentum"]))
        return step(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", spying)
    fit(net(), separable, cross_entropy, Settings(epochs=10, lr=0.2))
    assert len(rates) == 60
    highest = max(range(60), key=lambda index: rates[index][0])
    assert rates[highest] == pytest.approx((0.2, 0.85))
    assert highest == round(0.3 * 60) - 1
    assert rates[0] == pytest.approx((0.2 / 25, 0.95))
    assert rates[-1] == pytest.approx((0.2 / 25 / 1e4, 0.95))


def breaking(bad: float, at: int) -> Loss:
    """Cross entropy that is multiplied by `bad` on its `at`-th call, counted from 1."""
    calls = itertools.count(1)
    return lambda logits, inputs, target: F.cross_entropy(logits, target) * (bad if next(calls) == at else 1)


@pytest.mark.parametrize(("bad", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (1e6, "3.702e+05")])
def test_a_loss_that_diverges_ends_the_training_with_the_weights_of_the_last_good_epoch(bad: float, shown: str) -> None:
    model, good = net(), net()
    ends: list[dict[str, Tensor]] = []
    fit(good, separable, cross_entropy, Settings(epochs=3, lr=0.1), after_epoch=lambda epoch: ends.append(clones(good)))
    done = fit(model, separable, breaking(bad, 15), Settings(epochs=3, lr=0.1))
    assert done.stopped is not None
    assert done.stopped.startswith(f"the loss became {shown}")
    assert done.stopped.endswith("in epoch 3 of 3, at step 15, batch 3; the weights are those after epoch 2")
    assert len(done.epochs) == 2
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in model.state_dict().items())
    assert not model.training


def test_divergence_in_the_first_epoch_is_an_error() -> None:
    with pytest.raises(PassError) as error:
        fit(net(), separable, breaking(math.nan, 4), Settings(epochs=3, lr=0.1))
    assert str(error.value) == "the loss became nan in epoch 1 of 3, at step 4, batch 4; try a lower lr than 0.1, or retry"


def test_a_retry_begins_again_at_a_tenth_of_the_rate() -> None:
    model, expected = net(), net()
    done = fit(model, separable, breaking(math.nan, 8), Settings(epochs=2, lr=0.1, retry=True))
    fit(expected, separable, cross_entropy, Settings(epochs=2, lr=0.01))
    assert (done.restarts, done.stopped, len(done.epochs)) == (1, None, 2)
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_second_divergence_is_final() -> None:
    with pytest.raises(PassError) as error:
        fit(net(), separable, lambda logits, inputs, target: logits.sum() * math.nan, Settings(epochs=2, lr=0.1, retry=True))
    assert str(error.value) == "the loss became nan in epoch 1 of 2, at step 1, batch 1; try a lower lr than 0.01"


def test_gradients_are_scaled_down_to_the_largest_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.SGD.step

    def spying(self: torch.optim.SGD, closure: Callable[[], float] | None = None) -> object:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
        return step(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", spying)
    for clip_norm in (None, 0.1):
        fit(net(), separable, cross_entropy, Settings(epochs=1, lr=1e-6, clip_norm=clip_norm))
    assert min(norms[:6]) > 0.1
    assert norms[6:] == pytest.approx([0.1] * 6, rel=1e-3)


def test_the_model_ends_as_its_average_after_the_best_epoch() -> None:
    scores, seen = iter([0.2, 0.7, 0.4]), []

    def validate(model: nn.Module) -> float:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(scores)

    plain, model = net(), net()
    fit(plain, separable, cross_entropy, Settings(epochs=2, lr=0.1))
    done = fit(model, separable, cross_entropy, Settings(epochs=3, lr=0.1, average=0.9), validate=validate)
    assert (done.scores, done.best) == ((0.2, 0.7, 0.4), 2)
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(model[0].weight, plain[0].weight)
    assert not model.training
    assert fit(net(), separable, cross_entropy, Settings(epochs=1, lr=0.1)).best is None


def test_an_average_ends_the_training_and_does_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, model = net(), net()
    expected, seen, step = net()[0].weight.detach(), [], torch.optim.SGD.step

    def spying(self: torch.optim.SGD, closure: Callable[[], float] | None = None) -> object:
        done = step(self, closure)
        seen.append(plain[0].weight.detach().clone())
        return done

    monkeypatch.setattr(torch.optim.SGD, "step", spying)
    one = fit(plain, separable, cross_entropy, Settings(epochs=3, lr=0.1))
    for number, weight in enumerate(seen, 1):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weight
    other = fit(model, separable, cross_entropy, Settings(epochs=3, lr=0.1, average=0.5))
    assert one.losses == other.losses
    assert torch.allclose(model[0].weight, expected, atol=1e-6)
    assert not torch.allclose(model[0].weight, plain[0].weight, atol=1e-6)


def test_autocast_can_be_left_out() -> None:
    kinds = set()

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            kinds.add(super().forward(x).dtype)
            return super().forward(x)

    done = fit(Spy(2, 2), separable, cross_entropy, Settings(epochs=1, lr=0.1), autocast=False)
    assert (kinds, done.precision) == ({torch.float32}, "float32")


def test_no_training_data_is_told() -> None:
    with pytest.raises(UserError) as error:
        fit(net(), lambda: [], cross_entropy, Settings(epochs=3, lr=0.1), what="finetune")
    assert str(error.value) == "finetune: the training data are empty"


def test_progress_is_reported_at_each_step() -> None:
    seen: list[tuple[str, int, int | None, str]] = []
    with watch(lambda *step: seen.append(step)):
        fit(net(), separable, cross_entropy, Settings(epochs=2, lr=0.1), what="finetune")
    assert [(what, done, total) for what, done, total, _ in seen] == [("finetune", step, 12) for step in range(1, 13)]


def test_images_are_trained_in_any_layout() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    batches = [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))]
    assert fit(model, lambda: batches, cross_entropy, Settings(epochs=1, lr=0.01)).steps == 1


def test_batches_are_counted_with_and_without_a_length() -> None:
    assert count_batches([(torch.ones(1),)] * 3) == 3
    assert count_batches(iter([(torch.ones(1),)] * 3)) == 3


# Batch norm


def with_norms() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)
    )
    for norm in (model[1], model[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(1, 2)
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    return model


def test_the_statistics_become_the_average_over_the_batches() -> None:
    model, batches = with_norms(), [(torch.randn(size, 3, 8, 8) * size,) for size in (4, 6, 2)]
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" not in name}
    assert reestimate_batch_norm(model, iter(batches)) == 2
    firsts, seconds = [], []
    with torch.no_grad():
        for (x,) in batches:
            first = model[0](x)  # (batch, 4, 6, 6)
            mean, variance = first.mean((0, 2, 3)), first.var((0, 2, 3), correction=0)
            firsts.append((mean, first.var((0, 2, 3), correction=1)))
            # While statistics are taken, a norm divides by those of the batch itself.
            normal = (first - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + model[1].eps).sqrt()
            second = model[3](F.relu(normal * model[1].weight.view(-1, 1, 1) + model[1].bias.view(-1, 1, 1)))
            seconds.append((second.mean((0, 2, 3)), second.var((0, 2, 3), correction=1)))
    for norm, statistics in ((model[1], firsts), (model[4], seconds)):
        means, variances = (torch.stack(part).mean(0) for part in zip(*statistics, strict=True))
        assert torch.allclose(norm.running_mean, means, atol=1e-5)
        assert torch.allclose(norm.running_var, variances, rtol=1e-4)
    changed = [name for name, tensor in kept.items() if not torch.equal(tensor, model.state_dict()[name])]
    assert changed == ["1.num_batches_tracked", "4.num_batches_tracked"]


def test_all_else_is_as_it_was() -> None:
    model = with_norms()
    reestimate_batch_norm(model, [(torch.randn(4, 3, 8, 8),)])
    assert [module.momentum for module in model if isinstance(module, nn.BatchNorm2d)] == [0.3, 0.1]
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_dropout_is_off_meanwhile() -> None:
    model, x = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)), torch.randn(50, 3)
    reestimate_batch_norm(model.train(), [(x,)])
    assert torch.allclose(model[1].running_mean, x.mean(0), atol=1e-6)


def test_momentum_is_restored_after_a_failure() -> None:
    model = with_norms()
    with pytest.raises(RuntimeError):
        reestimate_batch_norm(model, [(torch.randn(4, 3, 8, 8),), (torch.randn(4, 5, 8, 8),)])
    assert [module.momentum for module in model if isinstance(module, nn.BatchNorm2d)] == [0.3, 0.1]
    assert not any(module.training for module in model.modules())


def test_a_model_without_norms_has_nothing_to_estimate() -> None:
    assert reestimate_batch_norm(nn.Linear(3, 2), [(torch.randn(4, 3),)]) == 0
    assert reestimate_batch_norm(nn.BatchNorm1d(3, track_running_stats=False), [(torch.randn(4, 3),)]) == 0


def test_nothing_to_average_over_is_told() -> None:
    with pytest.raises(UserError) as error:
        reestimate_batch_norm(with_norms(), [])
    assert str(error.value) == "batch norm cannot be re-estimated: the calibration data are empty"
