"""MODEL as `hf:ID_OR_FOLDER`: classifiers of images or sentences, as the transformers library saves them.

Weights are read from safetensors only, and code that comes with a model is never run.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.errors import UserError
from compress.sources.hub_files import fetch
from compress.sources.hub_preprocess import preprocess_of, read_processor
from compress.sources.hub_tokenizer import TOKENIZER_FILES, input_order, tokenizer_in
from compress.sources.libraries import first_line, import_library, quiet
from compress.sources.source import Source
from compress.sources.weights import load_weights_, read_weights

PREFIX = "hf:"
CONFIG = "config.json"
DESCRIPTION_FILES = (CONFIG, "preprocessor_config.json", "processor_config.json", *TOKENIZER_FILES)
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
# What a class in the config's `architectures` is called -> the task, and the class of transformers that loads it.
KINDS = {
    "ForImageClassification": ("image", "AutoModelForImageClassification"),
    "ForSequenceClassification": ("text", "AutoModelForSequenceClassification"),
}


def load(name: str, weights: str | None) -> Source:
    """The model in a folder or a repository of the hub, with its preprocessing or its tokenizer.

    Args:
        name: a folder that `save_pretrained` wrote, or `OWNER/NAME` on the hub.
        weights: a state dict to use in place of the model's own weights, which are then not fetched.

    Raises:
        UserError: no such model, no network, another kind of model, or weights that are missing, torn or do not fit.
    """
    if not name:
        raise UserError("hf: needs a model: hf:OWNER/NAME on the Hugging Face hub, or hf:FOLDER")
    place = Path(name).expanduser()
    if place.is_dir():
        folder, where = place, {"folder": str(place.resolve())}
    elif place.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"no such folder: {name}")
    else:
        instead = f"fetch it elsewhere and give the folder: hf:FOLDER with {CONFIG}, model.safetensors and its other .json files"
        folder = fetch(name, [*DESCRIPTION_FILES, *(() if weights else WEIGHT_FILES)], instead)
        where = {"id": name, "revision": folder.name}
    values = _read_config(folder, name)
    task, config = _understand(values, name)
    if weights is not None:
        model = _build(task, config)
        load_weights_(model, read_weights(weights), weights)
    else:
        model = _pretrained(folder, task, config, name)
    labels = tuple(text for _, text in sorted(config.id2label.items()))
    origin = {
        "kind": "hub",
        **where,
        "task": task,
        "classes": config.num_labels,
        "config": json.loads(config.to_json_string(use_diff=False)),
    }
    if task == "image":
        processor = read_processor(folder)
        preprocess = preprocess_of(processor, getattr(config, "num_channels", 3)) if processor else None
        tokenizer = None
    else:
        preprocess, tokenizer = None, tokenizer_in(folder, name, getattr(config, "max_position_embeddings", None))
        origin["inputs"] = input_order(model, tokenizer)
    return Source(
        model=model.eval(),
        origin=origin,
        preprocess=preprocess,
        labels=() if all(re.fullmatch(r"LABEL_\d+", label) for label in labels) else labels,
        tokenizer=tokenizer,
    )


def rebuild(origin: dict[str, Any]) -> nn.Module:
    """The architecture from the recorded configuration alone: needs neither the weights nor a network."""
    task, config = _understand(origin["config"], origin.get("id") or origin["folder"])
    return _build(task, config)


def tokenizer(origin: dict[str, Any]) -> Any:
    """The tokenizer of a text model that `load` recorded, from the same folder or commit; None where there is none."""
    longest = origin["config"].get("max_position_embeddings")
    if "folder" in origin:
        return tokenizer_in(Path(origin["folder"]), origin["folder"], longest)
    folder = fetch(origin["id"], TOKENIZER_FILES, "its tokenizer is needed to read text", origin["revision"])
    return tokenizer_in(folder, origin["id"], longest)


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{name} has no {CONFIG}; a folder that transformers' save_pretrained wrote is needed")
    try:
        values = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}, not the settings of a model")
    return values


def _understand(values: dict[str, Any], name: str) -> tuple[str, Any]:
    """`image` or `text`, and the configuration object.

    Raises:
        UserError: a model of timm, of a type that transformers does not know, or that classifies neither.
    """
    if "architecture" in values and "model_type" not in values:
        raise UserError(f"{name} is a model of timm; load it as timm:{values['architecture']}")
    import_library("transformers.modeling_utils", "'transformers>=5'")  # where a broken torchvision shows
    transformers = import_library("transformers", "'transformers>=5'")
    model_type = values.get("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        if "auto_map" in values:
            raise UserError(
                f"{name} brings its own code (auto_map in {CONFIG}), which is never run; "
                f"transformers {transformers.__version__} itself knows no model type '{model_type}'"
            )
        raise UserError(f"{name} has the model type '{model_type}', which transformers {transformers.__version__} does not know")
    architectures = values.get("architectures") or ["model without a name"]
    kinds = [task for architecture in architectures for ending, (task, _) in KINDS.items() if ending in architecture]
    if not kinds:
        raise UserError(
            f"{name} is a {architectures[0]}; one that ends in {' or '.join(KINDS)} is needed (architectures in {CONFIG})"
        )
    try:
        with quiet():
            config = transformers.CONFIG_MAPPING[model_type].from_dict(values)
    except Exception as error:
        raise UserError(f"{CONFIG} of {name} does not make sense to transformers: {first_line(error)}") from error
    # A cache of keys and values, hidden states and attention maps would be further outputs of the exported graph.
    for switch in ("use_cache", "output_hidden_states", "output_attentions"):
        setattr(config, switch, False)
    return kinds[0], config


def _auto_class(task: str) -> Any:
    return getattr(
        import_library("transformers", "'transformers>=5'"), next(name for kind, name in KINDS.values() if kind == task)
    )


def _build(task: str, config: Any) -> nn.Module:
    """Randomly initialized. Attention is written out, so that its products are layers that a pass can see."""
    with quiet():
        return _auto_class(task).from_config(config, attn_implementation="eager", dtype=torch.float32).eval()


def _pretrained(folder: Path, task: str, config: Any, name: str) -> nn.Module:
    if not any(path for pattern in WEIGHT_FILES for path in folder.glob(pattern)):
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        why = f"; its {pickles[0]} is a pickle, and pickles are never loaded" if pickles else ""
        raise UserError(
            f"{name} has no model.safetensors{why}; save it again with save_pretrained, or give a state dict with --weights FILE"
        )
    try:
        with quiet():
            model, info = _auto_class(task).from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                attn_implementation="eager",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:
        raise UserError(f"the weights of {name} cannot be loaded: {first_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"the weights of {name} do not fit {type(model).__name__}: '{missing[0]}' is missing ({len(missing)} are)"
        )
    return model
