"""Small models of transformers, as `save_pretrained` writes them into a folder."""

import json
from pathlib import Path

import transformers
from torch import nn

PROCESSOR = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
NAMES = {"id2label": {0: "cat", 1: "dog", 2: "eel"}, "label2id": {"cat": 0, "dog": 1, "eel": 2}}
BERT = {"vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def resnet(**more: object) -> nn.Module:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **more)
    return transformers.ResNetForImageClassification(config).eval()


def vit(**more: object) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, patch_size=8, **sizes, **more)).eval()


def bert(**more: object) -> nn.Module:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**{**BERT, **more})).eval()


def distilbert(**more: object) -> nn.Module:
    config = transformers.DistilBertConfig(vocab_size=8, dim=16, n_layers=2, n_heads=2, hidden_dim=32, **more)
    return transformers.DistilBertForSequenceClassification(config).eval()


def saved(folder: Path, model: nn.Module, processor: dict | None = None) -> Path:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def change_config(folder: Path, **values: object) -> None:
    """Set, or with None remove, settings in a folder's config.json."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
