"""W&B, MLflow and Comet: what a run hands to them, with stand-ins; and, where they are installed, offline."""

import ast
import contextlib
import importlib.util
import json
import os
import pathlib
import sqlite3
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from gcn_jax import config as config_lib
from gcn_jax.errors import UserError
from gcn_jax.training import loggers
from gcn_jax.training.run_log import RunLog, read_records
from tests.command_line import ROOT, refused

PICTURES = [np.full((6, 8, 3), value, np.uint8) for value in (0, 200)]


class Fake:
    """Remembers all that it is told, of all its runs."""

    def __init__(self, name, known, config):
        self.id, self.told = known or f"id{len(RUNS)}", [("open", name, known, config)]
        RUNS.append(self)

    def scalars(self, step, values):
        if "bad" in values:
            raise RuntimeError("the server is gone.\nand more")
        self.told.append((step, values))

    def picture(self, step, name, picture):
        self.told.append((step, name, picture.size, picture.getpixel((0, 0))))

    def close(self):
        self.told.append("closed")


RUNS: list[Fake] = []


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(loggers, "_LOGGERS", dict.fromkeys(("wandb", "comet"), ("json", Fake)))
    RUNS.clear()


def test_a_run_is_the_same_run_when_it_is_resumed(fakes, tmp_path, capfd):
    log = RunLog(tmp_path, 0, True, "wandb,comet", {"seed": 1})
    log.scalars(2, {"loss": 0.5})
    log.pictures(2, PICTURES)
    log.close()
    expected = [
        (2, {"loss": 0.5}),
        (2, "image_truth_prediction/0", (8, 6), (0, 0, 0)),
        (2, "image_truth_prediction/1", (8, 6), (200, 200, 200)),
        "closed",
    ]
    for run in RUNS:
        assert run.told == [("open", str(tmp_path), None, {"seed": 1}), *expected]
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"wandb": "id0", "comet": "id1"}
    RunLog(tmp_path, 2, True, "comet,wandb", {}).close()
    assert [run.told[0][2] for run in RUNS[2:]] == ["id1", "id0"]
    RunLog(tmp_path, 2, False, "wandb", {}).close()
    assert len(RUNS) == 4, "other processes log nothing"
    assert not capfd.readouterr().err


def test_a_logger_that_fails_does_not_end_the_run(fakes, tmp_path, capfd):
    log = RunLog(tmp_path, 0, True, "wandb", {})
    for step in (1, 2):
        log.scalars(step, {"bad": 1.0})
    log.scalars(3, {"loss": 1.0})
    log.close()
    assert capfd.readouterr().err == (
        "config.loggers=wandb: the server is gone; the run goes on, and metrics.jsonl has all of it\n"
    )
    assert RUNS[0].told[1:] == [(3, {"loss": 1.0}), "closed"]
    assert len(read_records(tmp_path)) == 3


def test_a_logger_that_cannot_start_is_told_at_once(fakes, tmp_path, monkeypatch):
    def fail(*args):
        raise ValueError("no key\nfor this host")

    monkeypatch.setitem(loggers._LOGGERS, "comet", ("json", fail))
    with pytest.raises(UserError) as told:
        RunLog(tmp_path, 0, True, "wandb,comet", {})
    path = tmp_path / "loggers.json"
    assert str(told.value) == (
        f"config.loggers=comet: no key; without it: --config.loggers= ; to start another run there, delete {path}"
    )
    assert RUNS[0].told[-1] == "closed"
    for damaged in ("{", "[1]", '{"wandb": 3}'):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"loggers.json: damaged \(.*delete it, and new runs are started"):
            RunLog(tmp_path, 0, True, "wandb", {})


def test_a_missing_package_is_told_before_anything_else(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "comet_ml" else found(name))
    given = (f"--workdir={tmp_path / 'run'}", f"--config.cache_dir={tmp_path / 'cache'}", "--config.loggers=comet")
    err = refused("--config=configs/shapes.py", *given)
    assert err.splitlines()[-1] == (
        'run.py: error: config.loggers=comet: needs a library: pip install -c requirements.txt ".[comet]"'
    )
    assert not (tmp_path / "run").exists()


def test_nothing_is_imported_unless_it_is_used():
    tree = ast.parse(pathlib.Path(loggers.__file__).read_text(encoding="utf-8"))
    at_the_top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    at_the_top |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    inside = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert inside - at_the_top == {"wandb", "mlflow", "comet_ml"}
    assert {package for package, _ in loggers._LOGGERS.values()} == {"wandb", "mlflow", "comet_ml"}


@pytest.mark.parametrize("text", ["tensorboard", "wandb,wandb", "wandb;comet", ","])
def test_unknown_loggers_are_refused(config, text):
    config.loggers = text
    with pytest.raises(UserError, match=r"config.loggers must be one or more of wandb, mlflow, comet, with commas, or"):
        config_lib.validate(config)


# A run of two steps, resumed for a third, in a process of its own, in which these packages may do what they like.
_RUNS = """
import contextlib, pathlib, sys
import numpy as np
from gcn_jax.training.run_log import RunLog

workdir = pathlib.Path("run")
for start, steps in ((0, (1, 2)), (2, (3,))):
    config = {"data": {"size": 64, "scale": (1, 2)}}
    with contextlib.closing(RunLog(workdir, start, True, sys.argv[1], config)) as log:
        for step in steps:
            log.scalars(step, {"loss": 0.8125 / 2 ** (step - 1), "learning_rate": 0.1})
        log.pictures(steps[-1], [np.full((6, 8, 3), value, np.uint8) for value in (0, 200)])
"""


def wandb_has(folder):
    """In the files that `wandb sync` takes: values are JSON there, as text, and the files' names are the ids."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    data = b"".join(file.read_bytes() for file in files)
    values = {1: b"0.8125", 2: b"0.40625", 3: b"0.203125"}
    pictures = list(folder.glob("wandb/offline-run-*/files/media/images/**/*.png"))
    return {file.stem.removeprefix("run-") for file in files}, [s for s in values if values[s] in data], len(pictures)


def mlflow_has(folder):
    """In its data base."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as base:
        runs = base.execute(
            "SELECT run_uuid, r.name, status, e.name FROM runs r JOIN experiments e USING (experiment_id)"
        ).fetchall()
        values = dict(base.execute("SELECT step, value FROM metrics WHERE key = 'loss'"))
    assert [row[1:] for row in runs] == [("run", "FINISHED", "gcn_jax")]
    assert values == {1: 0.8125, 2: 0.40625, 3: 0.203125}
    assert len(list(folder.glob("mlruns/**/artifacts/config.json"))) == 1
    return {runs[0][0]}, sorted(values), len(list(folder.glob("mlruns/**/artifacts/images/*.png")))


def comet_has(folder):
    """In the archives that `comet upload` takes."""
    ids, steps, pictures = set(), [], 0
    for path in folder.glob("comet/*.zip"):
        with zipfile.ZipFile(path) as archive:
            ids.add(json.loads(archive.read("experiment.json"))["offline_id"])
            for line in archive.read("messages.json").decode().splitlines():
                message = json.loads(line)
                payload = message["payload"]
                if message["type"] == "metric_msg" and payload["metric"]["metricName"] == "loss":
                    assert payload["metric"]["metricValue"] == 0.8125 / 2 ** (payload["metric"]["step"] - 1)
                    steps.append(payload["metric"]["step"])
                pictures += message["type"] == "file_upload"
    return ids, sorted(steps), pictures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package", "has"),
    [("wandb", "wandb", wandb_has), ("mlflow", "mlflow", mlflow_has), ("comet", "comet_ml", comet_has)],
)
def test_offline_modes(name, package, has, tmp_path):
    """A run, and the same resumed: read back from what the packages themselves have written."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    environment = {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "COMET_START_ONLINE": "0",
        "COMET_OFFLINE_DIRECTORY": str(tmp_path / "comet"),
        "PYTHONPATH": str(ROOT),
    }
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", _RUNS, name]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "config.loggers" not in done.stderr
    kept = json.loads((tmp_path / "run/loggers.json").read_text())
    assert has(tmp_path) == ({kept[name]}, [1, 2, 3], 4)


@pytest.mark.slow
def test_a_training_logs_to_mlflow(tmp_path):
    """The command line, ended and resumed: the metrics of `metrics.jsonl` are those of one run there."""
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("needs mlflow")
    common = (f"--config={ROOT / 'configs/shapes.py'}", "--workdir=run", f"--config.cache_dir={tmp_path / 'cache'}")
    common += ("--config.model.backbone=resnet14", "--config.model.width=4", "--config.eval.num_pictures=0")
    common += ("--config.batch_size=2", "--config.log_every=1", "--config.eval_every=2", "--config.loggers=mlflow")
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    for steps in (2, 4):  # where MLflow may leave its files
        command = [sys.executable, str(ROOT / "run.py"), *common, f"--config.num_steps={steps}"]
        environment = {**os.environ, "XLA_FLAGS": "", **environment}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as base:
        assert base.execute("SELECT name, status FROM runs").fetchall() == [("run", "FINISHED")]
        found = base.execute("SELECT key, step, value FROM metrics").fetchall()
    records = read_records(tmp_path / "run")
    expected = {(key, record["step"], value) for record in records for key, value in record.items() if key != "step"}
    assert set(found) == expected
    assert sum(key == "loss" for key, _, _ in found) == 4
