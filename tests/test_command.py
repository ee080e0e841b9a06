"""``gcn_jax ...``: words and flags, its help, recipes by name, and the package as it is installed."""

import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image

import gcn_jax
from gcn_jax.checkpoints import manager as checkpoints
from gcn_jax.checkpoints import saved_config
from gcn_jax.command import help_texts, recipes, start, words
from gcn_jax.errors import UserError
from gcn_jax.modes import FLAGS, MODES, WORDS
from tests import command_line
from tests.helpers import new_state

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def trained(config, tmp_path):
    """A workdir with a checkpoint, of another machine with many hosts."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    config.cache_dir = "/nowhere/at/all"
    config.mesh.data = 64
    config.distributed.update(coordinator="host:1", num_processes=4)
    config.data.size = 64
    saved_config.save(config, workdir)
    with checkpoints.Checkpoints(workdir, 1) as saver:
        saver.save(new_state(config, 0), {"batches": 0})
    return workdir


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train voc:stage2", "--config=voc:stage2"),
        ("train --config voc --config.batch_size=8", "--config=voc --config.batch_size=8"),
        ("train --config.batch_size=8 voc", "--config=voc --config.batch_size=8"),
        ("eval a b", "--workdir=a --workdir=b"),
        ("eval --config=voc", "--config=voc"),
        ("predict m a.jpg b/ --output out", "--output=out --workdir=m --input=a.jpg --input=b/"),
        ("predict --workdir=m a.jpg b.jpg --output=o", "--workdir=m --output=o --input=a.jpg --input=b.jpg"),
        ("--mode=predict --config=x.py --input=a --output=b", "--config=x.py --input=a --output=b"),
        ("export m m.onnx --config.eval.flip", "--config.eval.flip --workdir=m --output=m.onnx"),
        ("export m m.onnx --config.eval.crf voc", "--config.eval.crf=voc --workdir=m --output=m.onnx"),
        ("predict --config.eval.flip m a.jpg --output=o", "--config.eval.flip --output=o --workdir=m --input=a.jpg"),
        ("predict --config=voc --input=a --output=b --noconfig.eval.flip", None),
    ],
)
def test_words_become_flags(given, expected):
    mode, *flags = words.as_flags(given.split())
    assert mode == f"--mode={given.split()[0].removeprefix('--mode=')}"
    assert flags == (given if expected is None else expected).split()[expected is None :]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("trian voc", r"trian: no mode; known: .*; did you mean train\?"),
        ("--config=voc", "the mode comes first"),
        ("train", "train needs CONFIG: gcn_jax train CONFIG .*recipes: animals"),
        ("train voc extra", "unexpected argument 'extra': gcn_jax train CONFIG"),
        ("train voc --wrokdir=x", r"--wrokdir: unknown flag of train; did you mean --workdir\?"),
        ("train voc --batch_size=8", r"--batch_size: unknown flag of train; did you mean --config\.batch_size\?"),
        ("train voc --learning_rate 8", r"did you mean --config\.optimizer\.learning_rate\?"),
        ("train voc --input=x", "--input: train does not have it; only predict"),
        ("predict m a.jpg --config.eval.crf", "--config.eval.crf: needs a value, as in --config.eval.crf=VALUE"),
        ("train voc --workdir", "--workdir: needs a value, as in --workdir=FOLDER"),
        ("predict a.jpg", "predict needs PHOTO: gcn_jax predict MODEL PHOTO..."),
        ("predict", "predict needs MODEL"),
        ("export m", "export needs FILE"),
    ],
)
def test_a_mistake_in_words_is_told(given, message):
    with pytest.raises(UserError, match=message):
        words.as_flags(given.split())


def test_predictions_go_to_a_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("predictions", "predictions_2", "predictions_3"):
        assert f"--output={name}" in words.as_flags(["predict", "m", "a.jpg"])
        (tmp_path / name).mkdir()


def test_every_mode_has_words_and_flags_that_exist():
    for name, mode in MODES.items():
        assert {word.rstrip(".") for word in mode.words.split()} <= set(WORDS), name
        assert "workdir" in mode.flags(), name
        assert (ROOT / f"gcn_jax/modes/{mode.module}.py").is_file()
    assert {flag for mode in MODES.values() for flag in mode.flags()} == set(FLAGS)


@pytest.mark.parametrize("program", ["gcn_jax", "run.py"])
def test_help_is_a_screen_and_names_everything(program):
    screen = help_texts.asked_for(program, ["--help"]).splitlines()
    assert len(screen) <= 30
    assert max(map(len, screen)) <= 120
    assert all(any(re.search(rf"\b{name}\b", line) for line in screen) for name in (*MODES, *recipes.names()))
    for name, mode in MODES.items():
        arguments = [name] if program == "gcn_jax" else [f"--mode={name}"]
        text = help_texts.asked_for(program, [*arguments, "--help"])
        assert len(text.splitlines()) <= 15
        assert set(re.findall(r"^  --(\w+)=", text, re.MULTILINE)) - {"config"} == set(mode.flags())
    assert help_texts.asked_for("run.py", []) == help_texts.asked_for(program, ["--mode=train"]) == ""


def test_help_needs_no_library():
    code = """
import sys
sys.argv = ["gcn_jax", "train", "--help"]
from gcn_jax.command import main
assert main() == 0
print(sorted({"jax", "numpy", "absl", "ml_collections"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_modes_and_flags():
    script = help_texts.asked_for("gcn_jax", ["--completion", "bash"])
    script += "\nfor line in 'pre' 'train --w'; do COMP_WORDS=(gcn_jax $line) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))"
    script += "\n_gcn_jax 2>/dev/null; echo ${COMPREPLY[@]}; done"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["prepare predict", "--workdir="]
    with pytest.raises(UserError, match="bash alone"):
        help_texts.asked_for("gcn_jax", ["--completion", "fish"])


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_a_recipe_is_found_by_name(tmp_path, monkeypatch):
    assert recipes.names() == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    values = start.parse(["--config=voc:stage2", "--config.batch_size=3"])
    assert values.config.init_from == "runs/voc/stage1"
    assert values.config.batch_size == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text((ROOT / "configs/shapes.py").read_text())
    for name, steps in (("shapes", 700), ("own.py", 700), (str(tmp_path / "own.py"), 700), ("folder:binary", 20_000)):
        assert start.parse([f"--config={name}"]).config.num_steps == steps
    for name, message in (
        ("vco", r"--config=vco: no recipe; known: animals, .*; did you mean voc\?"),
        ("voc:stage9", "^--config=voc:stage9: unknown stage"),
        (str(ROOT / "configs/voc.py:stage9"), r"^--config=configs/voc\.py:stage9: unknown stage"),
        ("configs/voc.py", r"--config=configs/voc\.py: no such file; did you mean voc\?"),
    ):
        with pytest.raises(UserError, match=message):
            start.parse([f"--config={name}"])


def test_the_package_has_every_room_and_the_recipes():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "gcn_jax").rglob("*.py")}
    expected = sorted([*(".".join(folder.parts) for folder in folders), "gcn_jax.configs"])
    assert setuptools["packages"] == expected
    assert setuptools["package-dir"]["gcn_jax.configs"] == "configs"


def test_a_model_needs_no_config(trained, cache, tmp_path, monkeypatch):
    """What belongs to the machine that trained it, of cache, mesh and hosts, does not come along."""
    rng = np.random.default_rng(0)
    photos = [tmp_path / f"{name}.png" for name in "ab"]
    for photo in photos:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(photo)
    monkeypatch.chdir(tmp_path)
    flags = words.as_flags(
        ["predict", "run", "a.png", "*.png", "--config.predict.outputs=mask", f"--config.cache_dir={cache}"]
    )
    with command_line.unchanged(tmp_path):
        assert start.run("gcn_jax", flags) == 0
    found = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert found == ["a.png", "b.png"], "the second pattern has the first's photo, too"
    segmenter = gcn_jax.load(trained)
    for photo in photos:
        with Image.open(photo) as image, Image.open(tmp_path / "predictions" / photo.name) as mask:
            np.testing.assert_array_equal(np.array(mask), segmenter.predict(np.array(image)))
    values = start.parse(["--mode=eval", f"--workdir={trained}", "--config.eval.flip=True"])
    found = (values.config.eval.flip, values.config.mesh.data, values.config.cache_dir)
    assert found == (True, -1, "~/.cache/gcn_jax")
    with pytest.raises(UserError, match=r"--config\.eval\.flap: unknown key"):
        start.parse(["--mode=eval", f"--workdir={trained}", "--config.eval.flap=True"])
    with pytest.raises(UserError, match="not a workdir of a training run"):
        start.parse(["--mode=eval", f"--workdir={tmp_path / 'nowhere'}"])
