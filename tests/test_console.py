"""What is printed never ends the work: closed pipes and terminals, full disks, letters that a terminal lacks."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Prints more than any buffer holds, then writes a file as a program does whose outputs are closed.
CHATTER = """
import os, sys
from gcn_jax.console import bar, guard_output, say
guard_output()
for i in range(5000):
    print("a line of a table", i)
    say(f"line {i}")
with bar("working", 3, "piece") as progress:
    progress.update(3)
with open(sys.argv[1], "w") as file:
    os.write(2, b"of a library")
    file.write("whole")
"""


def chatter(path, shell="exec {}", **environment):
    """Runs it by a shell's line, in which {} is the command; returns the status and what stdout and stderr hold."""
    command = shell.format(f"{sys.executable} -c '{CHATTER}' {path}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, env=environment, timeout=60)
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


@pytest.mark.parametrize(
    ("shell", "lines"),
    [
        ("{} | head -1", (1, 5001)),
        ("{} 2> >(head -1 >&2)", (5000, 1)),
        ("{} >&-", (0, 5001)),
        ("{} 2>&-", (5000, 0)),
        ("{} <&- >&- 2>&-", (0, 0)),
        ("{} > /dev/full", (0, 5002)),
        ("{} 2> /dev/full", (5000, 0)),
        ("PYTHONUNBUFFERED=1 {} | head -1", (1, 5001)),
    ],
)
def test_work_goes_on_when_nobody_reads(tmp_path, shell, lines):
    status, out, err = chatter(tmp_path / "file", shell)
    assert status == 0, err
    assert (tmp_path / "file").read_text() == "whole"
    assert "Traceback" not in err
    assert "Exception" not in err
    assert (out.count("\n"), err.count("\n")) == lines, err[-300:]
    assert ("stdout: No space left on device; what follows is not shown" in err) == (shell == "{} > /dev/full")


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"LANG": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_any_name_can_be_printed(environment):
    code = r"""
import os
from gcn_jax.console import guard_output, say
guard_output()
text = "\u9053\u8def " + os.fsdecode(b"caf\xe9")
print(text)
say(text)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60)
    assert ended.returncode == 0, ended.stderr
    road = "\\u9053\\u8def" if "PYTHONIOENCODING" in environment else "\u9053\u8def"
    assert ended.stdout.decode() == ended.stderr.decode() == f"{road} caf\\udce9\n"
