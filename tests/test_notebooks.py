"""Every notebook runs in a new kernel from top to bottom, does what its text says, and is saved as it runs."""

import os
import re
import runpy
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need the extra notebook")
pytest.importorskip("nbclient", reason="notebooks need the extra notebook")

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

# What the text around the cells claims, whatever the figures: code that runs behind the last cell.
CLAIMS = {
    "01_first_run": """
coverage = run.report["integer_coverage"]
assert [coverage["conv"], coverage["linear"], coverage["add"]] == [[20, 20], [1, 1], [8, 8]]
assert run.report["summary"]["size_ratio"] > 12
""",
    "02_prune_your_model": """
before, after = (compress.measure.count_macs(each, task.example_inputs) for each in (net, mine))
assert 0.2 < after / before < 0.35 and mine.head.out_features == 10
assert percent(net) > 60 and percent(mine) > 60
assert "head" in found.protected and not net.training
""",
    "03_int8_without_tears": """
assert coverage["conv"] == [7, 7] and coverage["linear"] == [2, 2] and coverage["add"] == [2, 2]
assert "gelu" in coverage["left_in_float"][0]["name"].lower()
guard = bounded.report["stages"][-1]["details"]["guard"]
assert guard["met"] and guard["chosen"]["in_float"] == ["3.conv1"] and guard["trials"][0]["drop"] > 0.05
assert "int8 without training" in few_bits.report["stages"][-1]["notes"][-1]
""",
    "04_distil_a_smaller_student": """
first, without, with_teacher = run.report["stages"]
assert [each["name"] for each in run.report["stages"]] == ["baseline", "distill_control", "distill"]
assert with_teacher["accuracy"] > 0.5 and first["accuracy"] < 0.3
assert 100 * first["params"] < compress.measure.count_parameters(teacher.model)
""",
    "05_compare": """
assert table["run"].tolist() == ["baseline", "half 0, half 1", "int8"] and table["n"].tolist() == [3, 2, 1]
assert table["setting"].nunique() == 1
""",
    "06_write_a_pass": """
assert len(In[1].partition("@dataclass")[2].splitlines()) < 25
assert Out[5][-1] == "clip_weights"
""",
}


def shapes(notebook: object) -> list[list[tuple[str, ...]]]:
    """Of each cell the kinds of its outputs: `stream`, `text/html`, `image/png`, ..."""
    return [
        [tuple(sorted(output.get("data", {output["output_type"]: None}))) for output in cell.get("outputs", ())]
        for cell in notebook.cells  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_was_saved(path: Path) -> None:
    execute = runpy.run_path(str(FOLDER / "execute.py"))["executed"]
    assert shapes(execute(path, CLAIMS[path.stem])) == shapes(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_saved_from_a_clean_state_and_says_nothing_of_the_machine_it_ran_on(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    said = re.sub(r'"image/png": "[^"]*"', "", path.read_text())
    for private in ("/home/", "/tmp/", "/root/", "/work/", "site-packages", "Warning", "Traceback", os.path.expanduser("~/")):
        assert private not in said, private
    assert re.search(r"[Tt]akes about [a-z ]+ on two cores", notebook.cells[0].source)
