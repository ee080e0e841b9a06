"""The images of a run: val stays what it was, and no image is evaluated on that was trained on."""

import json

import numpy as np
import pytest
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import saved_config
from gcn_jax.config import settings
from gcn_jax.data.sources import open_sources, open_splits
from gcn_jax.errors import UserError
from gcn_jax.modes.run_images import check_unseen, keep_split, settle_folder
from tests import command_line


def add(root, indices):
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for i in indices:
        rng = np.random.default_rng(i)
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(root / f"images/im{i}.jpg")
        Image.fromarray(rng.integers(0, 3, (48, 64), np.uint8)).save(root / f"masks/im{i}.png")


@pytest.fixture
def mine(config, tmp_path):
    add(tmp_path / "data", range(10))
    config.data_dir = str(tmp_path / "data")
    config.data.update(train="folder/train", eval="folder/val")
    return config


def start(mine, workdir):
    """What a training does with its images before its first step."""
    config = mine.copy_and_resolve_references()
    config_lib.validate(config)
    keep_split(config, workdir)
    splits = open_splits(settings.datasets(config))
    train, val = open_sources(settings.datasets(config), splits)
    settle_folder(config, splits)
    workdir.mkdir(exist_ok=True)
    saved_config.save(config, workdir)
    return set(train.image_ids), set(val.image_ids), config


def test_new_images_join_training_only(mine, tmp_path, capsys):
    train, val, _ = start(mine, tmp_path / "run")
    assert "val stays" not in capsys.readouterr().err
    add(tmp_path / "data", range(10, 120))
    more, same, _ = start(mine, tmp_path / "run")
    assert same == val
    assert more == train | {f"im{i}" for i in range(10, 120)}
    assert "val stays the 2 images of this run's first start; all other 118 are trained on" in capsys.readouterr().err
    fresh = start(mine, tmp_path / "other")[1]
    assert len(fresh) == 24
    assert fresh & train, "what a new draw would have done"


def test_neither_seed_nor_a_lost_image_moves_an_image(mine, tmp_path):
    train, val, _ = start(mine, tmp_path / "run")
    mine.seed = 7
    assert start(mine, tmp_path / "run")[:2] == (train, val)
    gone = sorted(val)[0]
    for path in (tmp_path / "data").rglob(f"{gone}.*"):
        path.unlink()
    assert start(mine, tmp_path / "run")[:2] == (train, val - {gone})


def test_evaluation_and_the_next_stage_keep_the_split(mine, tmp_path):
    _, val, saved = start(mine, tmp_path / "run")
    assert val.isdisjoint(saved.data.held_out), "digests, no names"
    add(tmp_path / "data", range(10, 60))
    settled = saved_config.of_trained(mine, tmp_path / "run", given=())
    assert set(open_sources(settings.datasets(settled))[1].image_ids) == val
    mine.init_from = str(tmp_path / "run")
    assert start(mine, tmp_path / "next")[1] == val


def test_white_stays_what_it_was_at_the_first_start(mine, tmp_path):
    deep = np.random.default_rng(0).integers(0, 4096, (48, 64), np.uint16)
    (tmp_path / "data/images/im0.jpg").unlink()
    Image.fromarray(deep).save(tmp_path / "data/images/im0.png")
    assert start(mine, tmp_path / "run")[2].data.white == 4095
    add(tmp_path / "data", [10])
    (tmp_path / "data/images/im10.jpg").unlink()
    Image.fromarray(16 * deep).save(tmp_path / "data/images/im10.png")
    assert start(mine, tmp_path / "run")[2].data.white == 4095
    assert start(mine, tmp_path / "other")[2].data.white == 65535
    mine.data.white = 1023
    assert start(mine, tmp_path / "run")[2].data.white == 1023


def test_another_folder_is_drawn_anew(mine, tmp_path):
    start(mine, tmp_path / "run")
    add(tmp_path / "elsewhere", range(50, 70))
    mine.data_dir = str(tmp_path / "elsewhere")
    settled = saved_config.of_trained(mine, tmp_path / "run", given=())
    assert len(open_sources(settings.datasets(settled))[1].image_ids) == 4


def test_an_image_that_was_trained_on_is_not_evaluated_on(mine, tmp_path):
    workdir, root = tmp_path / "run", tmp_path / "data"
    (root / "val.txt").write_text("im0\nim1\n")
    mine = start(mine, workdir)[2]
    sources = open_sources(settings.datasets(mine))
    images = check_unseen(workdir, *sources, is_resumed=False)
    assert images == {"train": [f"im{i}" for i in range(2, 10)], "eval": ["im0", "im1"]}
    (workdir / "images.json").write_text(json.dumps(images))
    (root / "val.txt").write_text("im0\nim5\n")
    sources = open_sources(settings.datasets(mine))
    with pytest.raises(UserError, match=r"was trained on 1 image\(s\) of config\.data\.eval before, such as im5"):
        check_unseen(workdir, *sources, is_resumed=True)
    assert check_unseen(workdir, *sources, is_resumed=False)["eval"] == ["im0", "im5"]
    (workdir / "images.json").write_text("{")
    with pytest.raises(UserError, match=r"images\.json: damaged"):
        check_unseen(workdir, *sources, is_resumed=True)


@pytest.mark.slow
def test_a_run_is_started_again_on_a_folder_that_has_grown(tmp_path, cache):
    add(tmp_path / "data", range(10))
    command = [
        "--config=configs/folder.py", f"--config.data_dir={tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}",
        f"--config.cache_dir={cache}", "--config.model.backbone=resnet14", "--config.model.width=4",
        "--config.model.kernel_size=3", "--config.data.size=64", "--config.batch_size=2", "--config.eval_every=1",
    ]  # fmt: skip
    command_line.run(*command, "--config.num_steps=1")
    before = json.loads((tmp_path / "run/images.json").read_text())
    add(tmp_path / "data", range(10, 40))
    _, err = command_line.run(*command, "--config.num_steps=2")
    after = json.loads((tmp_path / "run/images.json").read_text())
    assert after["eval"] == before["eval"]
    assert len(after["train"]) == 38
    assert "all other 38 are trained on" in err
    command_line.run(*command, "--mode=eval")
    assert json.loads((tmp_path / "run/eval.json").read_text())["num_images"] == 2
