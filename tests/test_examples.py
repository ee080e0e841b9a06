"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
import pathlib
import re

import pytest

from gcn_jax.checkpoints import model_file
from tests.helpers import new_state

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLE = re.compile(r"^ *>>> (?!.*doctest: \+SKIP)", re.MULTILINE)


def modules():
    """The modules of gcn_jax that hold examples, and how many lines of input they have."""
    for path in sorted((ROOT / "gcn_jax").rglob("*.py")):
        if count := len(EXAMPLE.findall(path.read_text(encoding="utf-8"))):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), count


MODULES = dict(modules())


def test_public_functions_have_examples():
    rooms = (
        "models.network",
        "crf.dense_crf",
        "data.batches",
        "training.loss",
        "training.batch_norm",
        "evaluation.counts",
    )
    rooms += ("checkpoints.pretrained", "inference.segmenter")
    named = {f"gcn_jax.{room}" for room in rooms}
    assert named <= MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write files where they are
    if name == "gcn_jax.inference.segmenter":  # which reads what an export wrote
        model_file.save(tmp_path / "model.safetensors", new_state(config).eval_variables(), config, step=0)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted == MODULES[name], "doctest does not find all of the module's examples"
    assert not found.failed, "see what it printed"


def test_headings_are_what_the_documentation_renders():
    """Under any other, such as "Example:", it takes the code for text."""
    wrong = re.compile(r"^ *(?!Examples:)Examples?\b.*\n+ *>>> ", re.MULTILINE | re.IGNORECASE)
    assert not [path for path in (ROOT / "gcn_jax").rglob("*.py") if wrong.search(path.read_text(encoding="utf-8"))]
