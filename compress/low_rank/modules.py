"""The modules that stand where a layer was factorised. The store knows them by name, and rebuilds them."""

from typing import Any

from torch import Tensor, nn

from compress.layers import is_transposed_linear


class _LowRank(nn.Module):
    """`reduce`, without bias, then `expand`, with the bias if there is one.

    The sizes stand in these two alone: what cuts channels of ordinary layers afterwards leaves nothing out of date here.
    """

    reduce: nn.Module
    expand: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.reduce(x))


class LowRankLinear(_LowRank):
    """A linear layer of low rank: (..., in) to (..., rank) to (..., out).

    Source: Denton et al. 2014, "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation", 3.2.

    Args:
        rank: at least 1. The layer has rank * (in + out) weights instead of in * out.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True, **factory: Any) -> None:
        super().__init__()
        self.reduce = nn.Linear(in_features, rank, bias=False, **factory)
        self.expand = nn.Linear(rank, out_features, bias=bias, **factory)

    @classmethod
    def like(cls, layer: nn.Module, rank: int) -> "LowRankLinear":
        """One with the sizes, dtype and device of a linear layer, its numbers not set. Raises ValueError for another layer."""
        if isinstance(layer, nn.Linear):
            sizes = layer.in_features, layer.out_features
        elif is_transposed_linear(layer):
            sizes = int(layer.weight.shape[0]), int(layer.weight.shape[1])  # type: ignore[index]
        else:
            raise ValueError(f"a {type(layer).__name__} cannot become a {cls.__name__}")
        made = cls(*sizes, rank, layer.bias is not None, device="meta")
        _allocate_(made, layer)
        return made


class LowRankConv2d(_LowRank):
    """A convolution of low rank: `rank` filters of the full kernel, then a 1x1 convolution that mixes them.

    Stride, padding and dilation are the first one's, so that both work on the output's pixels: multiply-adds fall by the same
    share as weights.

    Source: Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks for Classification and Detection", section 3.1.

    Args:
        rank: at least 1. The layer has rank * (in * kernel positions + out) weights instead of out * in * kernel positions.
        where: kernel_size, stride, padding, dilation and padding_mode, as for `nn.Conv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, rank: int, bias: bool, where: dict[str, Any], **factory: Any) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, rank, bias=False, **where, **factory)
        self.expand = nn.Conv2d(rank, out_channels, 1, bias=bias, **factory)

    @classmethod
    def like(cls, layer: nn.Module, rank: int) -> "LowRankConv2d":
        """One with the sizes, dtype and device of a convolution, its numbers not set. Raises ValueError for another layer."""
        if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
            grouped = "grouped " if isinstance(layer, nn.Conv2d) else ""
            raise ValueError(f"a {grouped}{type(layer).__name__} cannot become a {cls.__name__}")
        names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        where = {name: getattr(layer, name) for name in names}
        made = cls(layer.in_channels, layer.out_channels, rank, layer.bias is not None, where, device="meta")
        _allocate_(made, layer)
        return made


def _allocate_(made: nn.Module, layer: nn.Module) -> None:
    """Give a module of shapes alone memory of the layer's dtype, on its device; no random number is drawn on this way."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    made.to_empty(device=weight.device).to(weight.dtype)


# By the name under which a manifest holds them.
KINDS: dict[str, type[LowRankLinear] | type[LowRankConv2d]] = {kind.__name__: kind for kind in (LowRankLinear, LowRankConv2d)}
