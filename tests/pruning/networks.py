"""Networks that several tests of pruning cut, their groups, and what tells which of their channels are left."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.pruning.groups import Group, find_groups


def marked(model: nn.Module) -> nn.Module:
    """Every bias and every batch norm with numbers of its own: they tell, after the cut, which channels are left."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias)
    return model.eval()


def removed(original: nn.Module, cut: nn.Module, mark: str) -> list[int]:
    """Channels whose entry in the bias `mark` of the original is not in that of the cut network."""
    left = set(cut.get_parameter(f"{mark}.bias").tolist())
    return [index for index, value in enumerate(original.get_parameter(f"{mark}.bias").tolist()) if value not in left]


def free_groups(model: nn.Module, x: Tensor) -> list[Group]:
    return [group for group in find_groups(model, (x,)) if group.fixed is None]


class Plain(nn.Module):
    """Images (batch, 3, 8, 8) to 5 logits: two convolutions, whose pixels are flattened, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, stride=2)
        self.hidden, self.head = nn.Linear(24 * 9, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.head(F.gelu(self.hidden(x.flatten(1))))


class Scaled(nn.Module):
    """Multiplies channels by numbers that belong to no layer: a parameter, a buffer, or a tensor that cannot be cut."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)
        scale = torch.rand(16, 1, 1)
        if kind == "buffer":
            self.register_buffer("scale", scale)
        else:
            self.scale = nn.Parameter(scale) if kind == "parameter" else scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv(x) * self.scale).mean((2, 3)))
