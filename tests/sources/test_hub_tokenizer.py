"""Sentences for a text model: the folder's own tokenizer, and which of its outputs the model takes."""

import dataclasses
import json
from pathlib import Path

import torch
import transformers
from sources.hub_models import bert, saved
from torch import nn

from compress import zoo
from compress.outputs import predictor
from compress.sources.hub_tokenizer import input_order

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film")


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=inputs, model_max_length=16, **names)


def test_a_text_model_reads_sentences(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", bert(num_labels=2, max_position_embeddings=12))
    tokenizer().save_pretrained(folder)
    source = zoo.load(f"hf:{folder}")
    assert source.origin["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    lines = [{"text": "a good film" if n % 2 else "bad", "label": n % 2} for n in range(100)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = zoo.load_task(source, f"jsonl:{tmp_path / 'data.jsonl'}")
    ids, mask, types = task.example_inputs
    assert [tuple(x.shape) for x in task.example_inputs] == [(2, 12)] * 3  # the model knows 12 positions
    by_hand = {"a good film": [4, 5, 7], "bad": [6]}
    for row, seen in zip(ids.tolist(), mask.tolist(), strict=True):
        words = [*by_hand["a good film" if row[0] == 4 else "bad"]]
        assert row == words + [0] * (12 - len(words))
        assert seen == [1] * len(words) + [0] * (12 - len(words))
    assert not types.any()
    assert 0 <= task.evaluate(predictor(source.model)) <= 1
    # `compress eval` has the recorded origin, but neither model nor tokenizer.
    recorded = zoo.load_task(dataclasses.replace(source, model=nn.Module(), tokenizer=None), f"jsonl:{tmp_path / 'data.jsonl'}")
    assert torch.equal(recorded.example_inputs[0], ids)


def test_inputs_behind_a_gap_are_left_out() -> None:
    """They are given by position, and XLNet's forward has `mems` between two outputs of the tokenizer."""

    class Gap(nn.Module):
        def forward(self, input_ids, attention_mask=None, mems=None, token_type_ids=None):
            return input_ids

    assert input_order(Gap(), tokenizer()) == ["input_ids", "attention_mask"]
