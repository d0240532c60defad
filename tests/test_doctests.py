"""The examples in docstrings do what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The example there registers a name, which a test of its own takes back.
ELSEWHERE = {"compress.pruning.criteria"}


def modules_with_examples() -> list[str]:
    """Found by their prompts, so that a new example is run without being listed."""
    files = [path for path in sorted((ROOT / "compress").rglob("*.py")) if ">>> " in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return [name for name in names if name not in ELSEWHERE]


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_run(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert failed == 0 and tried > 0


def test_the_main_functions_have_examples() -> None:
    names = ("pipeline", "planning", "plots", "measure.cost", "measure.models", "pareto", "quant.qat")
    assert {f"compress.{name}" for name in names} <= set(modules_with_examples())
