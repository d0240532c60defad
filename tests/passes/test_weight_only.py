"""The pass weight_only in whole runs, from Python and from the command line's plain data; and what it refuses."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import compress
from compress.errors import UserError
from compress.passes.weight_only import WeightOnly
from compress.recipe import make_pass
from compress.report.text import float_layers, headline
from compress.testing import check_pass

QUICK = {"min_runs": 3, "min_seconds": 0.01, "max_seconds": 0.2}


class GPT2(nn.Module):
    """Words (batch, 7) to scores of 99 words: layers of the kind Conv1D, and a table that is the last matrix, too."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.GPT2Config(vocab_size=99, n_positions=16, n_embd=32, n_layer=1, n_head=2, use_cache=False)
        self.network = transformers.GPT2LMHeadModel(config)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.network(words).logits[:, -1]


def test_a_run_of_a_transformer_and_back(tmp_path: Path) -> None:
    model, words = GPT2().eval(), torch.randint(99, (2, 7))
    run = compress.run(
        model, compress.Task((words,)), [make_pass("weight_only", {"bits": 4})], out=tmp_path / "out", timing=QUICK
    )
    assert run.report["stages"][-1]["notes"] == [
        "5 linear layers and 2 embeddings have weights of 4 bits in blocks of 32, and compute in float"
    ]
    assert "in int8" not in headline(run.report)[0]
    assert float_layers(run.report) == []
    assert run.report["parity"]["max_rel_error"] < 1e-5
    loaded = compress.load(tmp_path / "out", GPT2())
    with torch.no_grad():
        assert torch.equal(loaded(words), run.model(words))
        assert (run.model(words) - model(words)).abs().max() > 0.001


def test_eight_bits_keep_the_contract() -> None:
    model, task = nn.Sequential(nn.Embedding(50, 20), nn.Linear(20, 4)), compress.Task((torch.randint(50, (2, 3)),))
    result = check_pass(WeightOnly(bits=8, block_size=0, symmetric=False), model, task)
    assert result.get_submodule("quantizers._1_weight").scale.shape == (4, 1)


def test_an_excluded_layer_keeps_its_weight() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 4))
    result = compress.apply(WeightOnly(exclude=("1",)), model, compress.Task((torch.randn(2, 32),)))
    assert [name for name, _ in result.named_modules() if name.startswith("quantizers.")] == ["quantizers._0_weight"]


def test_other_bits_are_refused() -> None:
    with pytest.raises(UserError) as error:
        WeightOnly(bits=3)
    assert str(error.value) == "weight_only: bits must be 4 or 8, got 3"


def test_other_blocks_are_refused() -> None:
    with pytest.raises(UserError) as error:
        WeightOnly(block_size=48)
    assert str(error.value) == ("weight_only: block_size must be one of 16, 32, 64, 128, 256, or 0 for one scale per row; got 48")
