"""Receptive fields: against closed forms, PyTorch, and as a user draws them."""

import base64
import importlib
import io
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.manager import Checkpoints
from gcn_jax.config import settings
from gcn_jax.errors import UserError
from gcn_jax.inference import receptive_field as fields
from gcn_jax.inference.segmenter import make_segmenter
from gcn_jax.models.heads import GlobalConv
from gcn_jax.models.initial import init_variables
from gcn_jax.modes import receptive_field
from gcn_jax.report.heat_map import Panel, ramp, sheet
from tests import command_line
from tests.helpers import new_state
from tests.pages import parse, picture, render, section, text


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def positive_variables(model):
    """No path through the network is cut off by a zero weight or weakened by another's sign."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(0.1, 0.5, x.shape).astype(np.float32), init_variables(model, 0))


class Head(nn.Module):
    """A `GlobalConv` on the image itself."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, images, train):
        return GlobalConv(4, 5)(images)


def test_field_of_a_global_convolution_is_a_rectangle(config):
    """k x k pixels and nothing beyond, of each the same by two branches; at a corner the quarter that is left."""
    config.data.std = (1.0, 1.0, 1.0)
    model, image = Head(), noise(24, 32)
    variables = jax.tree.map(jnp.ones_like, model.init(jax.random.key(0), jnp.zeros((1, 24, 32, 3)), False))
    gradient = fields.make_gradient(model, settings.preprocessing(config))
    for row, column in ((9, 20), (0, 31)):
        expected = np.zeros((24, 32))
        # Two branches, 4 features between each one's convolutions, 3 channels of the image.
        expected[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = 2 * 4 * 3
        found = gradient(variables, image, np.array([[0, 0, 24, 32]]), row, column)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def bounds(at, length, kernel_size):
    """First and last pixel of an axis that an output pixel can depend on, without refinement: by way of res-5."""
    low = high = at
    for _ in range(5):  # y[2 i + a - 1] += x[i] kernel[a], a of 0..3
        low, high = -(-(low - 2) // 2), (high + 1) // 2
    low, high = (np.clip(i, 0, length // 32 - 1) for i in (low - kernel_size // 2, high + kernel_size // 2))
    # Stride and padding of the 3x3 convolutions of res-5 to res-2 (v1.5), of the max pooling and of the 7x7 stem.
    for stride, padding in ((2, 1), (2, 1), (2, 1), (1, 1), (2, 1), (2, 3)):
        low, high = stride * low - padding, stride * high + padding
    return max(low, 0), min(high, length - 1)


@pytest.mark.slow
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_field_of_the_model_is_what_the_theory_says(config, kernel_size):
    side = 384
    config.model.update(kernel_size=kernel_size, boundary_refine=False)
    model = config_lib.model_from(config)
    variables = positive_variables(model)
    gradient = fields.make_gradient(model, settings.preprocessing(config))
    middles = []
    for pixel in ((197, 134), (229, 134), (197, 250)):
        field = np.asarray(gradient(variables, noise(side, side), np.array([[0, 0, side, side]]), *pixel))
        (top, bottom), (left, right) = (bounds(at, side, kernel_size) for at in pixel)
        is_seen = np.zeros((side, side), bool)
        is_seen[top : bottom + 1, left : right + 1] = True
        assert 0.1 < is_seen.mean() < 0.7
        assert np.all(field[~is_seen] == 0)
        rows, columns = (np.flatnonzero(field.any(axis)) for axis in (1, 0))
        # Of each nine values pooling takes one, so that the outermost pixels may count nowhere.
        np.testing.assert_allclose((*rows[[0, -1]], *columns[[0, -1]]), (top, bottom, left, right), atol=4)
        middles.append([np.average(np.arange(side), weights=field.sum(axis)) for axis in (1, 0)])
    moved = np.diff(np.array(middles)[:2], axis=0)[0]
    np.testing.assert_allclose(moved, (32, 0), atol=3, err_msg="a field follows its pixel")


@pytest.mark.slow
def test_fields_are_means_of_gradients_as_pytorch_takes_them(config):
    """Of images without equal neighbours, among which the two would choose differently in pooling."""
    torch = pytest.importorskip("torch", reason="the parity tests compare with PyTorch")
    from bench import twin as twin_lib

    config.model.freeze = "res4"  # in training, which does not matter here
    model = config_lib.model_from(config)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: x * rng.choice([-1, 1], x.shape).astype(np.float32), positive_variables(model))
    variables["batch_stats"] = jax.tree.map(abs, variables["batch_stats"])
    source = [{"image": rng.integers(0, 256, (80, 64, 3)).astype(np.uint8)} for _ in range(4)]
    (field,) = fields.mean_fields(make_segmenter(config, variables), source, (3, 1), [(0.5, 0.25)])
    twin = twin_lib.Twin(6, (1, 1, 1, 1), 4, 3).eval()
    twin_lib.load(twin, variables, (1, 1, 1, 1))
    expected = np.zeros((64, 64))
    for i in (1, 3):
        image = (source[i]["image"][8:72] - np.array(config.data.mean)) / np.array(config.data.std)
        x = torch.tensor(image.transpose(2, 0, 1)[None], dtype=torch.float32, requires_grad=True)
        twin(x)[0, :, 32, 16].max().backward()
        expected += x.grad[0].abs().sum(0).numpy() / 2
    assert (field > 0).mean() > 0.9
    np.testing.assert_allclose(field, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("shape", [(40, 100), (64, 64), (90, 30), (1, 200)])
@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.0, 1.0), (0.3, 0.7), (1.0, 0.99)])
def test_the_chosen_pixel_lies_in_the_image_at_a_fixed_place(shape, fractions):
    """A large image is cut and a small one padded, around the pixel."""
    image, mean = noise(*shape), (7.0, 8.0, 9.0)
    row, column = fields.pixel_at(fractions, 64, 64)
    assert 0 <= row < 64
    assert 0 <= column < 64
    there = fields.pixel_at(fractions, *shape)
    canvas, inside = fields.canvas_of(image, fractions, 64, mean)
    far = np.pad(image.astype(float), ((200, 200), (200, 200), (0, 0)), constant_values=np.nan)
    top, left = 200 + there[0] - row, 200 + there[1] - column
    expected = far[top : top + 64, left : left + 64]
    np.testing.assert_array_equal(canvas, np.where(np.isnan(expected), mean, expected))
    is_covered = ~np.isnan(expected[..., 0])
    assert is_covered.sum() == min(shape[0], 64) * min(shape[1], 64), "all of the image that fits"
    (rows, columns), (last_row, last_column) = np.argwhere(is_covered)[[0, -1]]
    assert inside.tolist() == [[rows, columns, last_row + 1, last_column + 1]]


@pytest.mark.parametrize(
    ("scales", "window", "expected"),
    [((1.0,), 0, (1.0, 64)), ((0.75, 1.25, 0.9), 0, (0.9, 64)), ((0.5,), 200, (0.5, 128)), ((1.0, 2.0), 96, (1.0, 96))],
)
def test_images_are_taken_as_they_are_evaluated(config, scales, window, expected):
    config.eval.update(scales=scales, window=window)
    assert fields.view(settings.protocol(config)) == expected


def test_sizes_of_known_fields():
    """A disc of ones, whose parts grow with the square of the radius, and a Gaussian, of which Luo et al. speak."""
    rows, columns = np.indices((301, 301)) - 150
    disc = (np.hypot(rows, columns) <= 100).astype(float)
    size = fields.measure(disc, 150, 150)
    assert size["radius_50"] == pytest.approx(100 * math.sqrt(0.5), abs=0.5)
    assert size["radius_90"] == pytest.approx(100 * math.sqrt(0.9), abs=0.5)
    assert size["effective_area"] == disc.sum()
    assert size["effective_side"] == pytest.approx(math.sqrt(math.pi) * 100, rel=1e-3)
    sigma = 20
    size = fields.measure(np.exp(-(rows**2 + columns**2) / (2 * sigma**2)), 150, 150)
    assert size["radius_50"] == pytest.approx(sigma * math.sqrt(2 * math.log(2)), abs=0.5)
    assert size["radius_90"] == pytest.approx(sigma * math.sqrt(2 * math.log(10)), abs=0.5)
    assert size["effective_area"] == pytest.approx(2 * math.pi * sigma**2 * math.log(1 / 0.0455), rel=0.01)
    point = np.zeros((9, 9))
    point[2, 7] = 3.0
    size = fields.measure(point, 5, 3)
    assert size == {"radius_50": 5.0, "radius_90": 5.0, "effective_area": 1, "effective_side": 1.0}


def lightness(colors):
    """CIE L* of sRGB, 0-255."""
    part = np.asarray(colors) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return 116 * np.where(luminance > 0.008856, np.cbrt(luminance), 7.787 * luminance + 16 / 116) - 16


def test_the_ramp_reads_in_grey():
    """Lightness rises at each step, so that no colour has to be told from another."""
    found = lightness(ramp(64))
    assert np.all(np.diff(found) > 0.3)
    assert found[0] < 10
    assert found[-1] > 95


def test_the_map_is_drawn_where_it_is():
    """Brightness follows the values; text and marks are around them."""
    values = np.zeros((8, 8))
    values[1, 6], values[6, 1] = 4.0, 1.0
    panel = Panel("x" * 200, values, row=4, column=4, radius_50=1.0, radius_90=2.0, caption="caption")
    drawn = sheet([[panel], [panel, panel]])
    assert drawn.shape[1] == 16 + 2 * (384 + 16)
    top, left = 16 + 20, 16  # of the first map
    colors = ramp()

    def middle(row, column):
        return drawn[top + row * 48 + 24, left + column * 48 + 24]

    np.testing.assert_array_equal(middle(1, 6), colors[255])
    np.testing.assert_array_equal(middle(6, 1), colors[128])  # a quarter, by its root
    np.testing.assert_array_equal(middle(0, 0), colors[0])
    assert np.all(drawn[: top + 384, left + 384 : left + 400] == 255), "a long name stays in its column"


def test_reports_show_the_field():
    data = io.BytesIO()
    pixels = noise(40, 70)
    Image.fromarray(pixels).save(data, "PNG")
    rows = [("run", "step", "50 % within (px)"), ("<evil> & co", "7", "12.3"), ("other", "8", "4.5")]
    page = render(field=receptive_field.Field(data.getvalue(), rows))
    shown = section(page, "receptive")
    (img,) = shown.findall("img")
    np.testing.assert_array_equal(picture(img), pixels)
    for row in rows[1:]:
        assert all(cell in img.get("alt") for cell in row), "the numbers, for those who cannot see it"
    cells = [tuple(map(text, row)) for row in shown.iterfind(".//tbody/tr")]
    assert cells == rows[1:]
    assert "#receptive" in [a.get("href") for a in parse(page).iterfind(".//nav/a")]
    assert not parse(render()).findall(".//section[@id='receptive']")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache):
    """Two workdirs, of other kernels, and how to run the command on them."""
    folder = tmp_path_factory.mktemp("fields")
    start = ("--config=configs/shapes.py", f"--config.cache_dir={cache}", "--config.num_steps=1")
    config = importlib.import_module("configs.shapes").get_config()
    config.model.width = 4
    for name, kernel_size, step in (("one", 3, 1), ("other", 1, 0)):
        config.model.kernel_size = kernel_size
        (folder / name).mkdir()
        saved_config.save(config, folder / name)
        with Checkpoints(folder / name, 1) as checkpoints:
            checkpoints.save(new_state(config).replace(step=jnp.int32(step)), {})
    return start, folder / "one", folder / "other"


@pytest.mark.slow
def test_command_draws_two_runs_side_by_side(runs):
    start, *workdirs = runs
    both = [f"--workdir={workdir}" for workdir in workdirs]
    chosen = ("--config.receptive_field.pixels=0.5,0.5,0.25,1.0", "--config.receptive_field.images=3")
    out, err = command_line.run(*start, *both, *chosen, "--mode=receptive_field")
    assert [line.split()[:3] for line in out.splitlines()[2:]] == [
        [str(workdir), step, at] for workdir, step in zip(workdirs, "10", strict=True) for at in ("0.5,0.5", "0.25,1")
    ]
    assert all(f"written: {workdir / 'receptive_field.png'}" in err for workdir in workdirs)
    found = [json.loads((workdir / "receptive_field.json").read_text()) for workdir in workdirs]
    assert found[0] == found[1]
    first, second = found[0]["runs"].values()
    assert (first["kernel_side"], second["kernel_side"]) == (96, 32)
    assert first["images"] == second["images"]
    assert len(set(first["images"])) == 3
    assert [(p["row"], p["column"]) for p in first["pixels"]] == [(32, 32), (16, 63)]
    assert all(0 < p["radius_50"] < p["radius_90"] < 90 for p in first["pixels"])
    drawn = [(workdir / "receptive_field.png").read_bytes() for workdir in workdirs]
    assert drawn[0] == drawn[1]
    assert not [p for workdir in workdirs for p in workdir.glob("*.part")]

    command_line.run(*start, both[0], "--mode=eval")
    (img,) = section((workdirs[0] / "report.html").read_text(), "receptive").findall("img")
    assert base64.b64decode(img.get("src").partition(",")[2]) == drawn[1]
    assert f"{second['pixels'][1]['radius_90']:.1f}" in img.get("alt")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.receptive_field.pixels=0.5,1.5"], "config.receptive_field.pixels must be pairs of row and column"),
        (["--config.receptive_field.pixels=0.5,0.5,0.1"], "each from 0 to 1, such as 0.5,0.5. Got (0.5, 0.5, 0.1)"),
        (["--config.receptive_field.pixels=nan,0.5"], "config.receptive_field.pixels"),
        (["--config.receptive_field.pixels=(0.5,0.5),(0,1)"], "must be pairs of row and column, each from 0 to 1"),
        (["--config.receptive_field.pixels='a','b'"], "Got ('a', 'b')"),
        (["--config.receptive_field.images=0"], "config.receptive_field.images must be positive. Got 0"),
        (["--workdir=/nowhere"], "/nowhere: not a workdir of a training run"),
    ],
)
def test_a_mistake_is_one_line(runs, args, message):
    start, workdir, _ = runs
    err = command_line.refused(*start, f"--workdir={workdir}", *args, "--mode=receptive_field")
    assert len(err.splitlines()) == 1, err
    assert message in err


def test_damaged_files_are_named(tmp_path):
    assert receptive_field.read(tmp_path) is None
    Image.fromarray(noise(8, 8)).save(tmp_path / "receptive_field.png")
    assert receptive_field.read(tmp_path) is None
    for content in ("{", "[]", '{"runs": {"a": {"step": 1}}}', '{"runs": {"a": 3}}'):
        (tmp_path / "receptive_field.json").write_text(content)
        with pytest.raises(UserError, match=f"{tmp_path}: receptive_field.png or receptive_field.json is damaged"):
            receptive_field.read(tmp_path)


@pytest.mark.slow
def test_a_model_that_ignores_its_input_is_told(config, tmp_path, monkeypatch):
    """All weights zero: no gradient, no picture."""
    saved_config.save(config, tmp_path)
    variables = jax.tree.map(np.zeros_like, init_variables(config_lib.model_from(config), 0))
    monkeypatch.setattr(receptive_field, "load_trained", lambda *args: (5, variables))
    with pytest.raises(UserError, match=r"config.receptive_field.pixels=0.5,0.5 the gradient is zero or not finite"):
        receptive_field.run({tmp_path: config})
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
