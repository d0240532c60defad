"""Every architecture of the table: what is cut equals the original without it, attributes tell the truth, and nothing breaks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import compress
from compress.outputs import tensors
from compress.passes.prune_channels import PruneChannels
from compress.pruning.channels import ChannelPruner, Settings, prune_channels_
from compress.pruning.groups import Group, find_groups
from compress.pruning.oracle import difference, outputs_without
from compress.testing import check_pass
from compress.testing.architectures import NAMES, build

# Cut by verification alone: SegFormer reshapes to a width that its configuration holds.
UNSEEN = {"SegFormer": ["segformer.stages.1.patch_embeddings.proj"]}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def free(groups: list[Group], name: str) -> list[Group]:
    return [group for group in groups if group.fixed is None and group.name not in UNSEEN.get(name, [])]


@pytest.mark.parametrize("name", NAMES)
def test_any_half_of_every_group_can_go(name: str) -> None:
    """Which half is drawn: so an index that was mapped wrongly meets channels with other numbers."""
    model, inputs = build(name)
    groups = [group for group in free(find_groups(model, inputs), name) if group.units > 1]
    generator = torch.Generator().manual_seed(0)
    cuts = [(group, tuple(torch.randperm(group.units, generator=generator)[: group.units // 2].tolist())) for group in groups]
    from compress.pruning.cut import cut_copy

    cut = cut_copy(model, cuts)
    assert difference(model, cut, cuts, inputs) < 1e-12
    # And the test would see a wrong cut: without these channels the original gives something else.
    doubled = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    whole, masked = outputs_without(model, [], doubled), outputs_without(model, cuts, doubled)
    assert max(float((whole[key] - masked[key]).abs().max()) for key in whole) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_most_of_the_work_can_be_cut(name: str) -> None:
    model, inputs = build(name)
    before = parameters(model)
    cut = copy.deepcopy(model)
    assert prune_channels_(cut, inputs, ratio=0.5, round_to=1)
    limit = {"SegFormer": 0.75, "LSTM head": 0.75, "weight tying": 0.55, "several outputs": 0.4}.get(name, 0.36)
    assert parameters(cut) < limit * before
    shapes = {key: x.shape for key, x in tensors(model(*inputs)).items()}
    assert {key: x.shape for key, x in tensors(cut(*inputs)).items()} == shapes


@pytest.mark.parametrize(
    "name",
    [
        "RegNet",
        "ConvNeXt",
        "BERT",
        "GPT-2 (tied head)",
        "fused qkv (as in timm)",
        "nn.MultiheadAttention",
        "channel shuffle",
        "U-Net",
    ],
)
def test_the_pass_keeps_its_contract_on(name: str) -> None:
    """Exported and held against torch, saved and loaded; then cut a second time."""
    model, inputs = build(name)
    task = compress.Task(inputs)
    cut = check_pass(PruneChannels(ratio=0.5, round_to=2), model, task)
    again = compress.apply(PruneChannels(ratio=0.5, round_to=1), cut, task)
    assert parameters(again) < 0.55 * parameters(cut)


@pytest.mark.parametrize(
    ("name", "path", "attributes"),
    [
        (
            "BERT",
            "bert.encoder.layer.0.attention.self",
            {"num_attention_heads": 2, "all_head_size": 16, "attention_head_size": 8},
        ),
        ("DistilBERT", "distilbert.transformer.layer.0.attention", {"n_heads": 2}),
        ("ViT", "vit.layers.1.attention", {"num_attention_heads": 2}),
        ("GPT-2", "transformer.h.0.attn", {"num_heads": 2, "split_size": 16, "head_dim": 8}),
        ("Swin", "swin.encoder.layers.1.blocks.0.attention", {"num_attention_heads": 2}),
        ("fused qkv (as in timm)", "layers.0.attention", {"num_heads": 2, "head_dim": 8}),
        ("nn.MultiheadAttention", "layers.1.self_attn", {"num_heads": 2, "embed_dim": 16, "head_dim": 8}),
    ],
)
def test_attributes_of_attention_stay_true(name: str, path: str, attributes: dict[str, int]) -> None:
    model, inputs = build(name)
    prune_channels_(model, inputs, ratio=0.5)
    module = model.get_submodule(path)
    assert {key: getattr(module, key) for key in attributes if hasattr(module, key)} == attributes


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(
        ["ResNet", "MobileNet v2", "BERT", "Swin", "DenseNet-style concat", "grouped convolution", "two inputs"]
    ),
    ratio=st.floats(0.001, 0.999),
    round_to=st.sampled_from([1, 2, 8]),
    ranking=st.sampled_from(["local", "global", "isomorphic"]),
)
def test_any_ratio_leaves_a_network_that_works(name: str, ratio: float, round_to: int, ranking: str) -> None:
    model, inputs = build(name)
    pruner = ChannelPruner(model, inputs, Settings(ranking=ranking, round_to=round_to))
    cut, cuts = pruner.verified(ratio)
    assert all(len(units) < group.units for group, units in cuts)
    assert parameters(cut) == pruner.parameters_left(ratio) <= parameters(model)
    shapes = {key: x.shape for key, x in tensors(model(*inputs)).items()}
    assert {key: x.shape for key, x in tensors(cut(*inputs)).items()} == shapes


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(["ResNet", "BERT", "Swin", "DenseNet-style concat"]),
    ratios=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=4),
    ranking=st.sampled_from(["local", "global", "isomorphic"]),
)
def test_a_larger_ratio_never_leaves_more(name: str, ratios: list[float], ranking: str) -> None:
    model, inputs = build(name)
    pruner = ChannelPruner(model, inputs, Settings(ranking=ranking, round_to=2))
    left = [pruner.parameters_left(ratio) for ratio in sorted(ratios)]
    assert left == sorted(left, reverse=True)
