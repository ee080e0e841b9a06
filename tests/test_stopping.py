"""The best step by any score, and the end of a training that no longer gets better."""

import json
import re
import shutil
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import best
from gcn_jax.config import settings
from gcn_jax.data.shapes import ShapesSource
from gcn_jax.data.specs import SHAPES, ClassSpec, DatasetSpec
from gcn_jax.errors import UserError
from gcn_jax.evaluation.counts import Counts
from gcn_jax.evaluation.evaluator import Evaluation
from gcn_jax.evaluation.score import check_score, score, titled
from gcn_jax.modes.evaluations import Evaluations
from gcn_jax.training.run_log import RunLog, read_records
from tests import command_line
from tests.helpers import mesh_of, result_of

LOSSES = (0.9, 0.5, 0.6, 0.4, 0.7, 0.4, 0.5, 0.1)  # of the evaluations at steps 10, 20, ...
SMALL = (
    "--config=configs/shapes.py",
    "--config.batch_size=2",
    "--config.model.width=4",
    "--config.model.kernel_size=3",
    "--config.num_steps=40",
    "--config.eval_every=4",
    "--config.log_every=2",
    "--config.eval.num_pictures=0",
)


def evaluation_of(loss):
    """An evaluation of this mean loss, whose mean IoU rises with it."""
    label = np.zeros((10, 10), np.uint8)
    counts = Counts.of_image(
        label=label, prediction=(np.arange(100) >= 100 * loss).astype(np.uint8).reshape(10, 10), num_classes=6
    )
    return Evaluation(counts, loss=100 * loss)


def train(config, workdir, first, last):
    """Evaluates at every 10th step after the first as a training does; returns the step at which it stops."""
    checkpoints = SimpleNamespace(mark=lambda new: best.note(workdir, new), best=lambda: best.read_best(workdir))
    recipe, state = settings.recipe(config), SimpleNamespace(eval_variables=lambda: None)
    with closing(RunLog(workdir, first)) as log:
        args = (recipe, mesh_of(config), ShapesSource("val"), checkpoints, log, SimpleNamespace(received=""))
        evaluations = Evaluations(config, *args)
        evaluations._evaluator = lambda _, should_stop: evaluation_of(LOSSES[step // 10 - 1])
        for step in range(first, last + 1):
            if step and step % 10 == 0:
                evaluations.evaluate(step, state)
            if (step == first or step % 10 == 0) and evaluations.is_over(step):
                return step
    return None


@pytest.mark.parametrize(
    ("best_by", "patience", "stops"), [("loss", 2, 60), ("loss", 3, 70), ("loss", 0, None), ("miou", 2, 30)]
)
def test_it_stops_at_the_same_step_however_often_it_was_interrupted(config, tmp_path, best_by, patience, stops):
    config.mesh.data, config.eval.best_by, config.stop.patience = 1, best_by, patience
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    assert train(config, tmp_path / "whole", 0, 80) == stops
    starts = range(0, stops or 80, 7)  # from a checkpoint before what was evaluated and logged last
    found = [train(config, tmp_path / "parts", first, min(first + 12, stops or 80)) for first in starts]
    assert set(found[:-2]) == {None}
    assert found[-1] == stops
    for name in ("best.json", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "parts" / name).read_text()
    if stops:
        assert train(config, tmp_path / "parts", stops, 80) == stops, "started again it has stopped"
        config.stop.patience += 2
        assert train(config, tmp_path / "parts", stops, 80) != stops


def test_a_best_of_other_images_or_by_another_score_does_not_stop(config, tmp_path):
    config.mesh.data, config.eval.best_by, config.stop.patience = 1, "loss", 1
    assert train(config, tmp_path, 0, 80) == 30
    for group, key, value in (("eval", "best_by", "pixel_accuracy"), ("eval", "flip", True)):
        changed = config.copy_and_resolve_references()
        changed[group][key] = value
        shutil.copytree(tmp_path, tmp_path / key)
        assert train(changed, tmp_path / key, 30, 35) is None
        assert train(changed, tmp_path / key, 35, 40) is None, "the first that can be compared is the best"
        assert best.read_best(tmp_path / key).step == 40


def test_a_class_that_does_not_occur_is_no_best(config, tmp_path, capfd):
    config.mesh.data, config.eval.best_by, config.stop.patience = 1, "iou_per_class.ring", 3
    assert train(config, tmp_path, 0, 80) == 30
    assert not (tmp_path / "best.json").exists()
    assert capfd.readouterr().err.count("nothing was counted for config.eval.best_by=iou_per_class.ring") == 3


def test_what_is_logged_of_an_evaluation(config, tmp_path):
    config.mesh.data, config.eval.best_by = 1, "iou_per_class.background"
    train(config, tmp_path, 0, 20)
    records = read_records(tmp_path)
    assert [record["validation_loss"] for record in records] == [0.9, 0.5]
    assert [record["iou_per_class.background"] for record in records] == [0.9, 0.5]
    assert not [record for record in records if "loss" in record], "that is the training's"
    assert best.read_best(tmp_path)[3:] == ("iou_per_class.background", 0.9)


def test_scores_are_those_of_an_evaluation(config):
    result = json.loads(json.dumps(result_of(evaluation_of(0.25), config, 3)))
    names = [name for name in result if isinstance(result[name], float)]
    assert {"loss", "miou", "pixel_accuracy"} <= set(names)
    names += [f"{group}.{part}" for group in result if group.endswith("_per_class") for part in result[group]]
    names += [f"trimap_miou.{width}" for width in result["trimap_miou"]]
    for name in names:
        check_score(name, SHAPES)
        assert titled(name)
    assert (score(result, "loss"), score(result, "iou_per_class.background")) == (0.25, 0.25)
    assert score(result, "accuracy_per_class.disk") is None
    check_score("iou_per_class.a.b c", DatasetSpec("x", (ClassSpec("other", (0, 0, 0)), ClassSpec("a.b c", (9, 9, 9)))))
    for name in (
        "",
        "mIoU",
        "step",
        "iou_per_class",
        "iou_per_class.cat",
        "trimap_miou.4",
        "confusion_matrix",
        "data.x",
    ):
        with pytest.raises(
            UserError, match=rf"config\.eval\.best_by='{re.escape(name)}': no score; known: miou, .* loss, iou"
        ):
            check_score(name, SHAPES)


def test_a_patience_that_could_not_stop_is_refused(config):
    config.eval_every, config.num_steps = 10, 40
    config.stop.patience = 2
    config_lib.validate(config)
    config.stop.patience = 3
    with pytest.raises(
        UserError, match=r"config\.stop\.patience=3 has no effect without more evaluations: lower config"
    ):
        config_lib.validate(config)


def test_an_unknown_score_is_refused_at_the_start(tmp_path):
    common = (*SMALL, f"--workdir={tmp_path / 'run'}", f"--config.cache_dir={tmp_path / 'cache'}")
    err = command_line.refused(*common, "--config.eval.best_by=iou_per_class.dsik")
    assert len(err.splitlines()) == 1
    assert "where CLASS is one of background, disk, square, triangle, ring, cross, and WIDTH" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_stops_early_interrupted_or_not(cache, tmp_path):
    """With a rate so small that nothing gets better after the first evaluation."""
    settled = (
        *SMALL,
        f"--config.cache_dir={cache}",
        "--config.model.norm=frozen",
        "--config.optimizer.learning_rate=1e-12",
        "--config.eval.best_by=pixel_accuracy",
        "--config.stop.patience=2",
    )
    _, err = command_line.run(*settled, f"--workdir={tmp_path / 'whole'}")
    line = "stopped early at step 12: 2 evaluations since step 4 brought no better pixel_accuracy; "
    assert err.splitlines()[-2].startswith(line)
    assert re.fullmatch(rf"done: {tmp_path / 'whole'}; best pixel accuracy 0\.\d+ at step 4", err.splitlines()[-1])
    command_line.run(*settled, "--config.num_steps=16", f"--workdir={tmp_path / 'parts'}", "--config.stop.patience=1")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "8")  # as if it had been killed before this was saved
    _, err = command_line.run(*settled, f"--workdir={tmp_path / 'parts'}")
    assert "resuming from step 4" in err
    assert err.splitlines()[-2].startswith(line)
    assert (tmp_path / "whole" / "best.json").read_text() == (tmp_path / "parts" / "best.json").read_text()
    _, err = command_line.run(*settled, f"--workdir={tmp_path / 'whole'}")
    assert err.splitlines()[-2].startswith(line)
    _, err = command_line.run(*settled, f"--workdir={tmp_path / 'whole'}", "--mode=eval")
    assert "evaluating step 4" in err
    assert json.loads((tmp_path / "whole" / "eval.json").read_text())["loss"] > 0
    assert "Validation loss" in (tmp_path / "whole" / "report.html").read_text()
