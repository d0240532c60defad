"""Inputs made for a model without data are ones that it takes."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from compress import zoo
from compress.passes.prune_channels import PruneChannels
from compress.planning import plan
from compress.sources.examples import example_inputs
from compress.sources.source import Source
from compress.task import Task

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32, "num_labels": 3}


def saved(folder: Path, kind: str, **sizes: int) -> Source:
    """A model without processor or tokenizer in a folder, loaded as a user would."""
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **sizes})
    head = "ForImageClassification" if kind == "ViT" else "ForSequenceClassification"
    getattr(transformers, kind + head)(config).save_pretrained(folder)
    return zoo.load(f"hf:{folder}")


def test_words_of_the_vocabulary_for_a_text_model(tmp_path: Path) -> None:
    source = saved(tmp_path, "Bert", vocab_size=40, max_position_embeddings=12)
    inputs = example_inputs(source)
    by_name = dict(zip(source.origin["inputs"], inputs, strict=True))
    assert {tuple(x.shape) for x in inputs} == {(2, 12)}
    assert by_name["input_ids"].min() >= 0 and by_name["input_ids"].max() < 40
    assert bool((by_name["attention_mask"] == 1).all())
    planned = plan(source.model, Task(inputs), PruneChannels(round_to=1))
    assert any(row.width == 4 and (row.units, row.kept) == (4, 2) for row in planned.groups)


def test_pixels_of_the_configured_size_where_there_is_no_processor(tmp_path: Path) -> None:
    source = saved(tmp_path, "ViT", image_size=24, patch_size=8, num_channels=1)
    assert source.preprocess is None
    inputs = example_inputs(source)
    assert [tuple(x.shape) for x in inputs] == [(2, 1, 24, 24)]
    assert source.model(*inputs).logits.shape == (2, 3)


def test_pixels_of_what_the_zoo_says_and_the_same_each_time() -> None:
    source = zoo.load("resnet18")
    inputs = example_inputs(source)
    assert [tuple(x.shape) for x in inputs] == [(2, 3, 48, 48)]
    assert torch.equal(inputs[0], example_inputs(source)[0])


@pytest.mark.parametrize("origin", [{"kind": "file"}, {"kind": "hub", "task": "image", "config": {}}])
def test_nothing_is_invented_for_an_unknown_model(origin: dict) -> None:
    assert example_inputs(Source(nn.Linear(2, 2), origin)) is None
