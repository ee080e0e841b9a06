"""The data modes of the command line: preparing, the user's folder from end to end, the paper's five stages."""

import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.data.sources import open_sources, parse
from gcn_jax.evaluation.score import check_score
from tests import command_line

TINY = ("--config.model.backbone=resnet14", "--config.model.width=4", "--config.model.kernel_size=3")


def start(cache, *args):
    return command_line.start(*args, *TINY, f"--config.cache_dir={cache}")


def run(cache, *args, status=0):
    return command_line.run(*args, *TINY, f"--config.cache_dir={cache}", status=status)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder of red squares on grey, with colour masks."""
    root = tmp_path_factory.mktemp("mine")
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir()
    for i in range(20):
        image = rng.integers(90, 120, (50, 60, 3)).astype(np.uint8)
        mask = np.full((50, 60, 3), 7, np.uint8)
        top, left = rng.integers(0, 30, 2)
        image[top : top + 20, left : left + 20] = (220, 20, 20)
        mask[top : top + 20, left : left + 20] = (0, 200, 0)
        Image.fromarray(image).save(root / f"images/{i:02d}.jpg")
        Image.fromarray(mask).save(root / f"masks/{i:02d}.png")
    (root / "classes.txt").write_text("ground 7 7 7\nred square 0 200 0\n")
    return root


@pytest.mark.parametrize("white", [np.uint8(1), np.uint8(255), True], ids=["ids", "black and white", "one bit"])
def test_one_foreground_class_needs_no_list_of_classes(tmp_path, white):
    expected = np.zeros((50, 60), np.uint8)
    expected[10:30, 20:50] = 1
    mask = Image.fromarray(expected.astype(bool)) if white is True else Image.fromarray(expected * white)
    for i in range(5):
        for kind, image in (("images", Image.fromarray(expected)), ("masks", mask)):
            (tmp_path / kind).mkdir(exist_ok=True)
            image.save(tmp_path / kind / f"{i}.png")
    config = importlib.import_module("configs.folder").get_config("binary")
    config.update(data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    config_lib.validate(config)
    check_score(config.eval.best_by, settings.spec_from(config))
    for source in open_sources(settings.datasets(config)):
        np.testing.assert_array_equal(source[0]["label"], expected)


def test_prepare_counts_and_draws(mine, cache, tmp_path):
    args = ("--config=configs/folder.py", f"--config.data_dir={mine}", "--config.data.size=64", f"--workdir={tmp_path}")
    out, err = run(cache, "--mode=prepare", *args)
    assert re.search(r"images +16 +4\n", out)
    assert re.search(r"red square +6,400 +1,600\n", out)
    assert re.search(r"void +0 +0\n", out)
    assert re.search(r"pixels +48,000 +12,000\n", out)
    assert "contact_sheet.png" in err
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        pixels = np.array(sheet).reshape(-1, 3)
    assert len(pixels) > 500_000
    half = np.array([110, 110, 10])
    near = (abs(pixels.astype(int) - half) < 40).all(axis=1).mean()
    assert near > 0.01, "the squares are shown in half their masks' colour"
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_a_folder_from_training_to_prediction(mine, cache, tmp_path):
    run_args = ("--config=configs/folder.py", "--config.data.size=64", f"--workdir={tmp_path / 'run'}")
    short = ("--config.num_steps=60", "--config.batch_size=4", "--config.eval_every=60", "--config.log_every=20")
    _, err = run(cache, *run_args, *short, f"--config.data_dir={mine}", "--config.optimizer.learning_rate=0.1")
    assert "training on 16 images of folder/train" in err
    out, _ = run(cache, *run_args, f"--config.data_dir={mine}", "--mode=eval")
    assert "red square" in out
    result = json.loads((tmp_path / "run/eval.json").read_text())
    assert result["num_images"] == 4
    assert result["iou_per_class"].keys() == {"ground", "red square"}
    assert result["miou"] > 0.7, "sixty steps learn that red is red"
    predicted = (f"--input={mine / 'images/00.jpg'}", f"--output={tmp_path / 'out'}")
    run(cache, *run_args, "--mode=predict", *predicted)
    with Image.open(tmp_path / "out/00.png") as image:
        assert image.size == (60, 50)
        assert set(np.unique(np.array(image.convert("RGB")).reshape(-1, 3), axis=0)[:, 1].tolist()) <= {7, 200}


def test_mistakes_are_told_in_a_line(mine, cache, tmp_path):
    broken = shutil.copytree(mine, tmp_path / "broken")
    Image.new("RGB", (60, 50), (1, 1, 1)).save(broken / "masks/03.png")
    modes = ["train", "prepare", "train", "prepare", "train", "prepare"]
    for args, message in (
        (("--config=configs/folder.py",), "config.data_dir is empty"),
        (
            ("--config=configs/folder.py:multi",),
            "configs/folder.py:multi: unknown stage; known: binary, multi_label, or none",
        ),
        (("--config=configs/folder.py", f"--config.data_dir={broken}"), "03.png: colour 1 1 1"),
        (("--config=configs/folder.py", f"--config.data_dir={mine}", "--config.data.scale=2,1"), "config.data.scale"),
        (("--config=configs/cityscapes.py:stage3",), "unknown stage"),
        (("--config=configs/voc.py:stage1", f"--config.data_dir={mine}", "--config.init_from="), "VOCtrainval"),
    ):
        mode, workdir = modes.pop(), tmp_path / "never"
        common = (*TINY, f"--config.cache_dir={cache}", f"--mode={mode}", f"--workdir={workdir}")
        err = command_line.refused(*args, *common)
        (line,) = [line for line in err.splitlines() if line.startswith("run.py: error:")]
        assert message in line
        assert not (workdir / "checkpoints").exists()


@pytest.fixture
def sigint_is_heard():
    """Children inherit the disposition, and a shell's background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("sigint_is_heard")
def test_preparing_can_be_interrupted_and_run_again(tmp_path):
    """Killed amid the work, whichever way, it leaves nothing that a second run trips over."""
    root = tmp_path / "VOCdevkit/VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    names = [f"i{i:03d}" for i in range(400)]
    Image.new("RGB", (900, 700)).save(root / "JPEGImages/i000.jpg")
    mask = Image.new("L", (900, 700), 3)
    mask.paste(5, (0, 0, 100, 100))
    mask.save(root / "SegmentationClass/i000.png")
    for name in names[1:]:
        os.link(root / "JPEGImages/i000.jpg", root / f"JPEGImages/{name}.jpg")
        os.link(root / "SegmentationClass/i000.png", root / f"SegmentationClass/{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names[:380]))
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names[380:]))
    args = ("--config=configs/voc.py:stage3", f"--config.data_dir={tmp_path}", "--mode=prepare", "--config.init_from=")
    args += (f"--workdir={tmp_path / 'run'}",)
    own_cache = tmp_path / "cache"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        left = set(own_cache.glob("datasets/*/*/*incomplete*"))
        with start(own_cache, *args) as process:
            while not set(own_cache.glob("datasets/*/*/*incomplete*")) - left:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.005)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == status, err
        assert "Traceback" not in err
    out, _ = run(own_cache, *args)
    assert re.search(r"images +380 +20\n", out)
    assert not list(own_cache.glob("datasets/*/*/*incomplete*"))


def test_the_stages_are_the_papers():
    """Data, sizes and kernel sizes of the paper, section 4."""
    voc, cityscapes = "voc_segmentation/train", "cityscapes/train"
    facts = {
        "voc.py:stage1": (640, 15, {voc, "sbd/train", "sbd/val", "coco_voc/train"}, ""),
        "voc.py:stage2": (512, 15, {voc, "sbd/train", "sbd/val"}, "runs/voc/stage1"),
        "voc.py:stage3": (512, 15, {voc}, "runs/voc/stage2"),
        "cityscapes.py:stage1": (800, 25, {"cityscapes/train_extra", cityscapes}, ""),
        "cityscapes.py:stage2": (800, 25, {cityscapes}, "runs/cityscapes/stage1"),
    }
    for name, (size, kernel_size, data, init_from) in facts.items():
        file, _, stage = name.partition(":")
        config = importlib.import_module(f"configs.{file.removesuffix('.py')}").get_config(stage)
        config_lib.validate(config)
        parts = {
            f"{part.name}/{part.split}" for part in parse("train", settings.datasets(config)) if not part.is_removed
        }
        found = (config.data.size, config.model.kernel_size, parts, config.init_from)
        assert found == (size, kernel_size, data, init_from)
        assert (config.batch_size, config.optimizer.momentum, config.optimizer.weight_decay) == (1, 0.99, 5e-4)
        assert (tuple(config.data.scale), config.data.color_jitter, config.data.flip) == ((1, 1), 0, True)


@pytest.mark.slow
def test_the_five_stages_run_on_real_data(cache, real_data, tmp_path):
    """Ten steps each, from the checkpoint of the stage before, by the paper's configs but for a tiny net and crops."""
    data = tmp_path / "data"
    lists = data / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, count in (("train", 40), ("val", 6)):  # not all, for time
        ids = (real_data / lists.relative_to(data) / f"{split}.txt").read_text().split()[:count]
        (lists / f"{split}.txt").write_text("\n".join(ids))
    for part in ("VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/VOC2012/SegmentationClass", "benchmark_RELEASE", "coco"):
        (data / part).symlink_to(real_data / part)
    for part in ("leftImg8bit", "gtFine"):
        shutil.copytree(real_data / "cityscapes" / part, data / "cityscapes" / part)
    for i in range(2):  # coarse labels: a fine mask at a sixteenth of its resolution
        source = real_data / "cityscapes/{}/train/aachen" / f"aachen_{i:06d}_000019_{{}}.png"
        target = str(data / "cityscapes/{}/train_extra/extra" / f"extra_{i:06d}_000019_{{}}.png")
        for part in ("leftImg8bit", "gtCoarse"):
            pathlib.Path(target.format(part, "")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(source).format("leftImg8bit", "leftImg8bit"), target.format("leftImg8bit", "leftImg8bit"))
        with Image.open(str(source).format("gtFine", "gtFine_labelIds")) as fine:
            coarse = np.array(fine)[::16, ::16].repeat(16, 0).repeat(16, 1)
        Image.fromarray(coarse).save(target.format("gtCoarse", "gtCoarse_labelIds"))
    common = (f"--config.data_dir={data}", "--config.num_steps=10", "--config.data.size=256")
    expected = {"voc": (40 + 100 + 65, 40 + 100, 40), "cityscapes": (6, 4)}
    for name, counts in expected.items():
        before = ""
        for i, count in enumerate(counts, 1):
            workdir = tmp_path / name / f"stage{i}"
            chain = (f"--config=configs/{name}.py:stage{i}", f"--workdir={workdir}", f"--config.init_from={before}")
            _, err = run(cache, *chain, *common)
            assert f"training on {count} images" in err
            assert (f"starting from step 10 of {before}" in err) == (i > 1)
            assert json.loads((workdir / "best.json").read_text())["step"] == 10
            before = workdir
