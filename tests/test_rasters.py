"""Georeferenced and very large TIFFs: labelled as images in memory are, to the bit, in bounded memory; what is kept."""

import contextlib
import warnings

import numpy as np
import pytest
from PIL import Image

from bench import large_image
from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.manager import Checkpoints
from gcn_jax.config import settings
from gcn_jax.data import rasters
from gcn_jax.data.images import decode_image
from gcn_jax.data.pictures import overlay
from gcn_jax.errors import UserError
from gcn_jax.inference import large_images
from gcn_jax.inference.segmenter import make_segmenter
from gcn_jax.models import init_variables
from gcn_jax.modes import predict, predict_rasters
from gcn_jax.training.step import init_state
from tests.helpers import randomize
from tests.image_bytes import tiff

rasterio = pytest.importorskip("rasterio")
PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 4e5, 0, -10, 5e6)}


def pixels(height, width, count=3, kind="uint8", seed=0):
    """Smooth colours with noise."""
    rng = np.random.default_rng(seed)
    small = rng.random((height // 16 + 2, width // 16 + 2, count))
    large = small.repeat(16, 0).repeat(16, 1)[:height, :width] + 0.2 * rng.random((height, width, count))
    return (large / 1.2 * {"uint8": 255, "uint16": 4000, "float32": 1}[kind]).astype(kind)


def write(path, image, **options):
    options = {"driver": "GTiff", "width": image.shape[1], "height": image.shape[0], "count": image.shape[2], **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", dtype=image.dtype, **options) as file:
            file.write(np.moveaxis(image, -1, 0))
    return path


@pytest.fixture
def segmenter(config):
    def made(**changes):
        bands = changes.pop("bands", None)
        if bands:
            config.data.update(channels=bands, depth="uint16", mean=(2000.0,) * int(bands), std=(1000.0,) * int(bands))
        config.eval.update(window=64, **changes)
        return make_segmenter(config, randomize(init_variables(settings.model_from(config), 0)))

    return made


class Watched:
    """A raster that notes how much is read at once."""

    def __init__(self, raster):
        self._raster, self.shape, self.most = raster, raster.shape, 0

    def read(self, top, left, bottom, right):
        self.most = max(self.most, bottom - top, right - left)
        return self._raster.read(top, left, bottom, right)


@pytest.mark.parametrize(
    ("shape", "changes", "widths"),  # the last are how many columns a sum may have; 128 is the least
    [
        ((70, 230), {}, (128,)),
        pytest.param((200, 330), {}, (1000, 200, 128), marks=pytest.mark.slow),
        pytest.param((150, 400), {"stride": 50, "flip": True}, (1000, 200, 128), marks=pytest.mark.slow),
        pytest.param((40, 300), {"scales": (0.5, 1.0)}, (1000, 128), marks=pytest.mark.slow),
        pytest.param((300, 50), {}, (128,), marks=pytest.mark.slow),
        pytest.param((200, 330), {"bands": "5"}, (1000, 128), marks=pytest.mark.slow),
    ],
)
def test_windows_from_disk_give_the_same_labels(segmenter, tmp_path, monkeypatch, shape, changes, widths):
    trained = segmenter(**changes)
    image = pixels(*shape, *((5, "uint16") if "bands" in changes else ()))
    path = write(tmp_path / "x.tif", image, **PLACE)
    expected = trained.predict(image)
    assert len(np.unique(expected)) > 2
    for columns in widths:
        monkeypatch.setattr(large_images, "SUM_BYTES", 4 * 64 * trained.model.num_classes * columns)
        found = np.full(shape, 99, np.uint8)
        with rasters.opened(path, (1, 2, 3, 4, 5) if "bands" in changes else ()) as raster:
            watched = Watched(raster)
            for top, left, maps in trained.rows_of_large(watched, ("labels",)):
                labels = maps["labels"]
                part = found[top : top + labels.shape[0], left : left + labels.shape[1]]
                assert part.shape == labels.shape
                assert (part == 99).all(), "each pixel once"
                part[...] = labels
        np.testing.assert_array_equal(found, expected)
        assert watched.most <= 64


def test_blocks_cover_all_columns():
    rng = np.random.default_rng(0)
    for _ in range(300):
        side, width = int(rng.integers(2, 40)), int(rng.integers(1, 400))
        stride, most = int(rng.integers(1, side + 1)), int(rng.integers(2 * side, 6 * side))
        rest = max(width - side, 0)
        lefts = np.rint(np.linspace(0, rest, -(-rest // stride) + 1)).astype(int)
        ends = 0
        for first, last, begin, end in large_images.blocks(lefts, side, width, most):
            assert begin == ends < end
            ends = end
            assert lefts[last] + side - lefts[first] <= most
            touching = [i for i, left in enumerate(lefts) if left < end and left + side > begin]
            assert touching == list(range(touching[0], touching[-1] + 1))
            assert first <= touching[0]
            assert touching[-1] <= last
        assert ends == width


def test_rgb_is_read_as_of_photographs(tmp_path):
    """Grey, alpha, a palette, 12 and 16 bits."""
    deep = pixels(30, 40, 3, "uint16")
    for image, options in (
        (pixels(30, 40), {}),
        (pixels(30, 40), {"compress": "lzw", "tiled": True, "blockxsize": 16, "blockysize": 16}),
        (pixels(30, 40, 1), {}),
        (pixels(30, 40, 4), {"photometric": "rgb"}),
        (deep, {"photometric": "rgb"}),
        (deep[..., :1], {}),
        (deep[..., :1], {"nbits": 12}),
    ):
        path = write(tmp_path / "x.tif", image, **options, **PLACE)
        expected = decode_image(path.read_bytes(), "x")
        with rasters.opened(path, ()) as raster:
            np.testing.assert_array_equal(raster.read(0, 0, 30, 40), expected, strict=True)
            np.testing.assert_array_equal(raster.read(3, 5, 20, 31), expected[3:20, 5:31])
            assert raster.white == (4095 if image.dtype == "uint16" else 0)
        with rasters.opened(path, (), white=8000) as raster:
            np.testing.assert_array_equal(raster.read(0, 0, 30, 40), decode_image(path.read_bytes(), "x", white=8000))
    picture = Image.fromarray(pixels(30, 40)).quantize(9)
    picture.save(tmp_path / "x.tif")
    with rasters.opened(tmp_path / "x.tif", ()) as raster:
        np.testing.assert_array_equal(raster.read(0, 0, 30, 40), np.asarray(picture.convert("RGB")))


def test_what_is_refused_in_one_line(tmp_path, segmenter):
    floats = write(tmp_path / "floats.tif", pixels(80, 90, 3, "float32"), **PLACE)
    with pytest.raises(UserError, match=r"floats.tif: holds float32; a model of RGB takes 8 or 16 bits"):
        rasters.opened(floats, ()).__enter__()
    with pytest.raises(UserError, match=r"floats.tif: has 3 bands, but config.data.channels takes band 4"):
        rasters.opened(floats, (1, 4)).__enter__()
    photo = write(tmp_path / "photo.tif", pixels(80, 90), compress="deflate", **PLACE)
    damaged = photo.read_bytes()
    (tmp_path / "photo.tif").write_bytes(damaged[:500] + bytes(len(damaged) - 500))
    with rasters.opened(photo, ()) as raster, pytest.raises(UserError, match=r"photo.tif: damaged or truncated TIFF"):
        raster.read(0, 0, 80, 90)
    trained = segmenter(crf="voc")
    whole = write(tmp_path / "whole.tif", pixels(80, 90), **PLACE)
    with (
        rasters.opened(whole, ()) as raster,
        pytest.raises(UserError, match=r"config.eval.crf=voc: the CRF takes"),
    ):
        list(trained.rows_of_large(raster, ("labels",)))


def test_which_files_are_rasters(tmp_path, monkeypatch):
    photo = tmp_path / "photo.tif"
    Image.fromarray(pixels(30, 40)).save(photo)
    (tmp_path / "photo.jpg").write_bytes(b"II*")
    (tmp_path / "damaged.tif").write_bytes(tiff(pixels(30, 40))[:90])
    placed = write(tmp_path / "placed.tif", pixels(30, 40), **PLACE)
    large = tmp_path / "large.tif"
    large_image.write_sparse(large, 20_000)
    assert large.stat().st_size < 10_000_000
    names = ("photo.tif", "photo.jpg", "damaged.tif", "missing.tif")
    assert not any(rasters.is_raster(tmp_path / name) for name in names)
    assert rasters.is_raster(placed)
    assert rasters.is_raster(large)
    assert not rasters.loses_georeference(placed)
    monkeypatch.setattr(rasters, "library", lambda: None)
    assert rasters.loses_georeference(placed)
    assert not rasters.is_raster(placed)
    assert not rasters.loses_georeference(photo)
    with pytest.raises(UserError, match=r"x: .*limit.*; as a TIFF, predict labels it with rasterio"):
        decode_image(large.read_bytes(), "x")


@pytest.fixture
def run(config, tmp_path):
    """A run of an untrained model; gives its config and workdir."""
    with Checkpoints(tmp_path / "run", keep=1) as checkpoints:
        variables = randomize(init_variables(settings.model_from(config), 0))
        checkpoints.save(init_state(variables, settings.recipe(config)), {"batches": 0})
    saved_config.save(config, tmp_path / "run")
    return config, tmp_path / "run"


def test_predict_keeps_the_georeference(run, tmp_path, capfd):
    config, workdir = run
    config.eval.window = 64
    image = pixels(200, 330)
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "in/field.tif", image, **PLACE)
    Image.fromarray(image).save(tmp_path / "in/plain.png")
    predict.run(config, workdir, [str(tmp_path / "in")], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "field.tif", "field_overlay.jpg", "plain.png", "plain_overlay.jpg",
    ]  # fmt: skip
    with rasterio.open(tmp_path / "out/field.tif") as mask, Image.open(tmp_path / "out/plain.png") as plain:
        np.testing.assert_array_equal(mask.read(1), np.asarray(plain))
        assert (mask.crs, mask.transform) == (PLACE["crs"], PLACE["transform"])
        assert (mask.profile["compress"], mask.profile["tiled"], mask.block_shapes) == ("deflate", True, [(512, 512)])
        palette = settings.spec_from(config).palette().tolist()
        assert mask.colormap(1) == {value: (*color, 255) for value, color in enumerate(palette)}
    with Image.open(tmp_path / "out/field_overlay.jpg") as one, Image.open(tmp_path / "out/plain_overlay.jpg") as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    told = capfd.readouterr().err
    assert "in/field.tif: its outputs have its georeference; no side of an overlay is above 2048 pixels" in told
    with pytest.raises(UserError, match=r"field.tif would overwrite an input image; choose another folder"):
        predict.run(config, workdir, [str(tmp_path / "in")], tmp_path / "in")


def test_other_outputs_of_rasters(run, tmp_path):
    config, workdir = run
    config.eval.window = 64
    config.predict.update(outputs="overlay,entropy,confidence", bits=16)
    image = pixels(200, 330)
    write(tmp_path / "field.tif", image, **PLACE)
    Image.fromarray(image).save(tmp_path / "plain.png")
    predict.run(config, workdir, [str(tmp_path / "*.*")], tmp_path / "out")
    names = ("overlay.jpg", "entropy.tif", "confidence.tif")
    assert all((tmp_path / f"out/field_{name}").is_file() for name in names)
    for name in ("entropy", "confidence"):
        plain = tmp_path / f"out/plain_{name}.png"
        with rasterio.open(tmp_path / f"out/field_{name}.tif") as one, Image.open(plain) as two:
            np.testing.assert_array_equal(one.read(1), np.asarray(two), strict=True)
            assert (one.transform, one.colorinterp[0].name) == (PLACE["transform"], "gray")
    for name in ("probabilities", "polygons"):
        config.predict.outputs = f"mask,{name}"
        with pytest.raises(UserError, match=rf"config.predict.outputs: {name} are not written of field.tif"):
            predict.run(config, workdir, [str(tmp_path / "field.tif")], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_preview_is_of_the_nearest_pixels(segmenter, config, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_rasters, "PREVIEW", 100)
    trained, path = segmenter(), write(tmp_path / "x.tif", pixels(150, 330), **PLACE)
    paths = {"mask": tmp_path / "mask.tif", "overlay": tmp_path / "overlay.jpg"}
    data = settings.datasets(config)
    picture, _ = predict_rasters.label_raster(trained, path, data, paths, 8)
    with rasterio.open(path) as image, rasterio.open(paths["mask"]) as mask:
        small, labels = image.read(out_shape=(3, 45, 100)), mask.read(1, out_shape=(45, 100))
    np.testing.assert_array_equal(picture, overlay(np.moveaxis(small, 0, -1), labels, trained.spec.palette()))


def test_ground_control_points_are_kept(tmp_path):
    point, places = rasterio.control.GroundControlPoint, ((0, 0), (0, 90), (80, 0), (80, 90))
    options = {"gcps": [point(y, x, 10 + x, 20 - y) for y, x in places], "crs": "EPSG:4326"}
    path = write(tmp_path / "x.tif", pixels(80, 90), **options)
    assert rasters.is_raster(path)
    palette, mask_path = np.zeros((256, 3), np.uint8), tmp_path / "mask.tif"
    with rasters.opened(path, ()) as raster, rasters.map_file(mask_path, raster, 8, palette) as save:
        save(0, 0, np.zeros((80, 90), np.uint8))
    with rasters.opened(mask_path, (1,)) as mask:
        found, crs = mask.dataset.gcps
    assert [(p.row, p.col, p.x, p.y) for p in found] == [(y, x, 10 + x, 20 - y) for y, x in places]
    assert crs == "EPSG:4326"


def test_no_half_written_mask_is_left(tmp_path):
    path = write(tmp_path / "x.tif", pixels(80, 90), **PLACE)
    palette = np.zeros((256, 3), np.uint8)
    with (
        contextlib.suppress(KeyError),
        rasters.opened(path, ()) as raster,
        rasters.map_file(tmp_path / "mask.tif", raster, 8, palette) as save,
    ):
        save(0, 0, np.zeros((10, 90), np.uint8))
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["x.tif"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path):
    """Of 9 times the pixels: 127 MB more of an image in memory, 57 MB more of the sums of a row of windows."""
    options = {"megabytes": 16, "window": 512, "stride": 512}
    small, large = (large_image.measure(tmp_path, side, **options)["peak_mb"] for side in (2304, 6912))
    assert large - small < 60
