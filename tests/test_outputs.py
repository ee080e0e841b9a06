"""What predict writes beside masks and overlays, read back by NumPy, Pillow, pycocotools and this project's sources."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.data import outputs
from gcn_jax.data.coco_writer import annotations_file
from gcn_jax.data.polygons import trace
from gcn_jax.data.sources import open_part
from gcn_jax.errors import UserError
from gcn_jax.inference.segmenter import make_segmenter
from gcn_jax.models import init_variables
from gcn_jax.modes import predict
from tests.helpers import randomize

ALL = "mask,overlay,confidence,entropy,probabilities,polygons"


def regions_of(mask):
    """Each region of equal values that are not 0, numbered."""
    regions, count = np.zeros(mask.shape, int), 0
    for value in np.unique(mask[mask > 0]):
        found, more = ndimage.label(mask == value)
        regions[found > 0] = found[found > 0] + count
        count += more
    return regions


def noise(shape, num_values, blur, seed):
    """A mask with regions in regions, of any size."""
    values = np.random.default_rng(seed).standard_normal(shape)
    values = ndimage.gaussian_filter(values, blur) if blur else values
    return np.digitize(values, np.quantile(values, np.arange(1, num_values) / num_values))


MASKS = [noise((1 + i % 11, 1 + i * 7 % 13), 2 + i % 3, 0, i) for i in range(400)]
MASKS += [noise((70, 90), 3, blur, 0) for blur in (0, 0.7, 1.5, 4)]
MASKS += [np.minimum(noise((50, 60), 8, blur, 1), 1) for blur in (0, 0.5, 1)]
MASKS += [np.zeros((3, 4), int), np.ones((3, 4), int), np.pad(np.zeros((1, 1), int), 1, constant_values=1)]


def test_polygons_are_the_regions_to_the_pixel():
    """By pycocotools, which fills by crossings; and by their area with its sign, which an outline's turns decide."""
    holes = 0
    for mask in MASKS:
        regions = regions_of(mask)
        polygons = trace(regions)
        assert len(polygons) == regions.max()
        for number, polygon in enumerate(polygons, 1):
            region = regions == number
            (runs,) = coco_mask.frPyObjects([polygon.reshape(-1).tolist()], *mask.shape)
            np.testing.assert_array_equal(coco_mask.decode(runs), region)
            (x, y), (next_x, next_y) = polygon.T, np.roll(polygon, -1, 0).T
            assert (x * next_y - next_x * y).sum() / 2 == region.sum()
            assert ((x == next_x) != (y == next_y)).all(), "lines run along the borders of pixels"
            holes += ndimage.label(np.pad(~region, 1, constant_values=True), np.ones((3, 3)))[1] - 1
    assert holes > 100


@pytest.mark.parametrize("names", [("background", "a", "b"), ("road", "a", "b")])
def test_annotations_give_the_mask_back(tmp_path, names, capfd):
    """Decoded by pycocotools' own reader."""
    path, masks, first = tmp_path / "annotations.json", [noise((40, 60), 3, 1.5, seed) for seed in range(2)], "a"
    confidence = np.random.default_rng(0).random((40, 60)).astype(np.float32)
    with annotations_file(path, names) as add:
        for i, mask in enumerate(masks):
            add(f"{i} é.png", mask.astype(np.uint8), confidence)
        assert not path.exists()
    coco = COCO(path)
    capfd.readouterr()
    kept = {i: name for i, name in enumerate(names) if name != "background"}
    assert [record["name"] for record in coco.dataset["categories"]] == list(kept.values())
    first = min(kept)
    for image_id, mask in enumerate(masks, 1):
        assert coco.imgs[image_id] == {"id": image_id, "file_name": f"{image_id - 1} é.png", "height": 40, "width": 60}
        drawn = np.full(mask.shape, 255 if first == 0 else 0)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image_id)):
            region = coco.annToMask(annotation).astype(bool)
            drawn[region] = annotation["category_id"] - 1 + first
            rows, columns = np.nonzero(region)
            assert annotation["area"] == region.sum()
            left, top, width, height = annotation["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
            np.testing.assert_allclose(annotation["score"], confidence[region].mean(), atol=1e-4)
        np.testing.assert_array_equal(drawn, mask)
        assert first == 1 or ndimage.label(mask == 0)[1] == len(coco.getAnnIds(imgIds=image_id, catIds=1))


@pytest.fixture
def ready(config, tmp_path, monkeypatch):
    """A model with random weights, which predict takes; three photographs; gives the segmenter and the folder."""
    variables = randomize(init_variables(config_lib.model_from(config), 0))
    monkeypatch.setattr(predict, "load_trained", lambda *args: (7, variables))
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, size in enumerate([(64, 64), (50, 40), (60, 30)]):
        pixels = np.random.default_rng(i).integers(0, 256, (size[1] // 8, size[0] // 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return make_segmenter(config, variables), folder


def test_all_outputs_of_one_pass(config, ready, tmp_path):
    segmenter, folder = ready
    predict.run(config, tmp_path, [str(folder)], tmp_path / "plain")
    config.predict.outputs = ALL
    config_lib.validate(config)
    out = tmp_path / "out"
    predict.run(config, tmp_path, [str(folder)], out)
    for path in (tmp_path / "plain").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert len(list(out.iterdir())) == 3 * 5 + 1
    for path in folder.iterdir():
        probabilities = segmenter.probabilities(np.asarray(Image.open(path)))
        confidence, p = probabilities.max(-1), probabilities.astype(np.float64)
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(-1) / np.log(6)
        assert confidence.std() > 0.05
        for name, expected in (("confidence", confidence), ("entropy", entropy)):
            with Image.open(out / f"{path.stem}_{name}.png") as grey:
                assert grey.mode == "L"
                assert np.abs(np.asarray(grey) - 255 * expected.astype(np.float64)).max() < 0.501
        with np.load(out / f"{path.stem}_probabilities.npz") as arrays:
            assert arrays["classes"].tolist() == segmenter.spec.class_names
            np.testing.assert_array_equal(arrays["probabilities"], probabilities.astype(np.float16), strict=True)


def test_16_bits_and_a_single_output(config, ready, tmp_path):
    segmenter, folder = ready
    config.predict.update(outputs="confidence", bits=16)
    config_lib.validate(config)
    predict.run(config, tmp_path, [str(folder)], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{i}_confidence.png" for i in range(3)]
    with Image.open(tmp_path / "out/0_confidence.png") as grey:
        assert grey.mode.startswith("I;16")
        expected = segmenter.probabilities(np.asarray(Image.open(folder / "0.png"))).max(-1)
        assert np.abs(np.asarray(grey, float) - 65535.0 * expected).max() < 0.51
    buffer = io.BytesIO(outputs.encode_grey(np.array([[0, 1, 1.0000001, 0.5]], np.float32), 16))
    assert np.asarray(Image.open(buffer)).tolist() == [[0, 65535, 65535, 32768]]


def test_polygons_go_back_into_training(config, ready, tmp_path):
    """The folder of images, with the annotations, is a data set of this project, with the masks that were predicted."""
    _, folder = ready
    config.predict.outputs = "polygons,mask"
    predict.run(config, tmp_path, [str(folder)], tmp_path / "out")
    masks = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / "out").glob("*.png")}
    shutil.copy(tmp_path / "out/annotations.json", folder)
    config.data_dir = str(folder)
    config.data.update(train="coco/train", eval="coco/val", classes=())
    config_lib.validate(config)
    assert list(config.data.classes) == ["background", "disk", "square", "triangle", "ring", "cross"]
    seen = 0
    for split in ("train", "val"):
        source = open_part("coco", split, settings.datasets(config))
        for sample in map(source.__getitem__, range(len(source))):
            np.testing.assert_array_equal(sample["label"], masks[sample["image_id"]])
            seen += 1
    assert seen == 3


@pytest.mark.parametrize("protocol", [{"window": 64}, pytest.param({"crf": "1,1,1,1,10,10"}, marks=pytest.mark.slow)])
def test_parts_are_the_whole(config, protocol):
    """Of windows, which come in rows, and of the CRF; against the probabilities of the whole image."""
    config.eval.update(protocol)
    segmenter = make_segmenter(config, randomize(init_variables(config_lib.model_from(config), 0)))
    image = np.random.default_rng(0).integers(0, 256, (100, 90, 3)).astype(np.uint8)
    parts = list(segmenter.rows(image, ("confidence", "entropy", "labels", "probabilities")))
    assert len(parts) == (1 if "crf" in protocol else 2)
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    expected = segmenter.probabilities(image)
    np.testing.assert_array_equal(found["probabilities"], expected)
    np.testing.assert_array_equal(found["labels"], expected.argmax(-1))
    np.testing.assert_array_equal(found["labels"], segmenter.predict(image))
    np.testing.assert_array_equal(found["confidence"], expected.max(-1))
    entropy = -(expected * np.log(np.maximum(expected, 1e-30))).sum(-1, dtype=np.float64) / np.log(6)
    np.testing.assert_allclose(found["entropy"], entropy, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"outputs": "mask,depth"},
            r"config.predict.outputs must be one or more of mask, overlay, confidence, .*depth'",
        ),
        ({"outputs": "mask,mask"}, r"config.predict.outputs must be one or more of"),
        ({"outputs": ""}, r"config.predict.outputs must be one or more of"),
        ({"bits": 12}, "config.predict.bits must be 8 or 16"),
        ({"bits": 16}, "config.predict.bits=16 has no effect without confidence or entropy in config.predict.outputs"),
        ({"outputs": "mask,entropy", "format": "voc"}, "has no effect without config.predict.format=masks"),
        ({"outputs": "overlay", "format": "voc"}, "has no effect without config.predict.format=masks"),
    ],
)
def test_what_cannot_be_written_is_refused(config, values, message):
    config.predict.update(values)
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)


def test_no_annotations_are_overwritten(config, ready, tmp_path):
    _, folder = ready
    config.predict.outputs = "polygons"
    (tmp_path / "out").mkdir()
    (tmp_path / "out/annotations.json").write_text("mine")
    with pytest.raises(UserError, match=r"annotations.json exists already; choose another folder, or delete it"):
        predict.run(config, tmp_path, [str(folder)], tmp_path / "out")
    assert (tmp_path / "out/annotations.json").read_text() == "mine"
    with pytest.raises(UserError, match="which a data set's split has not; leave them out, or name a folder of images"):
        predict.run(config, tmp_path, ["shapes/val"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_bad_image_is_not_in_the_annotations(config, ready, tmp_path):
    _, folder = ready
    (folder / "1.png").write_bytes(b"x")
    config.predict.outputs = "polygons"
    with pytest.raises(UserError, match="1 of 3 images could not be labelled"):
        predict.run(config, tmp_path, [str(folder)], tmp_path / "out")
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["0.png", "2.png"]
    assert {annotation["image_id"] for annotation in content["annotations"]} == {1, 2}


def test_probabilities_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.npz"
    with contextlib.suppress(KeyError), outputs.probabilities_file(path, (4, 3, 2), ["a", "b"]) as write:
        write(np.zeros((2, 3, 2), np.float32))
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_no_output_takes_the_place_of_another(config, tmp_path):
    """An image that is called as another's confidence."""
    config.predict.outputs = "mask,confidence"
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "a_confidence.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name)
    with pytest.raises(UserError, match=r"would both be written to .*a_confidence\.png; rename one"):
        predict.run(config, tmp_path, [str(tmp_path / "photos")], tmp_path / "out")
