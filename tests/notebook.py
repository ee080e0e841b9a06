"""Executes the tutorial, in a folder that is thrown away; ``python -m tests.notebook`` keeps its outputs in docs/."""

import pathlib
import sys
import tempfile

import nbformat
from nbclient import NotebookClient

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def execute(folder, shorter=()):
    """The tutorial with the outputs of its cells; a cell that fails raises `nbclient.exceptions.CellExecutionError`.

    Args:
      folder: where it works.
      shorter: texts of its code and what stands for them, (old, new); each is there once.
    """
    notebook = nbformat.read(PAGE, as_version=4)
    for old, new in shorter:
        (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source]
        cell.source = cell.source.replace(old, new)
    resources = {"metadata": {"path": str(folder)}}
    options = {"timeout": 3600, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources=resources, **options).execute()
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        executed = execute(folder)
    for output in (output for cell in executed.cells for output in cell.get("outputs", ())):
        if "image/jpeg" in output.get("data", ()):
            del output.data["image/png"]  # several times as large
    nbformat.write(executed, PAGE)
    print(f"{PAGE}: {PAGE.stat().st_size:,} bytes", file=sys.stderr)
