"""Images of any number of bands and 8 or 16 bits or floats: what is read, measured, normalised and refused."""

import contextlib
import io
import sys
import warnings

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

import gcn_jax
from gcn_jax import config as config_lib
from gcn_jax.checkpoints import saved_config
from gcn_jax.config import settings
from gcn_jax.data import bands, transforms
from gcn_jax.data.band_statistics import Moments
from gcn_jax.data.mixing import mix
from gcn_jax.data.pictures import visible
from gcn_jax.data.sources import open_source, open_splits
from gcn_jax.errors import UserError
from gcn_jax.models import init_variables
from gcn_jax.models.backbones.resnet import STEMS, stem_of_bands
from gcn_jax.models.preprocessing import Preprocessing, normalize
from gcn_jax.modes import predict, prepare, run_images, train
from tests import coco_data
from tests.command_line import refused, run
from tests.helpers import make_twin, train_batches
from tests.image_bytes import png

SHAPE = (40, 50)


def values(count, kind, seed=0):
    """Random values of a kind, [*SHAPE, count]; floats hold what is not finite, too."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 2 ** min(8 * np.dtype(kind).itemsize - 1, 20), (*SHAPE, count)).astype(kind)
    if np.dtype(kind).kind == "f":
        found = found / 7
        found[3, 4], found[5, 6, 0] = np.nan, np.inf
    return found.astype(kind)


def tiff(array, **options):
    file = io.BytesIO()
    with warnings.catch_warnings(
        action="ignore", category=DeprecationWarning
    ):  # later versions store three bands apart
        tifffile.imwrite(file, array, **options)
    return file.getvalue()


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=True)
    return file.getvalue()


def same(data, expected, chosen=None):
    """Whether a file's bands are these, in their kind."""
    chosen = chosen or tuple(range(1, expected.shape[2] + 1))
    found = bands.decode(data, "x", chosen)
    kind = expected.dtype.name if expected.dtype.name in bands.KINDS else "float32"
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected[..., [i - 1 for i in chosen]].astype(kind), strict=True)


def test_what_channels_say():
    assert bands.parse("RGB") == bands.parse("BGR") == ()
    assert bands.parse("4") == bands.parse("1,2,3,4") == (1, 2, 3, 4)
    assert bands.parse("4,3,2") == bands.parse("4, 3, 2") == (4, 3, 2)
    assert bands.parse("4,") == (4,)
    for wrong in ("", "0", "-1", "1,0", "1.5", "rgb", "1,,2", ",1", "4097", "99999", "1;2", "٤"):
        with pytest.raises(ValueError, match=f"^{wrong}$"):
            bands.parse(wrong)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_pngs_of_every_depth(kind):
    for count in (1, 2, 3, 4):
        expected = values(count, kind)
        same(png(expected), expected)
        same(png(expected), expected, (count, 1))


@pytest.mark.parametrize("kind", ["uint8", ">u2", "int16", "uint32", "float16", "float32", ">f8"])
def test_tiffs_and_arrays_of_every_kind(kind):
    for count in (1, 3, 4, 6):
        expected = values(count, kind)
        planar = np.moveaxis(expected, -1, 0)
        chunky, separate = ({"photometric": "minisblack", "planarconfig": way} for way in ("contig", "separate"))
        if count == 1:
            chunky = separate = {}
        has_predictor = kind != "float16"
        for data in (
            tiff(expected),  # of which tifffile makes a page for each row
            tiff(planar),
            tiff(expected, compression="lzw", **chunky),
            tiff(planar, compression="deflate", predictor=has_predictor, **separate),
            tiff(expected, tile=(16, 16), bigtiff=True, **chunky),
            npy(expected),
            npy(np.asfortranarray(expected), (2, 0)),
        ):
            same(data, expected)
            same(data, expected, (count, 1, 1))
    grey = values(1, kind)
    for data in (tiff(grey[..., 0]), npy(grey[..., 0])):
        same(data, grey)


def test_other_programs_tiffs(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    for interleave in ("pixel", "band"):
        expected = values(5, "uint16")
        options = {"width": SHAPE[1], "height": SHAPE[0], "count": 5, "dtype": "uint16", "crs": "EPSG:32633"}
        options |= {"transform": rasterio.Affine(10, 0, 4e5, 0, -10, 5e6), "compress": "lzw"}
        with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", interleave=interleave, **options) as file:
            file.write(np.moveaxis(expected, -1, 0))
        same((tmp_path / "x.tif").read_bytes(), expected)


def test_photographs_as_bands():
    photo = Image.fromarray(values(3, "uint8"))
    for image, expected in (
        (photo, photo),
        (photo.convert("L"), photo.convert("L")),
        (photo.quantize(8), photo.quantize(8).convert("RGB")),
        (photo.convert("1"), photo.convert("1").convert("L")),
    ):
        file = io.BytesIO()
        image.save(file, "PNG")
        expected = np.asarray(expected).reshape(*SHAPE, -1)
        same(file.getvalue(), expected)


def test_images_are_turned_upright():
    expected = values(5, "uint8")
    data = tiff(expected, photometric="minisblack", planarconfig="contig", extratags=[(274, 3, 1, 6, True)])
    np.testing.assert_array_equal(bands.decode(data, "x", (1, 5)), np.rot90(expected[..., [0, 4]], -1))
    np.testing.assert_array_equal(bands.decode(data, "x", (1, 5), turned=False), expected[..., [0, 4]])
    assert bands.orientation(data, "x", (1,)) == 6
    assert bands.orientation(npy(expected), "x", (1,)) == 1


def _header(shape, descr="<u2"):
    return npy(np.zeros((1, 1), "<u2")).replace(b"'<u2'", repr(descr).encode()).replace(b"(1, 1)", str(shape).encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(values(2, "uint8")), "a.x: has 2 bands, but config.data.channels takes band 3"),
        (png(values(1, "uint8")), "a.x: has 1 band, but config.data.channels takes band 3"),
        (npy(np.zeros((4, 50, 60), np.uint8)), r"a.x: its shape \(4, 50, 60\) looks like \[bands, H, W\]"),
        (npy(np.array([[[{}]]])), "a.x: holds values of type object"),
        (npy(np.zeros((9, 9, 3), complex)), "a.x: holds values of type complex128"),
        (npy(np.zeros((9, 9, 3, 1))), r"a.x: its shape is \(9, 9, 3, 1\); it must be \[H, W\]"),
        (npy(np.zeros((0, 9, 3))), "a.x: holds no pixel"),
        (npy(values(3, "uint8"))[:-1], "a.x: truncated; its values need 6,000 bytes"),
        (npy(values(3, "uint8"))[:20], "a.x: damaged NumPy file"),
        (_header((100000, 100000, 3)), "a.x: 100000x100000 pixels are more than the limit"),
        (_header((10000, 10000, 30)), "a.x: its values take 6,000,000,000 bytes, more than the limit"),
        (tiff(values(3, "uint8"))[:500], "a.x: damaged or truncated image file"),
        (tiff(np.zeros(SHAPE, np.uint8), photometric="palette", colormap=np.zeros((3, 256), np.uint16)), "PALETTE"),
        (tiff(np.zeros((50, 60, 50), np.uint8)), r"a.x: which axis of its shape \(50, 60, 50\) are the bands"),
        (tiff(np.zeros((2, *SHAPE, 3), np.uint8), photometric="rgb"), r"a.x: which axis of its shape \(2, 40, 50, 3\)"),
        (b"nothing", "a.x: not a readable image file"),
    ],
)
def test_what_is_refused_in_one_line(data, message):
    with pytest.raises(UserError, match=message) as error:
        bands.decode(data, "a.x", (1, 2, 3))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("a.x: ")


def test_damaged_files_end_in_one_line():
    rng = np.random.default_rng(0)
    expected = values(4, "uint16")
    for data in (tiff(expected, photometric="minisblack", planarconfig="contig", compression="deflate"), npy(expected)):
        for _ in range(150):
            hurt = bytearray(data)
            for place in rng.integers(0, min(len(data), 400), 3):
                hurt[place] = rng.integers(0, 256)
            with contextlib.suppress(UserError):
                assert bands.decode(bytes(hurt), "x", (1, 4)).dtype in bands.KINDS


def test_tiff_needs_a_library(monkeypatch):
    bands._tifffile.cache_clear()
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=r'^x: the bands of a TIFF need a library: pip install .*"\.\[bands\]"'):
        bands.decode(b"II*\0", "x", (1,))
    bands._tifffile.cache_clear()


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_statistics_are_exact(kind):
    images = [values(3, kind, seed).astype(np.float32) * (seed + 1) + 1e4 for seed in range(4)]
    merged = Moments.of_image(images[0])
    for image in images[1:]:
        merged = merged.merge(Moments.of_image(image))
    every = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    for band in range(3):
        finite = every[np.isfinite(every[:, band]), band]
        assert merged.count[band] == len(finite)
        np.testing.assert_allclose(merged.mean[band], finite.mean(), rtol=1e-13)
        np.testing.assert_allclose(merged.std()[band], finite.std(), rtol=1e-12)
    nothing = Moments.of_image(np.full((2, 2, 1), np.nan, np.float32))
    assert nothing.merge(nothing).count == 0


def test_normalisation_of_bands():
    images = values(5, "float32")[None]
    mean, std = tuple(range(5)), tuple(range(1, 6))
    found = normalize(images, Preprocessing(mean, std, "5", "float32"))
    expected = np.where(np.isfinite(images), (images - np.array(mean)) / np.array(std), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    deep = images.clip(0, 65535)
    deep = np.where(np.isfinite(deep), deep, 0).astype(np.uint16)
    found = normalize(deep, Preprocessing(mean, std, "5", "uint16"))
    np.testing.assert_allclose(found, (deep - np.array(mean)) / np.array(std), rtol=1e-5, atol=1e-6)


def test_transforms_of_bands():
    rng = np.random.default_rng(0)
    for kind in bands.KINDS:
        image = np.nan_to_num(values(4, kind), nan=3.0, posinf=3.0)
        found = transforms.resize(image, 80, 100)
        for band in range(4):
            plane = Image.fromarray(image[..., band].astype(np.float32))
            expected = np.asarray(plane.resize((100, 80), Image.Resampling.BILINEAR))
            np.testing.assert_allclose(found[..., band], expected, atol=0.51 if kind != "float32" else 0)
        assert found.dtype == kind
        sample = {"image": image, "label": image[..., 0].astype(np.uint8), "image_id": "x"}
        same_again = transforms.color_jitter(sample, 0.0, rng)["image"]
        np.testing.assert_allclose(same_again, image, rtol=1e-5)
        changed = transforms.color_jitter(sample, 0.5, rng)["image"]
        assert changed.dtype == kind
        assert not np.array_equal(changed, image)
        mixed, _ = mix("cutmix", (sample, (0, 0)), (sample, (0, 0)), 64, (1.0,) * 4, rng)
        np.testing.assert_array_equal(mixed["image"][:40, :50], image, strict=True)
        assert (mixed["image"][40:] == 1).all()
    canvas = np.empty((4, 4, 2), np.float32)
    transforms.place(canvas, np.ones((2, 2, 2), np.float32), (0.25, 0.125))
    np.testing.assert_array_equal(canvas[3, 3], (0.25, 0.125))


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_bands_are_turned_as_rgb_is(is_mirrored):
    rgb = np.asarray(Image.fromarray(values(3, "uint8")[::8, ::8]).resize((50, 40), Image.Resampling.BICUBIC))
    rgb = rgb[:, ::-1] if is_mirrored else rgb
    turn, window = transforms.Turn(30.0, 1.25, (9.0, 50.0, 70.0)), (slice(5, 37), slice(3, 60))
    expected = transforms.turned(rgb, turn, turn.mean, window)
    for kind in ("uint16", "float32"):
        found = transforms.turned(rgb.astype(kind), turn, np.array(turn.mean), window)
        assert found.dtype == kind
        assert np.abs(found - expected.astype(float)).max() <= 1.01, "as RGB, to rounding"


def test_bands_are_blurred_by_a_gaussian():
    image = np.zeros((41, 41, 2), np.float32)
    image[20, 20] = 1, 5

    class Largest:
        def uniform(self, low, high):
            return high

    found = transforms.blur({"image": image, "label": image[..., 0], "image_id": ""}, 2.0, Largest())["image"]
    y, x = np.mgrid[-20:21, -20:21]
    gaussian = np.exp(-(x**2 + y**2) / 8) / (8 * np.pi)
    np.testing.assert_allclose(found, np.stack([gaussian, 5 * gaussian], -1), atol=1e-4)


def test_pictures_of_bands():
    rgb = values(3, "uint8")
    assert visible(rgb) is rgb
    ramp = np.linspace(-3, 5, 2000, dtype=np.float32).reshape(*SHAPE)
    stack = np.stack([ramp, 1000 * ramp, -ramp, ramp], axis=-1)
    shown = visible(stack)
    assert shown.shape == (*SHAPE, 3)
    expected = ((np.linspace(0, 1, 2000) - 0.02) / 0.96 * 255).clip(0, 255).reshape(SHAPE)
    assert np.abs(shown[..., 0] - expected).max() <= 1
    np.testing.assert_array_equal(shown[..., 0], shown[..., 1])
    assert np.abs(shown[..., 2] + shown[..., 0].astype(float) - 255).max() <= 1
    np.testing.assert_array_equal(visible(stack[..., :2]), shown[..., :1].repeat(3, -1))
    assert visible(np.full((2, 2, 1), np.nan, np.float32)).max() == 0


# The stem.


def _stem_output(kernel, images):
    return jax.lax.conv_general_dilated(
        images, kernel, (2, 2), [(3, 3)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_stems_by_closed_forms():
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((7, 7, 3, 4)).astype(np.float32)
    images = rng.standard_normal((2, 32, 32, 8)).astype(np.float32)
    grey = images[..., :1]
    for channels in (1, 2, 4, 5, 8):
        for how in ("mean", "repeat"):
            stem = stem_of_bands(kernel, channels, how)
            assert stem.shape == (7, 7, channels, 4)
            if how == "mean" or channels % 3 == 0:
                found = _stem_output(stem, grey.repeat(channels, -1))
                np.testing.assert_allclose(found, _stem_output(kernel, grey.repeat(3, -1)), atol=2e-4)
        shuffled = rng.permutation(channels)
        found = _stem_output(stem_of_bands(kernel, channels, "mean"), images[..., :channels])
        again = _stem_output(stem_of_bands(kernel, channels, "mean"), images[..., shuffled])
        np.testing.assert_allclose(found, again, atol=2e-4)
    found = _stem_output(stem_of_bands(kernel, 8, "copy"), images)
    np.testing.assert_allclose(found, _stem_output(kernel, images[..., :3]), atol=2e-4)
    np.testing.assert_array_equal(stem_of_bands(kernel, 2, "copy"), kernel[:, :, :2])
    np.testing.assert_allclose(stem_of_bands(kernel, 6, "repeat")[:, :, 3:], kernel / 2)


def test_pretrained_weights_for_bands(tmp_path, config, capsys):
    twin = make_twin()
    arrays = {name: tensor.numpy() for name, tensor in twin.state_dict().items()}
    np.savez(tmp_path / "weights.npz", **arrays)
    kernel = arrays["conv1.weight"].transpose(2, 3, 1, 0)
    options = {"num_classes": 2, "backbone": "resnet14", "width": 4, "kernel_size": 3}
    for channels in (1, 3, 5):
        variables = init_variables(gcn_jax.build_model(**options, channels=channels), 0)
        for how in STEMS:
            loaded = gcn_jax.load_backbone(variables, tmp_path / "weights.npz", how)
            expected = kernel if channels == 3 else stem_of_bands(kernel, channels, how)
            np.testing.assert_array_equal(loaded["params"]["backbone"]["conv1"]["kernel"], expected)
    np.savez(tmp_path / "own.npz", **{**arrays, "conv1.weight": arrays["conv1.weight"][:, [0, 1, 2, 0, 1]]})
    loaded = gcn_jax.load_backbone(variables, tmp_path / "own.npz")
    np.testing.assert_array_equal(loaded["params"]["backbone"]["conv1"]["kernel"], kernel[:, :, [0, 1, 2, 0, 1]])
    np.savez(tmp_path / "other.npz", **{**arrays, "conv1.weight": arrays["conv1.weight"][:, [0, 1]]})
    with pytest.raises(ValueError, match=r"conv1.weight is \(4, 2, 7, 7\); the model's backbone needs \(4, 5, 7, 7\)"):
        gcn_jax.load_backbone(variables, tmp_path / "other.npz")
    config.init_from, config.data.channels = str(tmp_path / "weights.npz"), "5"
    train.start_weights(config, variables)
    assert "the stem for RGB became one for 5 bands, by config.init_stem=mean" in capsys.readouterr().err


# A folder of such images.


def write_folder(root, count=5, kind="uint16", suffix=".tif", images=10):
    """A folder of images whose last band alone shows the class; returns the images by their names."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    found = {}
    for i in range(images):
        label = np.zeros((64, 80), np.uint8)
        y, x = rng.integers(0, 40, 2)
        label[y : y + 24, x : x + 24] = 1
        image = rng.normal(1000, 100, (64, 80, count))
        image[..., -1] += 800.0 * label
        found[f"{i}"] = image = (image / {"uint8": 10, "uint16": 1, "float32": 1e4}[kind]).astype(kind)
        path = root / f"images/{i}{suffix}"
        np.save(path, image) if suffix == ".npy" else tifffile.imwrite(path, image)
        Image.fromarray(label).save(root / f"masks/{i}.png")
    return found


@pytest.fixture
def mine(config, tmp_path):
    config.data_dir = str(tmp_path / "mine")
    config.data.update(train="folder/train", eval="folder/val", channels="5")
    return config


@pytest.mark.parametrize(("kind", "suffix"), [("uint8", ".tif"), ("uint16", ".npy"), ("float32", ".tif")])
def test_a_folder_of_bands(mine, tmp_path, kind, suffix, capsys):
    images = write_folder(tmp_path / "mine", kind=kind, suffix=suffix)
    mine.data.channels = "5,1"
    config_lib.validate(mine)
    data = settings.datasets(mine)
    splits = open_splits(data)
    source = open_source("train", data, splits)
    run_images.measure_bands(mine, splits)
    every = np.concatenate([images[name].reshape(-1, 5) for name in source.image_ids])[:, [4, 0]].astype(np.float64)
    np.testing.assert_allclose(mine.data.mean, every.mean(0), rtol=1e-13)
    np.testing.assert_allclose(mine.data.std, every.std(0), rtol=1e-12)
    assert mine.data.depth == kind
    assert "bands 5,1 of folder/train" in capsys.readouterr().err
    batch = next(train_batches(source, mine))
    assert batch["image"].shape == (2, 64, 64, 2)
    assert batch["image"].dtype == kind
    sample = source[0]
    np.testing.assert_array_equal(sample["image"], images[sample["image_id"]][..., [4, 0]], strict=True)
    mine.data.mean = (1.0, 2.0)
    run_images.measure_bands(mine, splits)
    assert mine.data.mean == (1.0, 2.0), "which the user set"


def test_prepare_measures_and_draws(mine, tmp_path, capsys):
    write_folder(tmp_path / "mine")
    config_lib.validate(mine)
    prepare.run(mine, tmp_path / "run")
    told = capsys.readouterr().err
    assert f"--config.data.mean={','.join(f'{number:.8g}' for number in mine.data.mean)} --config.data.std=" in told
    with Image.open(tmp_path / "run/contact_sheet.png") as sheet:
        assert len(np.unique(np.asarray(sheet))) > 50


def test_a_run_keeps_what_was_measured(mine, tmp_path):
    write_folder(tmp_path / "mine")
    first = mine.copy_and_resolve_references()
    config_lib.validate(first)
    run_images.measure_bands(first, open_splits(settings.datasets(first)))
    (tmp_path / "run").mkdir()
    saved_config.save(first, tmp_path / "run")
    mine.data.classes = first.data.classes
    run_images.keep_split(mine, tmp_path / "run")
    assert (mine.data.mean, mine.data.std, mine.data.depth) == (first.data.mean, first.data.std, "uint16")
    saved_config.check_same_model(mine, tmp_path / "run", "--workdir", "")
    used = saved_config.of_trained(_blank(mine), tmp_path / "run", ())
    assert (used.data.channels, used.data.mean, used.data.depth) == ("5", first.data.mean, "uint16")
    given = (tmp_path / "run", ("data.channels",))
    with pytest.raises(UserError, match=r"its checkpoints have config.data.channels '1,2,3,4,5', not '1,2,3,4'"):
        saved_config.of_trained(_blank(mine, "4"), *given)
    assert saved_config.of_trained(_blank(mine, "1,2,3,4,5"), *given).data.depth == "uint16"
    mine.data.channels = "1,2,3,4,5"
    saved_config.check_same_model(mine, tmp_path / "run", "--workdir", "")
    mine.data.channels = "5,2,3,4,1"
    with pytest.raises(UserError, match=r"config.data.channels '1,2,3,4,5', not '5,2,3,4,1'"):
        saved_config.check_same_model(mine, tmp_path / "run", "--workdir", "")


def _blank(mine, channels="RGB"):
    """A config of the same data that says nothing of bands' values."""
    blank = mine.copy_and_resolve_references()
    default = config_lib.default().data
    blank.data.update(channels=channels, mean=default.mean, std=default.std, depth="")
    return blank


def test_images_of_two_kinds_are_refused(mine, tmp_path):
    images = write_folder(tmp_path / "mine")
    config_lib.validate(mine)
    tifffile.imwrite(tmp_path / "mine/images/3.tif", images["3"].astype(np.float32))
    with pytest.raises(UserError, match=r"\d has uint16 and 3 has float32; all images must have one kind"):
        open_splits(settings.datasets(mine))
    tifffile.imwrite(tmp_path / "mine/images/3.tif", images["3"][..., :4])
    with pytest.raises(UserError, match=r"images/3.tif: has 4 bands, but config.data.channels takes band 5"):
        open_splits(settings.datasets(mine))
    tifffile.imwrite(tmp_path / "mine/images/3.tif", images["3"])
    mine.data.depth = "uint8"
    with pytest.raises(UserError, match=r"\d has uint16, but config.data.depth=uint8, what the model was trained on"):
        open_splits(settings.datasets(mine))
    item = predict.find_inputs(str(tmp_path / "mine/images/3.tif"), settings.datasets(mine))[0]
    with pytest.raises(UserError, match=r"3.tif: its values are uint16, but the model's uint8 \(config.data.depth\)"):
        item.read()


def test_a_band_of_one_value_is_told(mine, tmp_path, capsys):
    write_folder(tmp_path / "mine", suffix=".npy")
    for path in (tmp_path / "mine/images").iterdir():
        image = np.load(path)
        image[..., 1] = 7
        np.save(path, image)
    config_lib.validate(mine)
    run_images.measure_bands(mine, open_splits(settings.datasets(mine)))
    assert "warning: band 2 is 7 in all images to train on; its std is set to 1" in capsys.readouterr().err
    assert mine.data.std[1] == 1


def test_bands_with_annotations_of_coco(config, tmp_path):
    names = {number: f"{number}.npy" for number in range(10)}
    coco_data.write(tmp_path / "mine/annotations.json", coco_data.content(names))
    (tmp_path / "mine/images").mkdir()
    part = (slice(coco_data.HEIGHT), slice(coco_data.WIDTH))
    images = {f"images/{number}": values(4, "uint16", number)[part] for number in names}
    for name, image in images.items():
        np.save(tmp_path / f"mine/{name}.npy", image)
    config.data_dir = str(tmp_path / "mine")
    config.data.update(train="coco/train", eval="coco/val", channels="4,2")
    config_lib.validate(config)
    splits = open_splits(settings.datasets(config))
    sample = splits["coco/train"][0]
    np.testing.assert_array_equal(sample["image"], images[sample["image_id"]][..., [3, 1]], strict=True)
    run_images.measure_bands(config, splits)
    every = np.concatenate([images[name].reshape(-1, 4) for name in splits["coco/train"].image_ids])
    np.testing.assert_allclose(config.data.mean, every[:, [3, 1]].mean(0), rtol=1e-13)
    assert config.data.depth == "uint16"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.data.channels=0"], "config.data.channels must be RGB, BGR, a number of bands"),
        (["--config.data.channels=4,0"], "config.data.channels must be RGB, BGR, a number of bands"),
        (["--config.data.channels=4", "--config.data.mean=1,2,3"], "config.data.mean must be 4 numbers, one for each"),
        (["--config.data.channels=2", "--config.eval.crf=voc"], "config.eval.crf=voc: the CRF needs colours"),
        (["--config.data.channels=2", "--config.data.white=4095"], "config.data.white=4095 has no effect on bands"),
        (["--config.data.channels=2", "--config.data.noise=4"], "config.data.noise=4.0: of RGB alone"),
        (["--config.data.depth=uint8"], "config.data.depth=uint8 has no effect without bands"),
        (["--config.data.depth=uint12"], "config.data.depth must be one of uint8, uint16, float32"),
        (["--config.init_stem=copy"], "config.init_stem='copy' has no effect without bands in config.data.channels"),
        (["--config.data.mean=1,2"], "config.data.mean must be three numbers, RGB, 0-255"),
        (["--config.data.channels=4"], "config.data.channels=4: shapes holds RGB; bands are read from folder and coco"),
    ],
)
def test_mistakes_are_named(flags, message, tmp_path):
    assert message in refused("--config=configs/shapes.py", *flags, f"--workdir={tmp_path / 'run'}")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "channels"), [("uint16", "5,4,3,2,1"), ("float32", "1,")])
def test_a_whole_run(tmp_path, cache, kind, channels):
    """Trained, resumed, evaluated, exported; the class is seen in one band alone."""
    count = max(bands.parse(channels))
    images = write_folder(tmp_path / "mine", count, kind)
    flags = ["--config=configs/folder.py", f"--config.data_dir={tmp_path / 'mine'}", f"--config.cache_dir={cache}"]
    flags += [f"--workdir={tmp_path / 'run'}", f"--config.data.channels={channels}", "--config.data.size=64"]
    flags += ["--config.model.backbone=resnet14", "--config.model.width=8", "--config.model.kernel_size=3"]
    flags += ["--config.batch_size=2", "--config.optimizer.learning_rate=0.05", "--config.eval_every=50"]
    run(*flags, "--config.num_steps=50")
    _, told = run(*flags, "--config.num_steps=100")
    assert "resuming from step 50" in told
    out, _ = run(*flags[:4], "--mode=eval")
    assert float(out.split("mean IoU")[1].split()[0]) > 70
    run(*flags[:4], "--mode=export", f"--output={tmp_path / 'model.safetensors'}")
    one, other = (gcn_jax.load(tmp_path / name) for name in ("run", "model.safetensors"))
    chosen = [band - 1 for band in bands.parse(channels)]
    image = np.ascontiguousarray(images["0"][..., chosen])
    np.testing.assert_array_equal(one.predict(image), other.predict(image))
    with pytest.raises(ValueError, match=rf"image must be {kind} \[H, W, {len(chosen)}\]"):
        one.predict(image[..., :1].astype(np.int64))
    run(*flags[:4], "--mode=predict", f"--input={tmp_path / 'mine/images/0.tif'}", f"--output={tmp_path / 'out'}")
    with Image.open(tmp_path / "out/0.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), one.predict(image))
    assert (tmp_path / "out/0_overlay.jpg").is_file()
