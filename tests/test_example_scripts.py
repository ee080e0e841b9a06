"""The scripts of examples/ that show the parts in a user's own program, at small sizes."""

import pathlib
import sys

import numpy as np
import pytest
from flax import nnx
from PIL import Image

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
import compare_decoders  # noqa: E402
import dense_crf  # noqa: E402
import nnx_program  # noqa: E402
import pyramid_features  # noqa: E402
import run_list  # noqa: E402
import training_loop  # noqa: E402

from gcn_jax.evaluation.counts import Counts  # noqa: E402


def test_what_a_run_that_learns_nothing_gets():
    """The scores of one class everywhere follow from the counts of any other prediction."""
    rng = np.random.default_rng(0)
    label, prediction = (
        rng.choice(4, (40, 50), p=p).astype(np.uint8) for p in ((0.2, 0, 0.5, 0.3), (0.1, 0.5, 0.2, 0.2))
    )
    scored, one_class = (
        Counts.of_image(label=label, prediction=p, num_classes=4) for p in (prediction, np.full_like(label, 2))
    )
    found = compare_decoders.of_one_class({"confusion_matrix": scored.compute()["confusion"].tolist()})
    assert found == pytest.approx(one_class.miou())


def test_norms_of_a_decoder_that_has_them_follow_the_batch():
    arguments = {name: " ".join(compare_decoders.arguments(name)) for name in compare_decoders.DECODERS}
    norms = {name for name, text in arguments.items() if "--config.model.decoder_norm=train" in text}
    assert norms == {"fcn", "segnet", "deconvnet", "pspnet", "zoomout", "deeplabv3plus"}


def test_runs_of_another_length_are_others(tmp_path, monkeypatch):
    """A run that is done is not made again: one of 200 steps must not be taken for one of 500."""
    command = ["compare", "--data_dir=d", "--init_from=f", f"--runs={tmp_path}", "out"]
    found = []
    for steps in ([], ["--steps=500"]):
        monkeypatch.setattr("sys.argv", [*command, *steps])
        args = run_list.parse("about", ["gcn"], "decoders", steps=200)
        found.append((args.runs.parent, args.runs.name, run_list.common(args)[-2]))
    assert found == [(tmp_path, f"{n}_steps", f"--config.num_steps={n}") for n in (200, 500)]


@pytest.mark.slow
def test_dense_crf(tmp_path):
    before, after = dense_crf.main(str(tmp_path / "out.png"))
    assert before < 0.8
    assert after > 0.95
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width % 12 == 0  # three pictures, enlarged by 4


def test_mean_iou_of_the_training_loop():
    """Class 0: 2 of 3 pixels; class 1: 1 of 2; void counts for nothing."""
    assert training_loop.mean_iou(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 255]), 2) == (2 / 3 + 1 / 2) / 2


def test_least_squares_of_the_pyramid():
    """It finds answers that are linear in the features, whatever these's scale, for new rows, too."""
    rng = np.random.default_rng(0)
    features, weights = (
        rng.normal(size=(200, 4)) * [1, 10, 100, 0.1],
        rng.normal(size=(4, 5)) / [[1], [10], [100], [0.1]],
    )
    answers = features @ weights > 0
    is_held = pyramid_features.found((features[:150], answers[:150]), features[150:])
    assert (is_held == answers[150:]).mean() > 0.9


@pytest.mark.slow
def test_pyramid_features(capsys):
    right = pyramid_features.main(num_known=200, num_new=100)
    assert list(right) == list(pyramid_features.STAGES)
    lines = capsys.readouterr().out.splitlines()
    guess, *stages = (int(line.split()[-2].rstrip("%")) / 100 for line in lines)
    assert max(stages) > guess
    assert "(2, 2, 512)" in lines[-1]


@pytest.mark.slow
def test_training_loop(capsys):
    assert training_loop.main(num_steps=41, num_images=20) > 0.2  # 0.16 if all is background
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert losses[-1] < losses[0] / 3


@pytest.mark.slow
def test_nnx_program(capsys):
    program = nnx_program.main(num_steps=21, batch_size=4)
    first, last = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if line.startswith("step"))
    assert last < first / 2
    assert program.colors.mean[...].min() > 50  # of colours from 0 to 255: it was learnt
    means = nnx.to_flat_state(nnx.state(program.network, nnx.BatchStat))
    assert any(np.abs(value[...]).max() > 0 for path, value in means if path[-1] == "mean")
