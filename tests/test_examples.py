"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLE = re.compile(r"^ *>>> (?!.*doctest: \+SKIP)", re.MULTILINE)


def modules():
    """The modules of gcn_jax that hold examples, and how many lines of input they have."""
    for path in sorted((ROOT / "gcn_jax").rglob("*.py")):
        if count := len(EXAMPLE.findall(path.read_text(encoding="utf-8"))):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), count


MODULES = dict(modules())


def test_public_functions_have_examples():
    named = {"gcn_jax.crf.dense_crf", "gcn_jax.evaluation.counts", "gcn_jax.checkpoints.pretrained"}
    named |= {"gcn_jax.training.batch_norm", "gcn_jax.training.loss", "gcn_jax.data.batches"}
    assert named <= MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write files where they are
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted == MODULES[name], "doctest does not find all of the module's examples"
    assert not found.failed, "see what it printed"


def test_headings_are_what_the_documentation_renders():
    """Under any other, such as "Example:", it takes the code for text."""
    wrong = re.compile(r"^ *(?!Examples:)Examples?\b.*\n+ *>>> ", re.MULTILINE | re.IGNORECASE)
    assert not [path for path in (ROOT / "gcn_jax").rglob("*.py") if wrong.search(path.read_text(encoding="utf-8"))]
