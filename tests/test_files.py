"""How a run's files are written, and what they are called."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

import gcn_jax
from gcn_jax.errors import UserError
from gcn_jax.files import (
    RunFile,
    check_is_local,
    make_workdir,
    output_path,
    write_bytes,
    write_json,
    write_text,
    written_whole,
)

ROOT = pathlib.Path(__file__).parents[1]

# Writes half of a file in a block, says so, and waits to be killed; with "fast" it only says where it would write.
_WRITER = """
import pathlib, sys, time
from gcn_jax.files import written_whole
with written_whole(pathlib.Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print(partial, flush=True)
    time.sleep(60 if sys.argv[2] == "slow" else 0)
"""


def writer(path, speed):
    return subprocess.Popen([sys.executable, "-c", _WRITER, path, speed], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class BrokenError(Exception):
    """What a block raises."""


def write_half(path):
    with written_whole(path) as partial:
        partial.write_text("half")
        raise BrokenError


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with written_whole(path) as partial:
        assert partial.parent == path.parent, "to be renamed it must be on the same file system"
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    write_json(path, {"b": [1, None]})
    assert path.read_text() == '{\n  "b": [\n    1,\n    null\n  ]\n}\n'
    assert names(tmp_path) == ["a.json"]


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    for old in (None, "old"):
        if old:
            path.write_text(old)
        with pytest.raises(BrokenError):
            write_half(path)
        assert names(tmp_path) == (["a.json"] if old else [])
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert path.read_text() == "old"


def test_two_processes_write_to_different_names(tmp_path):
    """Of which one is killed: the file is the other's, whole."""
    path = tmp_path / "a.json"
    with writer(path, "slow") as killed:
        first = killed.stdout.readline().strip()
        assert pathlib.Path(first).read_text() == "half"
        with writer(path, "fast") as other:
            second = other.stdout.readline().strip()
        assert path.read_text() == "half"
        killed.send_signal(signal.SIGKILL)
    assert other.returncode == 0
    assert len({first, second, str(path)}) == 3
    assert path.read_text() == "half"


def test_names_are_those_of_the_documentation():
    """The table "What a run leaves" has each name, and no other."""
    text = (ROOT / "docs" / "training.md").read_text()
    table = text.partition("## What a run leaves")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    told = {name.rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    events = {name for name in told if name.startswith(RunFile.EVENTS)}
    assert len(events) == 1, "TensorBoard completes the name"
    assert told - events == {str(name) for name in RunFile} - {RunFile.EVENTS}


def test_what_is_said_of_a_file_stands_beside_it(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert output_path(tmp_path, RunFile.REPORT) == tmp_path / "report.html"
    assert output_path(tmp_path / "model.safetensors", RunFile.REPORT) == tmp_path / "model.report.html"


def test_a_failed_write_names_the_file(tmp_path):
    """What a write to a full disk raises does not."""
    path = tmp_path / "a.json"
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        written_whole(path),
        open("/dev/full", "w") as full,
    ):
        full.write("text")
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught, written_whole(path):
        (tmp_path / "other").read_bytes()
    assert caught.value.filename == str(tmp_path / "other")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "address", ["gs://bucket/run", "s3://b", "az://a/b", "hdfs://h:1/r", "file:///tmp/run", "gs:/b"]
)
def test_addresses_are_no_paths(address):
    with pytest.raises(UserError, match=f"^--workdir={address}: an address; name a local folder or file"):
        check_is_local("--workdir", address)
    with pytest.raises(UserError, match=f"^source={pathlib.Path(address)}: an address"):
        gcn_jax.load(pathlib.Path(address))
    for path in ("runs/voc", "/gs/x", "a:b/c", "", "~/x", "C:/runs", "./gs://x", "1:/x"):
        check_is_local("--workdir", path)


def test_names_that_are_not_utf_8_are_written_as_escapes(tmp_path):
    write_text(tmp_path / "a", os.fsdecode(b"caf\xe9 \xe9\x81\x93"))
    assert (tmp_path / "a").read_text(encoding="utf-8") == "caf\\udce9 \u9053"


def test_a_workdir_is_made_with_its_parents(tmp_path):
    for _ in range(2):
        make_workdir(tmp_path / "a" / "b")
        assert names(tmp_path / "a" / "b") == []
