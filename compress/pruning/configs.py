"""The configuration of a model of the transformers library, made true again after a cut."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from compress.outputs import tensors
from compress.pruning.cut import HEADS, Cuts

Shapes = dict[str, tuple[int, ...]]


def fit_config_(model: nn.Module, before: nn.Module, cuts: Cuts, example_inputs: tuple[Tensor, ...]) -> str | None:
    """Write the new sizes into `model.config`, in place, if one configuration gives all of them.

    A configuration has one width for all layers of a kind; what was cut unevenly it cannot say. It is judged by building the
    model from it, at first without memory for its weights, and comparing every shape; then by the outputs, since twice the
    heads of half the width have the same shapes.

    Args:
        before: the same model before the cut.
        cuts: what was cut, for the numbers of heads.

    Gives a sentence for the report where no configuration fits; None otherwise, and for models of other libraries.
    """
    config = getattr(model, "config", None)
    if not hasattr(config, "to_diff_dict") or not hasattr(config, "save_pretrained"):
        return None
    wanted = _shapes(model)
    if wanted == _shapes(before):
        return None
    sizes, heads = _sizes(before, model), _heads(cuts)
    options = {}
    for name, value in vars(config).items():
        if not name.startswith("_") and (found := _candidates(value, heads if HEADS.match(name) else sizes)):
            options[name] = found
    best = {name: found[0] for name, found in options.items()}
    missing = _misses(model, best, wanted)
    for name, found in options.items():  # an attribute may be as large as a width by chance
        for value in [*found[1:], getattr(config, name)]:
            if missing == 0:
                break
            trial = {**best, name: value}
            if (fewer := _misses(model, trial, wanted)) < missing:
                best, missing = trial, fewer
    if missing or not _answers_alike(model, best, example_inputs):
        return (
            "model.config cannot say these widths, of layers that differ or of heads apart from the stream; from_pretrained will "
            "not load this model, compress.load does"
        )
    for name, value in best.items():
        setattr(config, name, value)
    return None


@torch.no_grad()
def _answers_alike(model: nn.Module, values: dict[str, Any], inputs: tuple[Tensor, ...]) -> bool:
    """Whether a model built from the configuration, with the weights of this one, gives its outputs."""
    try:
        built = type(model)(_with(model, values))
        built.load_state_dict(model.state_dict())
        wanted, found = (tensors(network.eval()(*inputs)) for network in (model, built))
    except Exception:  # a class that takes more than a configuration, or a forward that wants other sizes
        return False
    pairs = [(x, found.get(name)) for name, x in wanted.items()]
    return all(y is not None and torch.allclose(x, y, rtol=1e-4, atol=1e-4 * float(x.abs().max())) for x, y in pairs)


def _with(model: nn.Module, values: dict[str, Any]) -> Any:
    """The model's configuration with other values."""
    config = copy.deepcopy(model.config)
    for name, value in values.items():
        setattr(config, name, value)
    return config


def _candidates(value: Any, changed: list[tuple[int, int]]) -> list[Any]:
    """What an attribute, a size or a list of sizes, may have become."""
    if type(value) is int:
        return list(dict.fromkeys(new for old, new in changed if old == value))
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        first = [next((new for old, new in changed if old == item), item) for item in value]
        return [first] if first != value else []
    return []


def _heads(cuts: Cuts) -> list[tuple[int, int]]:
    """Heads before and after; with grouped queries the units are heads of keys, each with several of queries."""
    pairs = [(group.units, group.units - len(units)) for group, units in cuts if group.width > 1]
    return [(times * old, times * new) for times in (1, 2, 3, 4, 7, 8) for old, new in dict.fromkeys(pairs)]


def _sizes(before: nn.Module, after: nn.Module) -> list[tuple[int, int]]:
    """(old, new) sizes of the axes that were cut, and of attributes such as the number of heads; the commonest first."""
    counts: dict[tuple[int, int], int] = {}
    old_shapes, new_shapes = _shapes(before), _shapes(after)
    for name, old in old_shapes.items():
        for pair in zip(old, new_shapes[name], strict=True):
            counts[pair] = counts.get(pair, 0) + 1
    modules = dict(after.named_modules())
    for path, module in before.named_modules():
        for name, value in vars(module).items():
            new = getattr(modules[path], name, value)
            if type(value) is int and type(new) is int:
                counts[value, new] = counts.get((value, new), 0) + 1
    return [pair for pair in sorted(counts, key=lambda pair: -counts[pair]) if pair[0] != pair[1]]


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _misses(model: nn.Module, values: dict[str, Any], wanted: Shapes) -> int:
    """How many tensors of the model that this configuration builds have another shape than wanted."""
    try:
        with torch.device("meta"):
            built = _shapes(type(model)(_with(model, values)))
    except Exception:  # a width that its heads do not divide, among others
        return len(wanted) + 1
    return sum(shape != built.get(name) for name, shape in wanted.items()) + len(built.keys() - wanted.keys())
