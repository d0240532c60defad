"""The small form of the quantization benchmark: model x method, what each row must say, from the one YAML file."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from quantization import MATRIX, Bench, differences  # noqa: E402 - the benchmark's own command, which is no package
from subjects import SUBJECTS  # noqa: E402

# Weights that are no part of the project; where they are not there, their rows are skipped.
FILES = Path(os.environ.get("COMPRESS_BENCHMARK_FILES", ROOT.parent / "shared" / "data"))
TABLE = yaml.safe_load(MATRIX.read_text())
ROWS = [(model, method) for model, rows in TABLE["small"].items() for method in rows["expected"]]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Bench]]:
    """Model -> its bench, with the float network measured; filled as they are asked for."""
    made: dict[str, Bench] = {}
    yield made


@pytest.mark.parametrize(("model", "method"), ROWS)
def test_a_row_says_what_is_expected(
    model: str, method: str, benches: dict[str, Bench], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if model.startswith("resnet20") and not list((FILES / "cifar-resnets").glob("resnet20-*.th")):
        pytest.skip(f"NOT CHECKED: no weights of ResNet-20 in {FILES}/cifar-resnets; COMPRESS_BENCHMARK_FILES names the folder")
    if method == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("NOT CHECKED: openvino is not installed")
    if model not in benches:
        subject = SUBJECTS[model](FILES, TABLE["small"][model]["samples"])
        benches[model] = Bench(subject, tmp_path_factory.mktemp(model), latency=False)
        benches[model].row("float", None)
    row = benches[model].row(method, TABLE["methods"][method])
    assert differences(row, TABLE["small"][model]["expected"][method]) == []


def test_every_row_that_is_expected_can_be_run() -> None:
    for part in ({model: rows["expected"] for model, rows in TABLE["small"].items()}, TABLE["expected"]):
        for model, rows in part.items():
            assert model in SUBJECTS
            assert set(rows) <= set(TABLE["methods"])
            assert all(len(columns) > 0 for columns in rows.values())


def test_what_differs_is_told() -> None:
    row = {"accuracy": 0.875, "integers": "19/20 conv in int8", "kl_divergence": float("nan")}
    assert differences(row, {"accuracy": [0.88, 0.01], "integers": "19/20 conv in int8"}) == []
    assert differences(row, {"accuracy": [0.9, 0.01], "integers": "20/20 conv in int8", "kl_divergence": [0.0, 1.0]}) == [
        "accuracy 0.9 within 0.01 was expected, got 0.875",
        "integers '20/20 conv in int8' was expected, got '19/20 conv in int8'",
        "kl_divergence 0.0 within 1.0 was expected, got nan",
    ]
