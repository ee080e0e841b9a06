"""What the evaluation servers take: names, values and archives, read back by the official scripts' rules."""

import io
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
from gcn_jax.data.specs import VOC
from gcn_jax.errors import UserError
from gcn_jax.inference.segmenter import load, make_segmenter
from gcn_jax.models import init_variables
from gcn_jax.modes import predict
from gcn_jax.training.step import init_state
from tests.helpers import randomize


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
    predict.run(config, workdir, "voc_segmentation/test", tmp_path / "out")
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


def test_cityscapes_archive(trained, tmp_path):
    """By the rules of cityscapesscripts' evaluation: a grey PNG of label ids, found by its image's name."""
    folder = tmp_path / "photos"
    stems = ["berlin_000000_000019_leftImg8bit", "bonn_000001_000019_leftImg8bit"]
    photos = {stem: write_photo(folder / f"{stem}.png", seed, (96, 48)) for seed, stem in enumerate(stems)}
    config, workdir = trained("cityscapes")
    config.predict.format = "cityscapes"
    predict.run(config, workdir, str(folder), tmp_path / "out")
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
    predict.run(config, workdir, "cityscapes/test", tmp_path / "out")
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
            predict.run(config, workdir, str(tmp_path / "photos"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_archive_lacks_an_image(trained, tmp_path):
    write_photo(tmp_path / "photos/bonn_000000_000019_leftImg8bit.png", 0)
    (tmp_path / "photos/bonn_000001_000019_leftImg8bit.png").write_bytes(b"no image")
    config, workdir = trained("cityscapes")
    config.predict.format = "cityscapes"
    with pytest.raises(UserError, match=r"1 of 2 images could not be labelled: .*bonn_000001"):
        predict.run(config, workdir, str(tmp_path / "photos"), tmp_path / "out")
    assert not list(tmp_path.glob("out/*.zip*"))
    assert len(list(tmp_path.glob("out/results/*.png"))) == 1


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
