"""What modules give out during a forward, by their paths."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from compress.errors import UserError, did_you_mean
from compress.outputs import first_tensor


@contextmanager
def recorded(model: nn.Module, paths: Iterable[str], whose: str) -> Iterator[dict[str, Tensor]]:
    """The first output of each module of the latest forward, by path; of a module called several times the last.

    Args:
        whose: `student` or `teacher`, for messages.

    Raises:
        UserError: the model has no such module; says which is near.
    """
    modules = dict(model.named_modules())
    found: dict[str, Tensor] = {}
    hooks = []

    def keep(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[path] = first_tensor(output)

        return hook

    try:
        for path in dict.fromkeys(paths):
            if not path or path not in modules:
                raise UserError(f"the {whose} has no layer '{path}'." + did_you_mean(path, [name for name in modules if name]))
            hooks.append(modules[path].register_forward_hook(keep(path)))
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def common_stages(student: nn.Module, teacher: nn.Module) -> dict[str, str]:
    """The parts of a network that both have under one name: path -> the same path.

    A part is a child with children of its own, looked for below wrappers that hold everything. Networks of one architecture,
    of which one may be narrower, are compared block by block: the parts of these parts; and where there are none, by every
    convolution.
    """
    others = {name for name, _ in teacher.named_modules()}
    prefix, stages = "", _parts(student, "")
    while len(stages) == 1 and stages[0] in others:
        prefix = stages[0]
        stages = _parts(student, prefix)
    found = [path for path in stages or [prefix] if path in others and path]
    if others == {name for name, _ in student.named_modules()}:
        found = [block for path in found for block in _parts(student, path) or [path]]
        found = found or [path for path, module in student.named_modules() if isinstance(module, nn.modules.conv._ConvNd)]
    return {path: path for path in found}


def _parts(model: nn.Module, path: str) -> list[str]:
    """Children with children of their own."""
    module = model.get_submodule(path)
    return [f"{path}.{name}" if path else name for name, child in module.named_children() if any(child.children())]
