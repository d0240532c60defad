"""How many classes a state dict was trained for."""

from collections.abc import Callable

from torch import Tensor, nn


def build_for(state: dict[str, Tensor], build: Callable[[int | None], nn.Module]) -> nn.Module:
    """The model that `build` makes with as many classes as the state dict has.

    Read off the last parameter of the model, which in torchvision and timm is that of the classifier: its first axis is the
    classes. A state dict without it, which does not fit anyhow, gets the model's own number.

    Args:
        build: takes the number of classes; None stands for the model's own.
    """
    model = build(None)
    name, parameter = list(model.named_parameters())[-1]
    found = len(state[name]) if name in state and state[name].ndim else len(parameter)
    return model if found == len(parameter) else build(found)
