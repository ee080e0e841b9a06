"""The tutorial: what is kept of it in docs/, and that it runs, in a short form."""

import json
import os
import pathlib
import re
import sys

import pytest

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
SHORTER = (
    ("range(500)", "range(40)"),
    ("num_steps = 800", "num_steps = 4"),
    ("checkpoint_every = 200", "checkpoint_every = 2"),
    ("log_every = 40", "log_every = 1"),
    ("count=100", "count=3"),
)


def printed(cells):
    """What cells have printed."""
    outputs = (output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"])
    return "\n".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")


def test_what_is_kept_was_run_once_in_order_and_is_small():
    cells = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    pictures = [output for cell in code for output in cell["outputs"] if "data" in output]
    assert len(pictures) == 5
    assert all(output["data"].keys() & {"image/png", "image/jpeg"} for output in pictures)
    assert re.search(r"best mean IoU 0\.[789]", printed(cells))
    assert "error:" not in printed(cells)
    assert PAGE.stat().st_size < 2**20


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("onnxruntime")
    from tests.notebook import execute

    root = str(PAGE.parents[1])
    monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as a reader has
    text = printed(execute(tmp_path, SHORTER).cells)
    assert "best mean IoU" in text
    assert "labels as ours: 100.00%" in text or "labels as ours: 99.9" in text
