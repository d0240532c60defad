"""A pruned model of the transformers library is loaded again by that library, where its configuration can say the cut."""

import copy
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import compress
from compress.passes.prune_channels import PruneChannels

SMALL = {"vocab_size": 100, "pad_token_id": 0, "use_cache": False}
CONFIGS = {
    "Bert": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 64},
    "DistilBert": {"dim": 64, "n_heads": 4, "hidden_dim": 128, "n_layers": 2},
    "GPT2": {"n_embd": 64, "n_head": 4, "n_layer": 2},
    "Llama": {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 128},
}


def built(kind: str) -> nn.Module:
    extra = {} if kind in ("DistilBert", "GPT2") else {"num_hidden_layers": 2}
    config = getattr(transformers, f"{kind}Config")(**SMALL, **CONFIGS[kind], **extra)
    return getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_is_loaded_again_by_from_pretrained(kind: str, tmp_path: Path) -> None:
    model, ids = built(kind), torch.randint(1, 99, (2, 7))
    before = copy.deepcopy(model.config.to_dict())
    cut = compress.apply(PruneChannels(), model, compress.Task((ids,)))
    assert sum(p.numel() for p in cut.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
    cut.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(ids).logits, cut(ids).logits)
    assert model.config.to_dict() == before


def test_bert_s_configuration_says_the_new_sizes() -> None:
    cut = compress.apply(PruneChannels(), built("Bert"), compress.Task((torch.randint(1, 99, (2, 7)),)))
    config = cut.config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (32, 2, 64)
    assert config.max_position_embeddings == 64  # as large as the width was, and another thing


def test_what_a_configuration_cannot_say_is_noted() -> None:
    task = compress.Task((torch.randint(1, 99, (2, 7)),))
    pruning = PruneChannels(exclude=("bert.embeddings.*", "bert.encoder.layer.0.*"))
    planned = compress.plan(built("Bert"), task, pruning)
    assert (
        "model.config cannot say these widths, of layers that differ or of heads apart from the stream; from_pretrained will not "
        "load this model, compress.load does"
    ) in planned.notes
