"""Taking units out of a model: parameters, and the attributes that repeat their sizes."""

import copy
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.layers import is_transposed_linear
from compress.pruning.groups import Group

# Attributes that repeat the number of heads, or the width of all heads together, in the attention layers of common libraries.
HEADS = re.compile(r"^(n|num|number_of)_?(attention_|kv_|key_value_|attn_)?heads?$|^(attention_)?heads$")
ALL_HEADS = {"all_head_size", "inner_dim", "split_size", "embed_dim", "dim", "attn_dim", "hidden_size", "d_model", "width"}

Cuts = Sequence[tuple[Group, Sequence[int]]]  # of each group, the units that go


def removed_places(cuts: Cuts) -> dict[tuple[str, int], set[int]]:
    """(parameter, axis) -> the positions that go."""
    removed: dict[tuple[str, int], set[int]] = defaultdict(set)
    for group, units in cuts:
        for member in group.members:
            removed[member.parameter, member.dim].update(member.places[list(units)].ravel().tolist())
    return removed


def cut_(model: nn.Module, cuts: Cuts) -> None:
    """Take the units out, in place. Parameters that were shared stay shared; gradients are dropped."""
    before, smaller = _smaller(model, cuts)
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for leaf, old in store.items():
                if old is not None and id(old) in smaller:
                    store[leaf] = smaller[id(old)]  # type: ignore[assignment]
    _repeat_sizes(model, before)
    _count_heads(model, cuts, before)


def cut_copy(model: nn.Module, cuts: Cuts) -> nn.Module:
    """A copy without the units; `model` is not changed."""
    before, smaller = _smaller(model, cuts)
    cut = copy.deepcopy(model, dict(smaller))  # takes the smaller tensors instead of copying the old ones
    _repeat_sizes(cut, before)
    _count_heads(cut, cuts, before)
    return cut


@torch.no_grad()
def _smaller(model: nn.Module, cuts: Cuts) -> tuple[dict[str, tuple[int, ...]], dict[int, Tensor]]:
    """The shapes before, by name; and what replaces each parameter or buffer that loses something, by its id."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    smaller: dict[int, Tensor] = {}
    for name, by_dim in _by_parameter(removed_places(cuts)).items():
        tensor = original = tensors[name]
        for dim, places in by_dim.items():
            kept = [i for i in range(tensor.shape[dim]) if i not in places]
            tensor = tensor.index_select(dim, torch.tensor(kept, dtype=torch.long, device=tensor.device))
        smaller[id(original)] = nn.Parameter(tensor, original.requires_grad) if isinstance(original, nn.Parameter) else tensor
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}, smaller


def _by_parameter(removed: Mapping[tuple[str, int], set[int]]) -> dict[str, dict[int, set[int]]]:
    found: dict[str, dict[int, set[int]]] = defaultdict(dict)
    for (name, dim), places in removed.items():
        found[name][dim] = places
    return found


def _repeat_sizes(model: nn.Module, before: Mapping[str, tuple[int, ...]]) -> None:
    """The sizes that torch's layers repeat beside their weights."""
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            width = module.in_proj_weight.shape[1]
            module.num_heads, module.embed_dim, module.kdim, module.vdim = width // module.head_dim, width, width, width
        weight = getattr(module, "weight", None)
        old = before.get(f"{path}.weight" if path else "weight")
        if not isinstance(weight, Tensor) or old is None or old == tuple(weight.shape):
            continue
        new: dict[str, Any] = {}
        if isinstance(module, nn.modules.conv._ConvNd):
            groups = int(module.groups)
            outputs, inputs = (1, 0) if module.transposed else (0, 1)
            if groups > 1 and old[inputs] == 1 and not module.transposed:  # depthwise: fewer groups, not narrower ones
                groups = weight.shape[0] // (old[0] // groups)
            new = {"groups": groups, "out_channels": weight.shape[outputs], "in_channels": weight.shape[inputs]}
            new["in_channels" if not module.transposed else "out_channels"] *= groups
        elif isinstance(module, nn.Linear):
            new = {"out_features": weight.shape[0], "in_features": weight.shape[1]}
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            new = {"num_features": weight.shape[0]}
        elif isinstance(module, nn.GroupNorm):
            new = {"num_channels": weight.shape[0]}
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            new = {"normalized_shape": tuple(weight.shape)}
        elif isinstance(module, nn.Embedding):
            new = {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}
        elif isinstance(module, nn.PReLU):
            new = {"num_parameters": weight.shape[0]}
        elif is_transposed_linear(module):
            new = {"nx": weight.shape[0], "nf": weight.shape[1]}
        for name, value in new.items():
            setattr(module, name, value)


def _count_heads(model: nn.Module, cuts: Cuts, before: Mapping[str, tuple[int, ...]]) -> None:
    """Attributes of attention layers: the number of heads, and the width of all heads together.

    They belong to the module around the layer that makes the heads, and to those one level above it.
    """
    modules = dict(model.named_modules())
    done: set[tuple[str, str]] = set()  # a layer of queries and one of keys stand in the same module
    for group, units in cuts:
        if group.width == 1:
            continue
        left = group.units - len(units)
        together = {group.units * m.places.shape[1] for m in group.members}  # a fused layer makes three times what is read
        for layer in group.layers:
            sizes = {before[m.parameter][m.dim] for m in group.members if m.layer == layer and not m.reads}
            around = layer.rpartition(".")[0]
            for path in dict.fromkeys((around, around.rpartition(".")[0])):
                module = modules.get(path)
                for name, value in list(vars(module).items()) if module is not None else []:
                    if type(value) is not int or (path, name) in done:
                        continue
                    # A multiple where several query heads share one of keys.
                    heads = HEADS.match(name) and value % group.units == 0
                    if heads or (name in ALL_HEADS and value in together and _own(name, sizes, value)):
                        setattr(module, name, value // group.units * left)
                        done.add((path, name))


def _own(name: str, sizes: set[int], value: int) -> bool:
    """Whether the attribute means the heads rather than the width of the stream that happens to be as wide."""
    return name in ("all_head_size", "inner_dim", "split_size", "attn_dim") or value in sizes
