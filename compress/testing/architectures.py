"""Tiny instances of the common architectures, random weights, built offline: what a pass is tried on.

`build(name)` gives `(model, example_inputs)`; `NAMES` lists them. Batch norms and biases hold numbers of their own, so that a
channel that was confused with another shows in the output.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compress.testing import blocks

Built = tuple[nn.Module, tuple[Tensor, ...]]
IMAGE = (2, 3, 32, 32)


def build(name: str) -> Built:
    """The model of that name in eval mode, and example inputs with batch 2; the same on each call.

    Raises:
        KeyError: no such name.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = BUILDERS[name]()
        _mark(model)
    return model.eval(), inputs


@torch.no_grad()
def _mark(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases are zeros and scales are ones where nothing was trained
            parameter.add_(torch.randn_like(parameter) * 0.2)
        else:  # transformers' tiny initial weights leave nothing to tell apart
            parameter.add_(torch.randn_like(parameter) * 0.5 / parameter[0].numel() ** 0.5)


def _images(model: nn.Module) -> Built:
    return model, (torch.randn(IMAGE),)


def _vision(name: str, **sizes: Any) -> Callable[[], Built]:
    def make() -> Built:
        import transformers

        config = getattr(transformers, f"{name}Config")(num_labels=5, **sizes)
        return _images(getattr(transformers, f"{name}ForImageClassification")(config))

    return make


def _text(name: str, head: str = "ForSequenceClassification", masked: bool = True, **sizes: Any) -> Callable[[], Built]:
    def make() -> Built:
        import transformers

        config = getattr(transformers, f"{name}Config")(num_labels=5, vocab_size=64, pad_token_id=0, **sizes)
        tokens = torch.randint(1, 64, (2, 8))
        mask = torch.ones_like(tokens)
        mask[1, 6:] = 0
        return getattr(transformers, name + head)(config), (tokens, mask) if masked else (tokens,)

    return make


def _own(module: type[nn.Module], *shapes: tuple[int, ...]) -> Callable[[], Built]:
    return lambda: (module(), tuple(torch.randn(shape) for shape in shapes or (IMAGE,)))


VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
BERT: dict[str, Any] = {**VIT, "max_position_embeddings": 32}
STAGES = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2]}

BUILDERS: dict[str, Callable[[], Built]] = {
    "ResNet": _vision("ResNet", **STAGES, layer_type="basic"),
    "ResNet (bottleneck)": _vision("ResNet", embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2]),
    "RegNet": _vision("RegNet", **STAGES, groups_width=8),
    "MobileNet v1": _vision("MobileNetV1", depth_multiplier=0.25, image_size=32),
    "MobileNet v2": _vision("MobileNetV2", depth_multiplier=0.25, image_size=32),
    "EfficientNet": _vision("EfficientNet", width_coefficient=0.25, depth_coefficient=0.2, image_size=32, hidden_dim=320),
    "ConvNeXt": _vision("ConvNext", hidden_sizes=[16, 32], depths=[2, 2], num_stages=2, image_size=32),
    "ViT": _vision("ViT", **VIT, image_size=32, patch_size=8),
    "DeiT": _vision("DeiT", **VIT, image_size=32, patch_size=8),
    "Swin": _vision("Swin", image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4),
    "SegFormer": _vision(
        "Segformer",
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[2, 4],
        mlp_ratios=[2, 2],
        decoder_hidden_size=32,
    ),
    "BERT": _text("Bert", **BERT),
    "RoBERTa": _text("Roberta", **BERT),
    "DistilBERT": _text("DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=32),
    "ALBERT (shared weights)": _text("Albert", **BERT, embedding_size=16),
    "GPT-2": _text("GPT2", masked=False, n_embd=32, n_layer=2, n_head=4, n_positions=32, use_cache=False),
    "GPT-2 (tied head)": _text("GPT2", "LMHeadModel", False, n_embd=32, n_layer=2, n_head=4, n_positions=32, use_cache=False),
    "fused qkv (as in timm)": _own(blocks.FusedAttention),
    "nn.MultiheadAttention": _own(blocks.TorchTransformer, (2, 8, 32)),
    "DenseNet-style concat": _own(blocks.Dense),
    "grouped convolution": _own(blocks.Grouped),
    "depthwise convolution": _own(blocks.Depthwise),
    "squeeze and excitation": _own(blocks.SqueezeExcite),
    "channel shuffle": _own(blocks.Shuffle),
    "U-Net": _own(blocks.UNet),
    "LSTM head": _own(blocks.LSTMHead),
    "weight tying": _own(blocks.TiedAutoencoder, (2, 32)),
    "two inputs": _own(blocks.TwoInputs, IMAGE, (2, 8)),
    "several outputs": _own(blocks.SeveralOutputs),
    "dict of outputs": _own(blocks.DictOutput),
    "group norm": _own(blocks.GroupNormed),
    "flattened image": _own(blocks.Flattened),
}
NAMES = tuple(BUILDERS)
