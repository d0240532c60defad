"""Where a transformer keeps its blocks, queries, keys and values, so that two of different depth can be compared."""

from dataclasses import dataclass

from torch import nn

from compress.errors import UserError

QUERIES = ("query", "q_lin", "q_proj", "q")
KEYS = ("key", "k_lin", "k_proj", "k")
VALUES = ("value", "v_lin", "v_proj", "v")
HEADS = ("num_attention_heads", "n_heads", "num_heads")


@dataclass(frozen=True)
class Attention:
    """Paths of the three projections of one attention, and its number of heads."""

    query: str
    key: str
    value: str
    heads: int


def blocks(model: nn.Module) -> list[str]:
    """Paths of the repeated blocks that hold an attention each, in order."""
    found: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            inner = [f"{path}.{name}" if path else name for name, child in module.named_children() if _projections(child)]
            found += [one for one in inner if not any(one.startswith(f"{outer}.") for outer in found)]
    return found


def paired_blocks(student: nn.Module, teacher: nn.Module) -> dict[str, str]:
    """Each block of the student with the teacher's at the same share of the depth, so that the last meet.

    Source: Jiao et al. 2020, "TinyBERT", section 4.1, the uniform strategy.
    """
    own, others = blocks(student), blocks(teacher)
    if not own or len(own) > len(others):
        return {}
    return {path: others[(number + 1) * len(others) // len(own) - 1] for number, path in enumerate(own)}


def attention_in(model: nn.Module, path: str, whose: str) -> Attention:
    """The one attention inside the module at `path`.

    Raises:
        UserError: there is none, or more than one, or nothing says how many heads it has.
    """
    found = _projections(model.get_submodule(path))
    if len(found) != 1:
        count = "no layers" if not found else f"{len(found)} sets of layers"
        raise UserError(f"{count} called query, key and value in the {whose}'s '{path}'; name one block or one attention")
    holder, (query, key, value) = found[0]
    module = model.get_submodule(f"{path}.{holder}" if holder else path)
    heads = next((getattr(module, name) for name in HEADS if isinstance(getattr(module, name, None), int)), None)
    heads = heads or next((getattr(getattr(model, "config", None), name, None) for name in HEADS[:2]), None)
    if not heads:
        raise UserError(f"nothing says how many heads the attention in the {whose}'s '{path}' has")
    prefix = f"{path}.{holder}." if holder else f"{path}."
    return Attention(prefix + query, prefix + key, prefix + value, int(heads))


def _projections(module: nn.Module) -> list[tuple[str, tuple[str, str, str]]]:
    """(path within, names of query, key and value) of each module that has all three as children."""
    found = []
    for path, inner in module.named_modules():
        children = {name for name, _ in inner.named_children()}
        named = tuple(next((name for name in names if name in children), "") for names in (QUERIES, KEYS, VALUES))
        if all(named):
            found.append((path, named))
    return found  # type: ignore[return-value]
