"""The command line, as a user types it: whole runs, interruptions, mistakes."""

import errno
import json
import os
import shutil
import signal
import sys
import time
import warnings
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import flags
from PIL import Image
from scipy.ndimage import distance_transform_edt

import gcn_jax
from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.manager import load_variables
from gcn_jax.data import shapes
from gcn_jax.data.specs import SHAPES
from gcn_jax.evaluation.boundary import on_boundary
from tests import command_line

SMALL = (
    "--config=configs/shapes.py",
    "--config.num_steps=9",
    "--config.batch_size=2",
    "--config.eval_every=6",
    "--config.checkpoint_every=2",
    "--config.log_every=3",
    "--config.model.width=4",
    "--config.model.kernel_size=3",
)


VOC_TRAIN = "--config.data.train=voc_segmentation/train"


def start(workdir, cache, *args):
    return command_line.start(*SMALL, f"--workdir={workdir}", f"--config.cache_dir={cache}", *args)


def run(workdir, cache, *args, status=0):
    """Runs to the end; returns stdout and stderr."""
    return command_line.run(*SMALL, f"--workdir={workdir}", f"--config.cache_dir={cache}", *args, status=status)


def refused(workdir, cache, *args):
    """What stderr holds of a mistake."""
    return command_line.refused(*SMALL, f"--workdir={workdir}", f"--config.cache_dir={cache}", *args)


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with start(workdir, cache) as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "mean IoU" in err
    return workdir


def assert_same_state(workdir, other):
    """Every array of the last checkpoints equal, bit for bit: parameters, statistics, momentum, iterator."""
    states = []
    for folder in (workdir, other):
        path = (folder / "checkpoints" / "9").absolute()
        with ocp.PyTreeCheckpointer() as checkpointer, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Orbax finds the layout on devices by itself
            states.append(checkpointer.restore(path / "state"))
        states[-1]["data"] = json.loads((path / "data" / "metadata").read_text())
    flat = [dict(_leaves(state)) for state in states]
    assert flat[0].keys() == flat[1].keys()
    assert sum("trace" in key for key in flat[0]) > 50, "the momentum must be among what is compared"
    for key, value in flat[0].items():
        assert np.array_equal(value, flat[1][key]), key


def read(path, mode=None):
    """An image file's pixels, in a mode."""
    with Image.open(path) as image:
        return np.array(image.convert(mode) if mode else image)


def _leaves(tree, prefix=""):
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from _leaves(value, f"{prefix}/{key}")
    else:
        yield prefix, tree


def test_what_a_run_leaves(finished):
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "loss" in r] == [3, 6, 9]
    assert {"loss", "grad_norm", "learning_rate", "images_per_second"} <= records[0].keys()
    evaluated = {r["step"]: r["miou"] for r in records if "miou" in r}
    assert evaluated.keys() == {6, 9}
    best = json.loads((finished / "best.json").read_text())
    assert best["miou"] == max(evaluated.values()) == evaluated[best["step"]]
    kept = {p.name for p in (finished / "checkpoints").iterdir()}
    assert {"8", "9", str(best["step"])} <= kept <= {"6", "8", "9"}, "the newest two, and the best so far"
    assert (finished / "pictures" / "step_00000009.png").is_file()
    assert list(finished.glob("events.out.tfevents*"))


def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(finished, cache, tmp_path):
    lines = []
    with start(tmp_path / "run", cache) as process:
        for line in process.stderr:
            lines.append(line)
            if line.startswith("step 3/"):
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0, lines
    assert "stopped by SIGTERM" in lines[-1], lines
    _, err = run(tmp_path / "run", cache)
    assert "resuming from step" in err
    assert_same_state(finished, tmp_path / "run")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 4


@pytest.mark.slow
def test_sigkill_loses_little_and_the_run_goes_on_bit_for_bit(finished, cache, tmp_path):
    for checkpoint in ("2", "6"):  # 6 is being evaluated when the process dies
        process = start(tmp_path / "run", cache)
        while not (tmp_path / "run" / "checkpoints" / checkpoint).is_dir():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    _, err = run(tmp_path / "run", cache)
    assert "resuming from step 6" in err
    assert_same_state(finished, tmp_path / "run")
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps), "what was logged beyond the resumed step is dropped"
    assert (tmp_path / "run" / "best.json").read_text() == (finished / "best.json").read_text()


def test_a_finished_run_started_again_does_nothing(finished, cache, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    _, err = run(tmp_path / "run", cache)
    assert "done" in err
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_a_best_of_other_images_is_not_compared_with(finished, cache, tmp_path):
    """As if the validation images had changed since the run was stopped."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    best = json.loads((workdir / "best.json").read_text())
    (workdir / "best.json").write_text(json.dumps({**best, "miou": 0.99, "value": 0.99, "images": "others"}))
    _, err = run(workdir, cache, "--config.num_steps=10")
    assert err.count(f"{workdir / 'best.json'}: step {best['step']} was evaluated on other images") == 1
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    miou = next(record["miou"] for record in records if record["step"] == 10 and "miou" in record)
    expected = {**best, "step": 10, "miou": miou, "value": miou}
    assert json.loads((workdir / "best.json").read_text()) == expected


def test_eval_writes_what_training_measured(finished, cache):
    out, _ = run(finished, cache, "--mode=eval", "--config.eval.checkpoint=latest")
    result = json.loads((finished / "eval.json").read_text())
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    last = next(r for r in records if r["step"] == 9 and "miou" in r)
    assert (result["step"], result["num_images"]) == (9, 200)
    assert (result["miou"], result["pixel_accuracy"]) == (last["miou"], last["pixel_accuracy"])
    labels = [shapes.draw("val", i)[1] for i in range(200)]
    assert np.sum(result["confusion_matrix"]) == sum((label != 255).sum() for label in labels)
    assert all(result[key] == last[key] for key in ("mean_accuracy", "boundary_accuracy", "internal_accuracy"))
    assert f"{100 * result['miou']:.2f}" in out
    assert len(result["miou_per_image"]) == 200
    # Each image's own accuracies, weighted by its pixels near boundaries and far from them, make the whole's.
    far = [distance_transform_edt(~on_boundary(label))[label != 255] > 7 for label in labels]
    for region, weights in (("internal", [f.sum() for f in far]), ("boundary", [(~f).sum() for f in far])):
        own = [value or 0 for value in result[f"{region}_accuracy_per_image"].values()]
        np.testing.assert_allclose(np.average(own, weights=weights), result[f"{region}_accuracy"], rtol=1e-12)
    page = (finished / "report.html").read_text()
    assert f"{100 * result['miou']:.2f}" in page
    assert page.count("<article") == 9, "the best, the median and the worst three images"


@pytest.mark.slow
def test_eval_compares_runs_of_different_models(finished, cache, tmp_path):
    """The paper's table 5 in one command: another model's run beside the first, each as it was trained."""
    other = tmp_path / "other"
    run(other, cache, "--config.model.kernel_size=1", "--config.num_steps=2", "--config.log_every=1")
    arguments = [a for a in SMALL if "model" not in a]
    args = (f"--config.cache_dir={cache}", f"--workdir={finished}", f"--workdir={other}", "--config.eval.flip=True")
    out, _ = command_line.run(*arguments, *args, "--mode=eval")
    table = out.rpartition("\n\n")[2].splitlines()
    assert "boundary accuracy" in table[0]
    for line, workdir in zip(table[2:], (finished, other), strict=True):
        result = json.loads((workdir / "eval.json").read_text())
        assert result["protocol"] == {"scales": [1.0], "flip": True, "window": 0, "crf": "", "stride": 0}
        scores = [f"{100 * result[key]:.2f}" for key in ("miou", "boundary_accuracy", "internal_accuracy")]
        assert [score for score in line.split()[1:] if score in scores] == scores
        page = (workdir / "report.html").read_text()
        assert str(finished) in page
        assert str(other) in page


@pytest.mark.slow
def test_a_run_that_goes_on_can_be_evaluated(finished, cache, tmp_path):
    """While it is writing its checkpoints, of the last one that is complete."""
    workdir = tmp_path / "run"
    args = ("--config.num_steps=2000", "--config.checkpoint_every=1", "--config.eval_every=2000")
    with start(workdir, cache, *args) as training:
        while not (workdir / "checkpoints" / "2").is_dir():
            assert training.poll() is None, training.stderr.read()
            time.sleep(0.05)
        _, err = run(workdir, cache, "--mode=eval")
        assert training.poll() is None, "it was still training"
        training.kill()
        training.communicate()
    step = json.loads((workdir / "eval.json").read_text())["step"]
    assert f"evaluating step {step} of" in err
    assert step >= 1
    assert "No evaluation during training yet" in (workdir / "report.html").read_text()


def test_predict_labels_a_folder(finished, cache, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(2):
        Image.fromarray(shapes.draw("val", i)[0]).save(images / f"{i}.png")
    Image.fromarray(np.zeros((20, 150, 3), np.uint8)).save(images / "wide.jpg")
    (images / "bad.jpg").write_bytes((images / "wide.jpg").read_bytes()[:-100])
    (images / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    _, err = run(finished, cache, "--mode=predict", f"--input={images}", f"--output={out}", status=2)
    assert err.splitlines()[-1].count("bad.jpg") == 1
    assert "1 of 4 images could not be labelled" in err.splitlines()[-1]
    expected = ["0.png", "0_overlay.jpg", "1.png", "1_overlay.jpg", "wide.png", "wide_overlay.jpg"]
    assert sorted(p.name for p in out.iterdir()) == expected
    segmenter = gcn_jax.load(finished)
    for name in ("0", "1"):
        image, label = read(images / f"{name}.png"), read(out / f"{name}.png")
        np.testing.assert_array_equal(label, segmenter.predict(image))
        np.testing.assert_array_equal(label, segmenter.probabilities(image).argmax(-1))
        np.testing.assert_array_equal(read(out / f"{name}.png", "RGB"), SHAPES.palette()[label])
    assert read(out / "wide.png").shape == (20, 150)
    assert read(out / "wide_overlay.jpg").shape == (20, 150, 3)
    with pytest.raises(ValueError, match="image must be uint8"):
        segmenter.predict(np.zeros((8, 8, 3), np.float32))


@pytest.mark.slow
def test_a_stage_starts_from_the_best_of_another(finished, cache, tmp_path):
    args = (f"--config.init_from={finished}", "--config.num_steps=1", "--config.optimizer.learning_rate=1e-12")
    _, err = run(tmp_path / "run", cache, *args, "--config.model.norm=frozen")
    assert "starting from step" in err
    _, start_weights = load_variables(finished, "best", averaged=False)
    _, weights = load_variables(tmp_path / "run", "latest", averaged=False)
    ours, theirs = (dict(_leaves(w)) for w in (weights, start_weights))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_allclose(value, theirs[key], atol=1e-7)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(cache, tmp_path):
    args = ("--config.optimizer.learning_rate=1e15", "--config.optimizer.clip_norm=0.0")
    _, err = run(tmp_path / "run", cache, *args, status=1)
    last = err.splitlines()[-1]
    assert "not finite" in last
    assert "step " in last
    assert not list((tmp_path / "run" / "checkpoints").iterdir()), "the first save comes after the first such loss"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config=configs/voc.py:stage9"], "configs/voc.py:stage9: unknown stage; known: stage1"),
        (["--config=configs/nope.py"], "No such file or directory: 'configs/nope.py'"),
        (["--config.nope=1"], "error: --config.nope: unknown key"),
        (["--config.model.nope=1"], "error: --config.model.nope: unknown key"),
        (["--config.data.trian=1"], "gcn_jax/config/defaults.py lists all keys; did you mean train?"),
        (["--config.num_steps=abc"], "--config.num_steps=abc"),
        (["--config.batch_size=0"], "config.batch_size must be positive. Got 0"),
        (["--config.model.kernel_size=14"], "config.model.kernel_size must be odd and positive. Got 14"),
        (["--config.model.backbone=vgg"], "config.model.backbone must be one of"),
        (["--config.data.train=x/train"], "config.data.train='x/train': 'x/train' is unknown data"),
        (["--config.data.size=50"], "config.data.size must be a positive multiple of 32. Got 50"),
        (["--config.init_from=nowhere"], "config.init_from=nowhere: holds no checkpoint"),
        ([VOC_TRAIN], "config.data.eval='shapes/val' has the classes of shapes, but"),
        (
            [VOC_TRAIN, "--config.data.eval=voc_segmentation/val", "--config.data_dir=/nope"],
            "config.data_dir=/nope: no",
        ),
        (["--config.cache_dir=/dev/null/x"], "config.cache_dir=/dev/null/x: cannot be written"),
        (["--config.mesh.data=64"], "config.mesh: data=64"),
        (["--mode=nope"], "--mode=nope"),
        (["--mode=eval"], "not a workdir of a training run"),
        (["--config.eval.window=20"], "config.eval.window must be at least 32 pixels"),
        (["--config.eval.scales=1.0,-1.0"], "config.eval.scales must be one or more positive numbers"),
        (["--workdir=other"], "--workdir: --mode=train takes one; only serve, eval and receptive_field take several"),
        (["--mode=predict"], "--mode=predict needs --input"),
        (["stray"], "unexpected argument 'stray'"),
        *(
            ([f"--{name}={address}"], f"{name}={address}: an address; name a local folder or file")
            for name, address in {
                "workdir": "gs://bucket/run",
                "input": "https://host/a.jpg",
                "output": "az://account/out",
                "config": "gs://bucket/c.py:stage1",
                "config.data_dir": "s3://bucket/data",
                "config.init_from": "hdfs://host:9000/run",
                "config.cache_dir": "gs:/bucket/cache",
            }.items()
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, args, message):
    err = refused(tmp_path / "run", tmp_path / "cache", *args)
    assert len(err.splitlines()) == 1, err
    assert message in err
    assert not list((tmp_path / "run").rglob("*"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.model.nope=1"], "error: --config.model.nope: unknown key"),
        (["--config.init_from=nowhere"], "config.init_from=nowhere: holds no checkpoint"),
    ],
)
def test_a_mistake_ends_the_process(cache, tmp_path, args, message):
    """The same from outside: while flags are parsed, and in a mode."""
    out, err = run(tmp_path / "run", cache, *args, status=2)
    assert err.startswith("run.py: error: ")
    assert len(err.splitlines()) == 1, err
    assert message in err
    assert not out
    assert not (tmp_path / "run").exists()


def test_a_mistake_leaves_the_next_command_as_it_was(tmp_path):
    """And this process, or these tests would show nothing, and change others."""

    def process():
        settings = (jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        return settings, handlers, list(flags.FLAGS), flags.FLAGS.is_parsed(), sys.argv, sys.unraisablehook, os.getcwd()

    refused(tmp_path / "run", tmp_path / "cache", "--config.batch_size=0")
    before = process()
    data = (VOC_TRAIN, "--config.data.eval=voc_segmentation/val", "--config.data_dir=/nope")
    prepared = refused(tmp_path / "run", tmp_path / "cache", *data, "--mode=prepare")
    assert "config.data_dir=/nope: no" in prepared
    assert (tmp_path / "cache" / "xla").is_dir(), "it came as far as to the cache"
    assert process() == before
    other = refused(tmp_path / "run", tmp_path / "cache", "--config.num_steps=0")
    assert "config.num_steps must be positive" in other
    missing = "run.py: error: --config is missing, such as --config=configs/shapes.py\n"
    assert command_line.refused("--mode=train") == missing


def test_a_workdir_that_cannot_be_written(tmp_path):
    err = refused("/dev/null/x", tmp_path)
    assert err == f"run.py: error: --workdir=/dev/null/x: cannot be written ({os.strerror(20)})\n"
    err = refused(tmp_path / os.fsdecode(b"caf\xe9"), tmp_path)
    assert err.endswith("cannot be written (its name is not UTF-8); choose another\n")
    err = refused(tmp_path / "run", tmp_path / os.fsdecode(b"caf\xe9"))
    assert err.startswith(f"run.py: error: config.cache_dir={tmp_path}/caf")
    assert err.endswith("cannot be written (its name is not UTF-8); choose another\n")


@pytest.mark.parametrize(
    "mode", ["train", "eval", "predict", "prepare", "plan", "receptive_field", "crf_search", "calibrate", "export"]
)
def test_a_full_disk_is_told_before_any_work(config, tmp_path, monkeypatch, mode):
    """One that still takes names, and no bytes; there is not even a model to load."""
    workdir, output = tmp_path / "run", tmp_path / "model.safetensors"
    workdir.mkdir()
    saved_config.save(config, workdir)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    common = (f"--workdir={workdir}", f"--config.cache_dir={tmp_path / 'cache'}", f"--mode={mode}")
    given = (f"--input={tmp_path / 'a.png'}", f"--output={output}")
    err = command_line.refused("--config=configs/shapes.py", *common, *given)
    setting = f"--output={output}" if mode in ("predict", "export") else f"--workdir={workdir}"
    assert err.splitlines()[-1] == f"run.py: error: {setting}: cannot be written (No space left on device)"
    assert sorted(path.name for path in workdir.iterdir()) == ["config.json"]


def test_another_models_workdir_is_refused_untouched(finished, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    for args in (["--config.model.kernel_size=5"], ["--mode=eval", "--config.model.width=8"]):
        err = refused(finished, tmp_path / "cache", *args)
        assert len(err.splitlines()) == 1
        assert "its checkpoints have config.model." in err
    err = refused(tmp_path / "x", tmp_path / "cache", f"--config.init_from={finished}", "--config.model.width=8")
    assert "its checkpoints have config.model.width 4, not 8; set the same, name another workdir or file, or" in err
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_eval_without_a_checkpoint(finished, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "config.json", tmp_path / "run")
    err = refused(tmp_path / "run", tmp_path / "cache", "--mode=eval")
    assert "holds no checkpoint" in err
    assert len(err.splitlines()) == 1


def test_predictions_never_overwrite_images(finished, tmp_path):
    err = refused(finished, tmp_path / "cache", "--mode=predict", "--input=/nope", f"--output={tmp_path / 'out'}")
    assert err.startswith("run.py: error: --input=/nope: no image there;")
    Image.fromarray(shapes.draw("val", 0)[0]).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    args = ["--mode=predict", f"--input={tmp_path}", f"--output={tmp_path}"]
    err = refused(finished, tmp_path / "cache", *args)
    assert "would overwrite an input image" in err
    Image.fromarray(shapes.draw("val", 0)[0]).save(tmp_path / "a.jpg")
    err = refused(finished, tmp_path / "cache", *args[:2], f"--output={tmp_path / 'out'}")
    assert "would both be written" in err
    assert (tmp_path / "a.png").read_bytes() == before
    assert not (tmp_path / "out").exists()
