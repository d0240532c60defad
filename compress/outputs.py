"""What comes out of a model: a tensor, a sequence, a mapping, or a dataclass of the transformers library."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

# Numbers of an input that `small_parts` lets a part have: 6 images of 224x224.
PART_ELEMENTS = 2**20


def tensors(output: Any) -> dict[str, Tensor]:
    """The tensors in a model's output, in order, by name: `logits` where there is one, else key or `output_0`, ..."""
    if isinstance(output, Tensor):
        return {"logits": output}
    if isinstance(output, Mapping):
        found: dict[str, Tensor] = {}
        for key, value in output.items():
            if isinstance(value, Tensor):
                found[str(key)] = value
            elif value is not None:
                found.update({f"{key}_{index}": part for index, part in enumerate(tensors(value).values())})
        return {"logits": next(iter(found.values()))} if len(found) == 1 else found
    if isinstance(output, list | tuple):
        flat = [part for value in output if value is not None for part in tensors(value).values()]
        return {"logits": flat[0]} if len(flat) == 1 else {f"output_{index}": part for index, part in enumerate(flat)}
    kind = type(output).__name__
    hint = "; set model.config.use_cache = False" if kind.endswith("Cache") else ""
    raise TypeError(f"the model's forward returns a {kind}; a tensor, sequence or mapping of tensors is needed{hint}")


def first_tensor(output: Any) -> Tensor:
    """The first tensor of a model's output: what is scored, distilled and held against the ONNX file."""
    return output if isinstance(output, Tensor) else next(iter(tensors(output).values()))


def fixed_batch(model: nn.Module) -> int | None:
    """The batch that a captured graph fixes; None where it, or the module, takes any."""
    if not isinstance(model, fx.GraphModule):
        return None
    first = next((node for node in model.graph.nodes if node.op == "placeholder"), None)
    shape = getattr(first.meta.get("val"), "shape", ()) if first is not None else ()
    return next((length for length in shape[:1] if isinstance(length, int)), None)


def batch_of_two(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs with a batch of at least 2, by repetition: `torch.export` bakes a size of 1 into the graph."""
    return tuple(torch.cat([x, x]) if len(x) == 1 else x for x in inputs)


def in_batches(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """The inputs in parts that the model takes: one, but for a captured graph that fixes its batch."""
    size = fixed_batch(model)
    if size is None or len(inputs[0]) == size:
        return [inputs]
    return list(zip(*(x.split(size) for x in inputs), strict=True))


def small_parts(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """The same in parts of at most `PART_ELEMENTS` numbers, so that what is computed on them stays near the processor."""
    size = fixed_batch(model) or max(1, PART_ELEMENTS * len(inputs[0]) // max(1, sum(x.numel() for x in inputs)))
    return list(zip(*(x.split(size) for x in inputs), strict=True))


def predictor(model: nn.Module) -> Callable[..., np.ndarray]:
    """`predict(*inputs) -> array` of the first output, in eval mode, without gradients, on the model's device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()

    def predict(*inputs: Tensor | np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            given = [torch.as_tensor(x).to(device) for x in inputs]
            parts = [first_tensor(model(*part)).float().cpu().numpy() for part in in_batches(model, tuple(given))]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return predict
