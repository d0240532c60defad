"""Runs notebooks from a clean state and saves them with what they showed: python notebooks/execute.py [NAME.ipynb ...]"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def executed(path: Path, checks: str = "") -> nbformat.NotebookNode:
    """The notebook with the outputs of a new kernel, which works in an empty folder.

    Args:
        checks: code that runs after the last cell, and leaves no trace.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
        AssertionError: a cell writes to the error stream, as warnings do, or into the folder.
    """
    notebook = nbformat.read(path, as_version=4)
    metadata = notebook.metadata.copy()
    notebook.cells.append(nbformat.v4.new_code_cell(checks))
    with tempfile.TemporaryDirectory() as folder:
        # Lines that are printed one after the other are one output, however fast they come.
        options = {"timeout": 1200, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
        NotebookClient(notebook, **options).execute(cwd=folder)
        assert not list(Path(folder).iterdir()), f"{path.name} left files behind: {sorted(Path(folder).iterdir())}"
    notebook.cells.pop()
    notebook.metadata = metadata  # not the version of the Python that ran it
    for cell in notebook.cells:
        spoken = [output["text"] for output in cell.get("outputs", ()) if output.get("name") == "stderr"]
        assert not spoken, f"{path.name} writes to the error stream: {spoken}"
    return notebook


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(executed(path), path)
        print(path.name)
