"""Means and maxima of padded images are those of the images: maps, decoders, the network, and all that applies it."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gcn_jax.config import settings
from gcn_jax.data.sources import open_source
from gcn_jax.inference import large_images, temperature
from gcn_jax.models import DECODERS, Network, ResNet, build_model, init_variables
from gcn_jax.models.ops import xla
from gcn_jax.models.ops.sampling import max_of_all, pool_to_bins, rescaled, resize
from gcn_jax.models.preprocessing import normalize
from gcn_jax.modes import train
from gcn_jax.runtime.mesh import replicated
from gcn_jax.training.batch_norm import reestimate_statistics
from gcn_jax.training.loss import cross_entropy
from tests.helpers import labeller, mesh_of, randomize, train_batches

PARTS = np.array([[0, 0, 5, 9], [2, 3, 11, 4], [1, 0, 13, 12]], np.int32)  # of maps of 13 x 12
CHANNELS = {"stem": 4, "res2": 16, "res3": 32, "res4": 64, "res5": 128}  # of a backbone of width 4
OF_WHOLE = {  # the layers of each decoder that are on means or maxima
    "parsenet": {"scale_whole"},
    "pspnet": {"level1", "level2", "level3", "level6"},
    "deeplabv3plus": {"mean"},
    "zoomout": {"hidden1_whole"},
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cut(x, part):
    top, left, bottom, right = part
    return x[None, top:bottom, left:right]


def test_bins_and_maxima_are_those_of_the_part_alone():
    x = normal(3, 13, 12, 2)
    for bins in (1, 2, 3, 6):
        found = pool_to_bins(jnp.asarray(x), bins, jnp.asarray(PARTS))
        expected = [pool_to_bins(jnp.asarray(cut(image, part)), bins)[0] for image, part in zip(x, PARTS, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    mean, largest = pool_to_bins(jnp.asarray(x), 1, jnp.asarray(PARTS)), max_of_all(jnp.asarray(x), jnp.asarray(PARTS))
    for i, part in enumerate(PARTS):
        np.testing.assert_allclose(mean[i], cut(x[i], part)[0].mean((0, 1), keepdims=True), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(largest[i, 0, 0], cut(x[i], part).max((0, 1, 2)))
    np.testing.assert_array_equal(max_of_all(jnp.asarray(x)), x.max((1, 2), keepdims=True))


@pytest.mark.parametrize("bins", [1, 2, 6, 20])
def test_resizing_fills_the_part_and_repeats_the_border(bins):
    """Also where the part has fewer pixels than the map that is resized to it, as PSPNet's bins may be."""
    x = normal(3, bins, bins, 2)
    found = np.asarray(resize(jnp.asarray(x), (13, 12), jnp.asarray(PARTS)))
    for i, (top, left, bottom, right) in enumerate(PARTS):
        expected = np.asarray(resize(jnp.asarray(x[i : i + 1]), (bottom - top, right - left)))[0]
        around = ((top, 13 - bottom), (left, 12 - right), (0, 0))
        np.testing.assert_allclose(found[i], np.pad(expected, around, mode="edge"), rtol=1e-5, atol=1e-6)
        if min(expected.shape[:2]) >= bins:
            below, beside = found[i, bottom:, -1:], found[i, :1, right:]
            np.testing.assert_allclose(below, np.broadcast_to(x[i, -1, -1], below.shape), rtol=1e-5)
            np.testing.assert_allclose(beside, np.broadcast_to(x[i, 0, -1], beside.shape), rtol=1e-5)


@pytest.mark.parametrize(("size", "new"), [((97, 130), (73, 98)), ((8, 8), (1, 1)), ((64, 64), (96, 32))])
def test_a_pixel_of_the_new_size_that_has_some_of_the_part_is_of_it(size, new):
    parts = [(0, 0, 1, 1), (3, 5, 8, 7), (0, 2, 7, 8), (0, 0, *size)]
    for part, found in zip(parts, np.asarray(rescaled(jnp.array(parts, jnp.int32), size, new)), strict=True):
        for axis in range(2):
            fine = np.zeros(size[axis] * new[axis], bool)  # as many equal pieces as divide into both
            fine[part[axis] * new[axis] : part[axis + 2] * new[axis]] = True
            (touched,) = np.nonzero(fine.reshape(new[axis], size[axis]).any(1))
            assert (touched[0], touched[-1] + 1) == (found[axis], found[axis + 2])


def test_decoders_with_means_take_what_is_inside():
    assert {name for name in DECODERS if build_model(5, "resnet14", decoder=name).takes_inside} == set(OF_WHOLE)


@pytest.mark.parametrize("name", [n if n == "parsenet" else pytest.param(n, marks=pytest.mark.slow) for n in OF_WHOLE])
def test_what_a_decoder_says_of_the_whole_is_of_the_image(name):
    """The layers on the means or maxima of a padded map give what they give of the map that is not padded."""
    model = build_model(5, "resnet14", width=4, decoder=name)
    variables = randomize(init_variables(model, 0))
    own = {kind: {k: v for k, v in tree.items() if k != "backbone"} for kind, tree in variables.items()}
    stride = model.backbone.output_stride

    def of_whole(features, size):
        def is_one(module, method):
            return module.path in {(layer,) for layer in OF_WHOLE[name]} and method == "__call__"

        kept = model.decoder.apply(own, features, size, capture_intermediates=is_one, mutable=["intermediates"])[1]
        return jax.tree.leaves(
            jax.tree.map(lambda x: x[0], kept["intermediates"], is_leaf=lambda x: isinstance(x, tuple))
        )

    part = [2, 1, 7, 8]
    rows, columns = part[2] - part[0], part[3] - part[1]
    padded, plain = ({key: normal(1, 9, 8, c, seed=c) for key, c in CHANNELS.items()} for _ in range(2))
    plain["res5"] = cut(padded["res5"][0], part)
    with xla.platform("cpu"):
        found = of_whole({**padded, "inside": jnp.array([part])}, (9 * stride, 8 * stride))
        counted = of_whole(padded, (9 * stride, 8 * stride))
        expected = of_whole(plain, (rows * stride, columns * stride))
    assert len(found) == len(OF_WHOLE[name])
    for a, b, c in zip(found, expected, counted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert np.abs(np.asarray(c) - b).max() > 1e-3, "with the padding it is another"


@pytest.mark.parametrize("name", ["parsenet", pytest.param("pspnet", marks=pytest.mark.slow)])
def test_a_canvas_that_is_filled_needs_no_part(name):
    model = build_model(5, "resnet14", width=4, decoder=name)
    variables, images = randomize(init_variables(model, 0)), normal(2, 97, 130, 3)
    with xla.platform("cpu"):
        whole = jax.jit(model.apply)(variables, images)
        same = jax.jit(model.apply)(variables, images, inside=jnp.array([[0, 0, 97, 130]] * 2))
        less = jax.jit(model.apply)(variables, images, inside=jnp.array([[0, 0, 97, 130], [0, 0, 50, 60]]))
    np.testing.assert_allclose(same, whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(less[0], whole[0], rtol=1e-4, atol=1e-4)
    assert np.abs(less[1] - whole[1]).max() > 1e-3


class Part(nn.Module):
    """A decoder whose scores are the part of res-5 that it is told of."""

    num_classes = 4
    takes_inside = True

    @nn.compact
    def __call__(self, features, size, train=False):
        return jnp.broadcast_to(
            features["inside"][:, None, None].astype(jnp.float32), (len(features["res5"]), *size, 4)
        )


@pytest.mark.slow
def test_the_network_tells_the_part_of_each_scale():
    """64 x 96 pixels at stride 32, and as large again for the other scale: the maxima of both."""
    model = Network(ResNet("resnet14", 4), Part(), fused_scales=(1.5,))
    images, inside = jnp.zeros((1, 64, 96, 3)), jnp.array([[0, 33, 40, 96]])
    with xla.platform("cpu"):
        found, _ = jax.jit(model.init_with_output)(jax.random.key(0), images, inside=inside)
    assert found[0, 0, 0].tolist() == [0, 1, 2, 5]  # 40 x 1.5 = 60, 96 x 1.5 = 144 = 4.5 x 32


class Told(nn.Module):
    """A network whose scores are the part that it is told of, as fractions of what it sees."""

    num_classes = 4
    dtype = "float32"
    takes_inside = True

    @nn.compact
    def __call__(self, images, train=False, inside=None):
        height, width = images.shape[1:3]
        part = 3 * inside / jnp.array([[height, width, height, width]])
        return jnp.broadcast_to(part[:, None, None], (*images.shape[:3], 4))


def expected_of(*parts):
    return np.mean([scipy.special.softmax(3 * np.array(part)) for part in parts], axis=0)


@pytest.mark.parametrize(
    ("shape", "protocol", "parts"),
    [
        ((40, 60), {}, [(0, 0, 40 / 64, 60 / 64)]),
        ((40, 60), {"flip": True}, [(0, 0, 40 / 64, 60 / 64), (0, 4 / 64, 40 / 64, 1)]),
        ((41, 60), {"scales": (0.5, 2.0)}, [(0, 0, 21 / 32, 30 / 32), (0, 0, 82 / 128, 120 / 128)]),
        ((100, 150), {}, [(0, 0, 100 / 512, 150 / 512)]),
        ((50, 150), {"window": 96}, [(0, 0, 50 / 96, 1)]),
        ((40, 60), {"window": 64, "flip": True}, [(0, 0, 40 / 64, 60 / 64), (0, 4 / 64, 40 / 64, 1)]),
        ((130, 150), {"window": 96}, [(0, 0, 1, 1)]),
    ],
)
def test_a_labeller_tells_what_of_each_view_is_the_image(config, shape, protocol, parts):
    config.eval.update(protocol, batch_size=2)
    found = labeller(Told(), config).probabilities({}, np.zeros((*shape, 3), np.uint8))
    np.testing.assert_allclose(found, np.broadcast_to(expected_of(*parts), found.shape), rtol=1e-5)


@pytest.mark.parametrize(("data", "space"), [(2, 1), (1, 2)])
@pytest.mark.parametrize(("window", "side"), [(0, 64), (128, 128)])
def test_so_it_does_on_a_mesh(config, data, space, window, side):
    config.mesh.update(data=data, space=space)
    config.eval.update(batch_size=2, flip=True, window=window)
    mesh = mesh_of(config, jax.devices()[:2])
    found = labeller(Told(), config, mesh).probabilities(
        jax.device_put({}, replicated(mesh)), np.zeros((40, 60, 3), np.uint8)
    )
    parts = [(0, 0, 40 / side, 60 / side), (0, 1 - 60 / side, 40 / side, 1)]
    np.testing.assert_allclose(found, np.broadcast_to(expected_of(*parts), found.shape), rtol=1e-5)


def test_images_of_a_batch_have_parts_of_their_own(config):
    config.eval.batch_size = 3
    images = [np.zeros((*shape, 3), np.uint8) for shape in ((40, 60), (64, 10))]
    found = labeller(Told(), config).start({}, images, ("probabilities",))()
    for image, maps in zip(images, found, strict=True):
        height, width = image.shape[:2]
        np.testing.assert_allclose(maps["probabilities"][0, 0], expected_of((0, 0, height / 64, width / 64)), rtol=1e-5)


class Large:
    """A large image that is read window by window."""

    def __init__(self, shape):
        self.shape = shape

    def read(self, top, left, bottom, right):
        return np.zeros((bottom - top, right - left, 3), np.uint8)


def test_windows_of_a_large_image_are_told_their_part(config):
    config.eval.window = 64
    applied, needs = labeller(Told(), config), large_images.Needs(4, (0.0, 0.0, 0.0), "")
    for shape, part in (((40, 200), (0, 0, 40 / 64, 1)), ((200, 40), (0, 0, 1, 40 / 64))):
        for _, _, maps in large_images.rows(applied, {}, Large((*shape, 3)), ("probabilities",), needs):
            found = maps["probabilities"]
            np.testing.assert_allclose(found, np.broadcast_to(expected_of(part), found.shape), rtol=1e-5)


@pytest.mark.parametrize(("shape", "window"), [((40, 60), 0), ((50, 150), 96), ((130, 150), 96)])
def test_calibration_tells_what_is_no_padding(config, shape, window):
    config.eval.window = window
    sample = {"image": np.full((*shape, 3), 200, np.uint8), "label": np.zeros(shape, np.uint8)}
    for image, label, inside in temperature._inputs(labeller(Told(), config), sample, (7.0, 7.0, 7.0)):
        is_image = (image == 200).all(-1)
        (top, left), (bottom, right) = np.argwhere(is_image)[[0, -1]]
        assert inside.tolist() == [[top, left, bottom + 1, right + 1]]
        np.testing.assert_array_equal(is_image, label == 0)


@pytest.mark.slow
def test_training_leaves_padding_out(config, tmp_path):
    """The loss of the first step is that of the scores by what of its images is no padding."""
    config.model.decoder = "parsenet"
    config.data.update(scale=(0.2, 0.3), place_anywhere=True)
    config.update(num_steps=1, log_every=1, eval_every=10)
    config.mesh.data = 2
    train.run(config, tmp_path / "run")
    told = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (loss,) = (record["loss"] for record in told if "loss" in record)
    recipe = settings.recipe(config)
    variables = init_variables(recipe.model, config.seed)
    (batch,) = train_batches(open_source("train", settings.datasets(config)), config)
    images = normalize(batch["image"], recipe.preprocessing)
    with xla.platform("cpu"):
        logits = [jax.jit(recipe.model.apply)(variables, images, inside=part) for part in (batch["inside"], None)]
    expected, counted = (float(cross_entropy(scores, batch["label"])) for scores in logits)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert abs(counted - expected) > 1e-3


@pytest.mark.slow
def test_statistics_of_maxima_are_of_the_images():
    model = build_model(5, "resnet14", width=4, decoder="zoomout")
    variables = randomize(init_variables(model, 0))
    batches = [normal(2, 96, 96, 3, seed=i) for i in range(2)]
    parts = [np.array([[0, 0, 33, 96], [40, 0, 96, 64]]), np.array([[0, 0, 96, 96], [0, 64, 10, 96]])]
    pairs = list(zip(batches, parts, strict=True))
    found = reestimate_statistics(model, variables, pairs, "decoder")["batch_stats"]["norm_whole"]
    largest = []
    for images, inside in pairs:
        features = np.asarray(model.apply(variables, images, method="features")["res5"])
        cells = np.concatenate([inside[:, :2] // 32, -(-inside[:, 2:] // 32)], axis=1)
        largest += [cut(x, part).max((0, 1, 2)) for x, part in zip(features, cells, strict=True)]
    np.testing.assert_allclose(found["mean"], np.mean(largest, axis=0), rtol=1e-3, atol=1e-4)
