"""What the evaluation servers take: names, values and archives, read back by the official scripts' rules."""

import contextlib
import glob
import io
import os
import random
import re
import tarfile
import zipfile

import numpy as np
import pytest
from cityscapesscripts.helpers.csHelpers import getCsFileInfo
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.manager import Checkpoints
from gcn_jax.config import settings
from gcn_jax.data.images import decode_image
from gcn_jax.data.masks import decode_ids
from gcn_jax.data.pictures import MAX_JPEG_SIDE, save_picture
from gcn_jax.data.specs import SHAPES, VOC
from gcn_jax.errors import UserError
from gcn_jax.inference.segmenter import load, make_segmenter
from gcn_jax.models import init_variables
from gcn_jax.modes import predict
from gcn_jax.training.step import init_state
from tests.helpers import randomize, train_batches
from tests.image_bytes import mutated, png, seeds


@pytest.fixture
def trained(config, tmp_path):
    """Saves an untrained model of a data set's classes as a run; gives its config and workdir."""

    def save(data):
        config.data.update(train=f"{data}/train", eval=f"{data}/val")
        config.data_dir = str(tmp_path)
        model = config_lib.model_from(config)
        variables = randomize(init_variables(model, 0))
        workdir = tmp_path / "run"
        with Checkpoints(workdir, keep=1) as checkpoints:
            checkpoints.save(init_state(variables, settings.recipe(config)), {"batches": 0})
        saved_config.save(config, workdir)
        return config, workdir

    return save


def write_photo(path, seed, size=(70, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_vocs_archive(trained, tmp_path):
    """The test split of the official layout, as the devkit's submission wants it."""
    root = tmp_path / "VOCdevkit/VOC2012"
    ids = ["2008_000006", "2008_000011"]
    for seed, i in enumerate(ids):
        write_photo(root / f"JPEGImages/{i}.jpg", seed)
    write_photo(root / "JPEGImages/2007_000001.jpg", 9)  # of another split
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("\n".join(ids))
    config, workdir = trained("voc_segmentation")
    config.predict.format = "voc"
    predict.run(config, workdir, ["voc_segmentation/test"], tmp_path / "out")
    segmenter = load(workdir)
    with tarfile.open(tmp_path / "out/results.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".png")]
        handed_in = [io.BytesIO(tar.extractfile(name).read()) for name in names]
    assert names == [f"results/VOC2012/Segmentation/comp6_test_cls/{i}.png" for i in ids]
    for image_id, file in zip(ids, handed_in, strict=True):
        with Image.open(file) as image:
            assert image.mode == "P"
            assert image.size == (70, 50)
            label = np.array(image)
            np.testing.assert_array_equal(np.array(image.convert("RGB")), VOC.palette()[label])
        assert set(np.unique(label)) <= set(range(21)), "the server refuses void"
        with Image.open(root / f"JPEGImages/{image_id}.jpg") as image:
            np.testing.assert_array_equal(label, segmenter.predict(np.array(image)))


@pytest.mark.slow
def test_cityscapes_archive(trained, tmp_path):
    """By the rules of cityscapesscripts' evaluation: a grey PNG of label ids, found by its image's name."""
    folder = tmp_path / "photos"
    stems = ["berlin_000000_000019_leftImg8bit", "bonn_000001_000019_leftImg8bit"]
    photos = {stem: write_photo(folder / f"{stem}.png", seed, (96, 48)) for seed, stem in enumerate(stems)}
    config, workdir = trained("cityscapes")
    config.predict.format = "cityscapes"
    predict.run(config, workdir, [str(folder)], tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out/results.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{stem}.png" for stem in stems]
        archive.extractall(tmp_path / "handed_in")
    train_ids = {label.id: label.trainId for label in official_labels}
    for stem, pixels in photos.items():
        info = getCsFileInfo(str(tmp_path / f"gtFine/test/x/{stem.replace('leftImg8bit', 'gtFine_labelIds')}.png"))
        pattern = f"{info.city}_{info.sequenceNb}_{info.frameNb}*.png"
        (found,) = (tmp_path / "handed_in").glob(pattern)
        with Image.open(found) as image:
            assert image.mode == "L"
            label_ids = np.array(image)
        predicted = np.vectorize(train_ids.get)(label_ids)
        np.testing.assert_array_equal(predicted, load(workdir).predict(pixels))


def test_a_split_is_labelled_by_name(trained, tmp_path):
    for i in range(2):
        write_photo(tmp_path / f"leftImg8bit/test/bonn/bonn_{i:06d}_000019_leftImg8bit.png", i, (96, 48))
    config, workdir = trained("cityscapes")
    predict.run(config, workdir, ["cityscapes/test"], tmp_path / "out")
    expected = {f"bonn_{i:06d}_000019_leftImg8bit{end}" for i in range(2) for end in (".png", "_overlay.jpg")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected


def test_what_a_server_would_refuse_is_refused_before_any_work(trained, tmp_path):
    write_photo(tmp_path / "photos/holiday.png", 0)
    config, workdir = trained("cityscapes")
    for form, message in (
        ("voc", "config.predict.format=voc: the model's classes are those of cityscapes, not voc's"),
        ("cityscapes", "config.predict.format=cityscapes: holiday is no Cityscapes name"),
    ):
        config.predict.format = form
        with pytest.raises(UserError, match=message):
            predict.run(config, workdir, [str(tmp_path / "photos")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_archive_lacks_an_image(trained, tmp_path):
    write_photo(tmp_path / "photos/bonn_000000_000019_leftImg8bit.png", 0)
    (tmp_path / "photos/bonn_000001_000019_leftImg8bit.png").write_bytes(b"no image")
    config, workdir = trained("cityscapes")
    config.predict.format = "cityscapes"
    with pytest.raises(UserError, match=r"1 of 2 images could not be labelled: .*bonn_000001"):
        predict.run(config, workdir, [str(tmp_path / "photos")], tmp_path / "out")
    assert not list(tmp_path.glob("out/*.zip*"))
    assert len(list(tmp_path.glob("out/results/*.png"))) == 1


def found(pattern, config):
    return [item.path for item in predict.find_inputs(str(pattern), settings.datasets(config))]


def test_what_a_folder_and_a_glob_give_and_skip(config, tmp_path, capfd):
    root = tmp_path / ".data" / "photos[1]"  # chosen by the user, whatever its name
    for name in (
        "b.JPG", "a.jfif", "c.heic", "._a.jpg", ".a.jpg", "Thumbs.db", "notes.txt", "more.TXT", "x.json", "README",
        "d.gif", "below/e.png", "below/f.gif", "@eaDir/g.jpg", ".ipynb_checkpoints/h.jpg", "below/__MACOSX/i.jpg",
        "below/._e.png",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "gone.png").symlink_to("nowhere")
    (root / "folder.png").mkdir()
    images, pattern = [root / name for name in ("a.jfif", "b.JPG", "c.heic")], glob.escape(str(root))
    assert found(root, config) == images
    assert capfd.readouterr().err == (
        "skipped: 3 hidden files, 2 hidden folders, 2 folders, 2 .txt, 1 file without a suffix, 1 .gif, 1 broken link, "
        f"1 .json; to search folders, too: --input='{pattern}/**'\n"
    )
    assert found(f"{pattern}/**", config) == sorted([*images, root / "below/e.png"])
    err = capfd.readouterr().err
    assert "2 .gif" in err
    assert "folder" not in err
    assert found(f"{pattern}/*", config) == images
    assert found(f"{pattern}/**/*.gif", config) == [root / "below/f.gif", root / "d.gif"]
    capfd.readouterr()
    for name in ("._a.jpg", "README", "@eaDir/g.jpg"):
        assert found(root / name, config) == [root / name], "the user has named it"
    assert not capfd.readouterr().err
    (root / "d.gif").rename(root / "below" / ".d.jpg")
    (root / "README").rename(root / "below" / "d.txt")
    with pytest.raises(UserError, match=r"no image there; skipped: 1 \.txt; name a file"):
        found(f"{pattern}/below/d*", config)


class Threshold:
    """In place of a network."""

    def rows(self, image, wanted):
        assert wanted == ("labels",)
        yield {"labels": (image[..., 0] > 127).astype(np.uint8)}

    spec = SHAPES


def test_names_of_any_bytes_deep_images_and_overlays_beyond_jpeg(config, tmp_path, capfd, monkeypatch):
    folder, out, name = tmp_path / "photos", tmp_path / "out", os.fsdecode(b"caf\xe9")
    pixels = write_photo(folder / "small.png", 0)
    (folder / f"{name}.png").write_bytes(png(pixels.astype(np.uint16) * 16))
    (folder / "other.png").write_bytes(png(pixels.astype(np.uint16) * 8))
    (folder / os.fsdecode(b"bad\xff.png")).write_bytes(b"x")
    write_photo(folder / "wide.png", 1, (90, 20))
    write_photo(folder / "wider.png", 1, (91, 20))
    monkeypatch.setattr(predict, "MAX_JPEG_SIDE", 80)
    monkeypatch.setattr(predict, "load_trained", lambda *args: (7, {}))
    monkeypatch.setattr(predict, "make_segmenter", lambda *args: Threshold())
    with pytest.raises(UserError, match=r"1 of 6 images could not be labelled: .*bad.*\.png: not a readable image"):
        predict.run(config, tmp_path, [str(folder)], out)
    err = capfd.readouterr().err
    assert err.count("more than 8 bits a channel; 0-4095 is scaled to 0-255 (white is each image's own; config") == 1
    assert err.count("wide_overlay.png: a PNG, as a JPEG has sides of at most 80 pixels") == 1
    assert "wider_overlay" not in err
    written = {os.fsencode(path.name) for path in out.iterdir()}
    assert {b"caf\xe9.png", b"caf\xe9_overlay.jpg", b"wide_overlay.png", b"wider_overlay.png"} < written
    assert len(written) == 10
    assert (out / "wide_overlay.png").read_bytes()[:4] == b"\x89PNG"
    scaled = np.floor(pixels * 16.0 * 255 / 4095 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(decode_ids((out / f"{name}.png").read_bytes(), "x", 2), scaled[..., 0] > 127)
    config.data.white = 255 * 16
    predict.run(config, tmp_path, [str(folder / f"{name}.png")], out)
    assert "0-4080 is scaled to 0-255 (white is config.data.white)" in capfd.readouterr().err
    np.testing.assert_array_equal(decode_ids((out / f"{name}.png").read_bytes(), "x", 2), pixels[..., 0] > 127)


def test_jpeg_has_its_limit():
    for side, result in (
        (MAX_JPEG_SIDE, contextlib.nullcontext()),
        (MAX_JPEG_SIDE + 1, pytest.raises(OSError, match="data stream")),
    ):
        with result:
            save_picture(np.zeros((1, side, 3), np.uint8), io.BytesIO(), format="JPEG", quality=92)


def test_a_png_overlay_takes_the_place_of_nothing(tmp_path, monkeypatch):
    """It is not known to be one before the image is read."""
    monkeypatch.setattr(predict, "MAX_JPEG_SIDE", 80)
    out = tmp_path / "out"

    def plan(width, other):
        image = np.zeros((10, width, 3), np.uint8)
        inputs = [predict.Input("a", lambda: (image, 0), tmp_path / "a.jpg"), predict.Input(other.stem, None, other)]
        return predict.plan_outputs(inputs, "masks", out, ["mask", "overlay"])

    assert plan(80, tmp_path / "a_overlay.jpg")[0] == {"mask": out / "a.png", "overlay": out / "a_overlay.jpg"}
    with pytest.raises(UserError, match=r"a_overlay\.jpg and .*/a\.jpg would both be written to .*a_overlay\.png"):
        plan(81, tmp_path / "a_overlay.jpg")
    inputs = [
        predict.Input("a", lambda: (np.zeros((81, 9, 3), np.uint8), 0)),
        predict.Input("b", None, out / "a_overlay.png"),
    ]
    with pytest.raises(UserError, match=r"a_overlay\.png would overwrite an input image"):
        predict.plan_outputs(inputs, "masks", out, ["mask", "overlay"])


@pytest.mark.slow
def test_damaged_images_in_a_folder_and_in_training(trained, tmp_path):
    """Each gives a result, or is named: nothing else leaves the loop, nor the threads that read ahead."""
    rng = random.Random(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    whole = [bytes(seed) for seed in seeds()]
    files = [mutated(rng.choice(whole), rng) for _ in range(300)]
    for i, data in enumerate(files):
        (folder / f"{i:03d}.png").write_bytes(data)
    config, workdir = trained("shapes")
    with pytest.raises(UserError, match=r"of 300 images could not be labelled") as told:
        predict.run(config, workdir, [str(folder)], tmp_path / "out")
    bad = int(re.search(r"(\d+) of 300", str(told.value))[1])
    assert len(list((tmp_path / "out").glob("???.png"))) == 300 - bad
    assert 30 < bad < 270
    assert len(str(told.value).splitlines()) == 1

    class Damaged:
        """A file as a source of one sample."""

        image_ids = ("0",)

        def __init__(self, data):
            self.data = data

        def __len__(self):
            return 1

        def __getitem__(self, index):
            image = decode_image(self.data, "photo.png")
            return {"image": image, "label": np.zeros(image.shape[:2], np.uint8), "image_id": "0"}

    config.num_steps, config.batch_size, refused = 1, 1, 0
    for data in files:
        try:
            (batch,) = train_batches(Damaged(data), config)
            assert batch["image"].shape == (1, 64, 64, 3)
        except UserError:
            refused += 1
    assert refused >= bad


def test_a_truth_that_is_not_published(config):
    config.data.update(train="voc_segmentation/train", eval="voc_segmentation/test")
    with pytest.raises(
        UserError, match="the truth of voc_segmentation/test is not published; to label its images: --mode"
    ):
        config_lib.validate(config)


@pytest.mark.slow
def test_protocols_of_loaded_models(trained, tmp_path):
    config, workdir = trained("shapes")
    image = np.random.default_rng(0).integers(0, 256, (90, 100, 3)).astype(np.uint8)
    plain, averaged = load(workdir), load(workdir, scales=(0.5, 1.0), flip=True, window=64)
    config.eval.update(scales=(0.5, 1.0), flip=True, window=64)
    expected = make_segmenter(config, plain.variables).probabilities(image)
    np.testing.assert_array_equal(averaged.probabilities(image), expected)
    assert not np.allclose(plain.probabilities(image), expected, atol=1e-3)
    with pytest.raises(UserError, match=r"config.eval.scale: unknown key; known: batch_size, "):
        load(workdir, scale=1.0)
    with pytest.raises(UserError, match=r"config.eval.scales must be one or more positive numbers"):
        load(workdir, scales=(0.0,))
