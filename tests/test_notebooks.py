"""Every notebook runs from top to bottom, on bundled data."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
    assert list(tmp_path.iterdir()) == []
    coverage = namespace["run"].report["integer_coverage"]
    assert [coverage["conv"], coverage["linear"], coverage["add"]] == [[20, 20], [1, 1], [8, 8]]
