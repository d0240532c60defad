"""A compressed model on disk: `manifest.json` says how to rebuild it, `model.safetensors` holds its numbers. No pickle.

The manifest does not describe layers; it holds what differs from the freshly built architecture: the plain attributes of
each module (`out_channels`, `num_heads`, ...), and `class` where a module was replaced by one of our own that
`compress.low_rank.modules` lists. The shapes of tensors are those in the weight file.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import fx, nn

from compress.errors import CompressError, UserError
from compress.files import write_atomically
from compress.low_rank.modules import KINDS
from compress.quant.ptq import prepare
from compress.quant.scheme import Scheme

MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
VERSION = 2
CLASS = "class"  # a keyword of Python, and so no attribute of a module
Structure = dict[str, dict[str, Any]]


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, int | float | str | bool)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training" and _plain(v)}


def structure_of(model: nn.Module, reference: nn.Module) -> Structure:
    """The plain attributes, by module path, in which `model` differs from the architecture `reference`.

    Where a layer was replaced by one of `KINDS`, its path has `class`, and the layers within differ from those of rank 1 that
    this class makes of the original.

    Raises:
        CompressError: a module was added, removed or replaced by one of another type, which the manifest cannot express.
    """
    originals, found = dict(reference.named_modules()), {}
    for path, module in model.named_modules():
        original = originals.pop(path, None)
        kind = KINDS.get(type(module).__name__)
        if original is not None and kind is type(module) and kind is not type(original):
            originals |= {inner: part for inner, part in kind.like(original, 1).named_modules(prefix=path) if inner != path}
            found[path] = {CLASS: kind.__name__}
            continue
        if original is None or type(original) is not type(module):
            was = type(original).__name__ if original is not None else "nothing"
            became = f"the module '{path}' became a {type(module).__name__} where the original has {was}"
            raise CompressError(f"{became}; it cannot be saved")
        before = _attributes(original)
        changed = {key: value for key, value in _attributes(module).items() if key not in before or before[key] != value}
        if changed:
            found[path] = changed
    if originals:
        raise CompressError(f"the module '{next(iter(originals))}' of the original is gone; the model cannot be saved")
    return found


def restructure_(model: nn.Module, structure: Structure) -> None:
    """Replace modules and set attributes as `structure_of` found them, in place.

    Raises:
        ValueError: the model lacks one of the modules, has another one there, or the class is none of `KINDS`.
    """
    modules = dict(model.named_modules())
    for path, attributes in structure.items():
        if path not in modules:
            raise ValueError(f"it has no module '{path}'")
        if CLASS in attributes:
            if attributes[CLASS] not in KINDS:
                raise ValueError(f"'{path}' is a {attributes[CLASS]}, which this version does not know")
            made = KINDS[attributes[CLASS]].like(modules[path], 1)
            model.set_submodule(path, made)
            modules |= dict(made.named_modules(prefix=path))
            continue
        for key, value in attributes.items():
            setattr(modules[path], key, tuple(value) if isinstance(value, list) else value)


def resize_(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give parameters and buffers the shapes named, in place; those that change hold zeros. Tied ones stay tied."""
    resized: dict[torch.Tensor, torch.Tensor] = {}
    for path, module in model.named_modules():
        for store in (module._parameters, module._buffers):
            for leaf, tensor in store.items():
                shape = shapes.get(f"{path}.{leaf}" if path else leaf)
                if tensor is not None and shape is not None and tuple(tensor.shape) != tuple(shape):
                    if tensor not in resized:
                        empty = torch.zeros(tuple(shape), dtype=tensor.dtype, device=tensor.device)
                        resized[tensor] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
                    store[leaf] = resized[tensor]


def shared_tensors(model: nn.Module) -> dict[str, str]:
    """Names in the state dict that alias another: alias -> the name that is stored."""
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in model.state_dict().items():
        if tensor.numel() == 0:
            continue
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())  # with strides: a transposed view is another matrix
        if key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
    return aliases


def save_model(folder: Path, model: nn.Module, reference: nn.Module, facts: dict[str, Any]) -> None:
    """Write both files into `folder`, each completely or not at all; the manifest last, so that it vouches for the weights.

    Args:
        reference: the untouched original, of the architecture that `facts["origin"]` builds.
        facts: plain data to keep in the manifest beside the structure.
    """
    quantization = model.meta.get("quantization") if isinstance(model, fx.GraphModule) else None
    structure = quantization["structure"] if quantization else structure_of(model, reference)
    aliases = shared_tensors(model)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items() if name not in aliases}
    manifest = {
        **facts,
        "version": VERSION,
        "structure": structure,
        "quantization": {k: v for k, v in quantization.items() if k != "structure"} if quantization else None,
        "aliases": aliases,
    }
    write_atomically(folder / WEIGHTS, save(state))
    write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that `save_model` wrote.

    Raises:
        UserError: there is none, it is torn, or it is of a newer version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf8"))
    except OSError:
        raise UserError(f"{folder} holds no compressed model: {MANIFEST} is missing") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("version"), int):
        raise UserError(f"{path} is not a manifest of this package: it has no version")
    if manifest["version"] > VERSION:
        raise UserError(f"{path} has version {manifest['version']}, this package reads up to {VERSION}; upgrade compress-toolkit")
    if manifest.get("quantization") is not None and manifest["version"] < 2:
        raise UserError(f"{path} is of a network that an older version of this package quantized; quantize it again")
    for key in ("structure", "quantization", "aliases"):
        if key not in manifest:
            raise UserError(f"{path} is not a manifest of this package: it has no {key}")
    return manifest


def load_model(folder: Path, model: nn.Module) -> nn.Module:
    """The saved model, in eval mode, from `model`: the freshly built architecture, which is changed and may be returned.

    Raises:
        UserError: the weights are missing or torn, or do not fit the architecture.
    """
    manifest = read_manifest(folder)
    path = folder / WEIGHTS
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    try:
        state |= {alias: state[name] for alias, name in manifest["aliases"].items() if name in state}
        restructure_(model, manifest["structure"])
        quantization = manifest["quantization"]
        if quantization is None:
            resize_(model, {name: tensor.shape for name, tensor in state.items()})
            _check_names(model.state_dict(), state)
            model.load_state_dict(state)
            return model.eval()
        _check_names(model.state_dict(), quantization["float_shapes"])
        resize_(model, quantization["float_shapes"])  # the graph that is captured next depends on them
        graph_module = rebuild_quantized(model, quantization)
        _check_names(graph_module.state_dict(), state)
        graph_module.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        last = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{folder} does not fit the architecture {type(model).__name__}: {last}") from None
    graph_module.meta["quantization"] = {**quantization, "structure": manifest["structure"]}
    return graph_module.eval()


def _check_names(own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the first, unless an architecture's tensors and the saved ones have the same names."""
    for name in own:
        if name not in given:
            raise ValueError(f"the weights have no '{name}'")
    for name in given:
        if name not in own:
            raise ValueError(f"it has no '{name}'")


def rebuild_quantized(model: nn.Module, quantization: dict[str, Any]) -> fx.GraphModule:
    """The captured graph with its quantizers in place, their ranges not set."""
    inputs = tuple(torch.zeros(shape, dtype=getattr(torch, kind)) for shape, kind in quantization["inputs"])
    axes = tuple(dict.fromkeys(map(int, part), torch.export.Dim.DYNAMIC) for part in quantization["axes"])
    return prepare(model, inputs, Scheme.from_dict(quantization), dynamic_shapes=axes)[0]
