"""What became of each convolution and linear layer."""

from typing import Any

from torch import Tensor, nn

from compress.pruning.channels import widths


def layer_rows(before: nn.Module, after: nn.Module) -> list[dict[str, Any]]:
    """A row for each layer of either, as plain data, in the order of the network.

    `name`; `width_before` and `width_after`, its output channels or features, None where that network has no such layer;
    `sparsity`, the share of its weights that are zero in `after`.
    """
    old, new = widths(before), widths(after)
    names: list[str] = []
    for name in old:  # what a layer was replaced by is inside a module of its name
        names += [name, *(other for other in new if other not in old and other.startswith(f"{name}."))]
    names += [name for name in new if name not in names]
    modules = dict(after.named_modules())
    return [
        {
            "name": name,
            "width_before": old.get(name),
            "width_after": new.get(name),
            "sparsity": _zeros(modules[name]) if name in new else None,
        }
        for name in names
    ]


def _zeros(layer: nn.Module) -> float:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return round(float((weight == 0).float().mean()), 6)
