"""best.json: like is compared with like."""

import json
import re

import pytest

from gcn_jax.checkpoints.best import Best, note, read_best
from gcn_jax.errors import UserError


def noted(workdir, *steps):
    """Notes steps by their mean IoU; returns what is read back."""
    for step, miou, images in steps:
        note(workdir, Best(step, miou, images, "miou", miou))
    return read_best(workdir)[:3]


def test_the_first_of_the_best_stays(tmp_path, capfd):
    assert read_best(tmp_path) is None
    assert noted(tmp_path, (5, 0.2, "a"), (10, 0.4, "a"), (15, 0.4, "a"), (20, 0.3, "a")) == (10, 0.4, "a")
    expected = {"step": 10, "miou": 0.4, "images": "a", "score": "miou", "value": 0.4}
    assert json.loads((tmp_path / "best.json").read_text()) == expected
    assert not capfd.readouterr().err


def test_a_step_with_other_images_is_not_compared_with(tmp_path, capfd):
    assert noted(tmp_path, (5, 0.9, "a"), (10, 0.1, "b")) == (10, 0.1, "b")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'best.json'}: step 5 was evaluated on other images or by other values")
    assert noted(tmp_path, (15, 0.2, "b"), (20, 0.1, "b")) == (15, 0.2, "b")
    assert not capfd.readouterr().err


def test_a_file_of_an_earlier_version_counts_as_of_the_present_images(tmp_path, capfd):
    (tmp_path / "best.json").write_text('{"step": 5, "miou": 0.5}')
    assert read_best(tmp_path) == (5, 0.5, "", "miou", 0.5)
    assert noted(tmp_path, (10, 0.4, "a")) == (5, 0.5, "a")
    assert not capfd.readouterr().err
    assert noted(tmp_path, (15, 0.1, "b")) == (15, 0.1, "b")


def test_less_loss_is_better_and_more_of_any_other_score(tmp_path, capfd):
    for score, values, best in (("loss", (0.9, 0.5, 0.7, 0.5), 2), ("iou_per_class.cat", (0.2, 0.1, 0.3, 0.3), 3)):
        for step, value in enumerate(values, 1):
            note(tmp_path, Best(step, 0.1 * step, "a", score, value))
        assert read_best(tmp_path) == (best, 0.1 * best, "a", score, values[best - 1])
    assert capfd.readouterr().err == f"{tmp_path / 'best.json'}: step 2 was evaluated by another score: not compared\n"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"step": 1}', '{"step": "x", "miou": 1}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "best.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'best.json'}: damaged (")):
        read_best(tmp_path)
