"""Padding, windows, scales and mirroring against the whole-image outcome of nets whose receptive fields are known."""

import json
import logging
import math
import os
import pathlib
import re
import socket
import subprocess
import sys
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gcn_jax import config as config_lib
from gcn_jax import crf
from gcn_jax.config import settings
from gcn_jax.data.sources import ShapesSource
from gcn_jax.errors import UserError
from gcn_jax.evaluation.counts import Counts
from gcn_jax.evaluation.evaluator import Evaluation, Evaluator, LabelledImage
from gcn_jax.evaluation.result import score_table
from gcn_jax.inference.labeller import WINDOW
from gcn_jax.models import init_variables
from gcn_jax.modes.evaluate import examples
from gcn_jax.runtime import compilation
from gcn_jax.runtime.mesh import replicated
from gcn_jax.training.batch_norm import reestimate_statistics
from tests.helpers import evaluator, labeller, mesh_of, randomize, result_of

ROOT = pathlib.Path(__file__).parents[1]
REACH = 6


class Net(nn.Module):
    """Three convolutions of a size, zero-padded: size 5 sees 6 pixels in each direction, size 1 none."""

    size: int
    num_classes: int = 4
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images, train=False):
        for features in (8, 8, self.num_classes):
            images = nn.tanh(nn.Conv(features, (self.size, self.size), padding=self.size // 2)(images))
        return 3 * images


class Constant(nn.Module):
    """The same logits everywhere."""

    num_classes: int = 3
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images, train=False):
        return jnp.broadcast_to(jnp.array([0.3, -1.0, 0.4])[None, None, None], (*images.shape[:3], 3))


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def whole(net, variables, image, config):
    """The probabilities of an image as it is, not padded."""
    normal = (image - np.array(config.data.mean)) / np.array(config.data.std)
    return np.asarray(jax.nn.softmax(jax.jit(net.apply)(variables, normal[None].astype(np.float32))[0]))


def prepared(net):
    return net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize("shape", [(64, 64), (50, 61), (20, 150), (130, 70)])
def test_padding_changes_nothing_within_reach(config, shape):
    net, image = Net(5), photo(*shape)
    variables = prepared(net)
    expected = whole(net, variables, image, config)
    found = labeller(net, config).probabilities(variables, image)
    assert found.shape == expected.shape
    inside = (slice(shape[0] - REACH), slice(shape[1] - REACH))
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-6)
    labels = labeller(net, config).start(variables, [image])()[0]["labels"]
    np.testing.assert_array_equal(labels[inside], expected[inside].argmax(-1))


@pytest.mark.parametrize(
    ("window", "stride", "batch_size"), [(32, 0, 1), (32, 32, 3), (48, 7, 3), (100, 0, 1), (64, 1000, 2)]
)
def test_windows_leave_no_seam(config, window, stride, batch_size):
    """Where the net sees no more than a pixel, any windows give what the whole image gives."""
    config.eval.update(window=window, stride=stride, batch_size=batch_size)
    for net in (Net(1), Constant()):
        variables, image = prepared(net), photo(90, 141)
        expected = whole(net, variables, image, config)
        inference = labeller(net, config)
        np.testing.assert_allclose(inference.probabilities(variables, image), expected, atol=1e-6)
        labels = inference.start(variables, [image])()[0]["labels"]
        np.testing.assert_array_equal(labels, expected.argmax(-1))
        np.testing.assert_array_equal(labels, inference.start(variables, [image])()[0]["labels"])


@pytest.mark.parametrize(
    "protocol",
    [
        {},
        {"flip": True},
        {"window": 48, "stride": 29},
        pytest.param({"crf": "1,1,1,1,1,1"}, marks=pytest.mark.slow),
        pytest.param({"window": 48, "stride": 29, "flip": True, "scales": (1.0, 0.5)}, marks=pytest.mark.slow),
        pytest.param({"window": 48, "stride": 29, "crf": "1,1,1,1,1,1"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_loss_is_of_the_probabilities(config, protocol):
    """Of two images of one canvas, with void; in windows one at a time."""
    config.eval.update(batch_size=2, **protocol)
    net, shapes = Net(5), [(60, 61), (64, 50)]
    variables, inference = prepared(net), labeller(net, config)
    images = [photo(*shape, seed) for seed, shape in enumerate(shapes)]
    truths = [np.random.default_rng(9).choice(np.array([0, 1, 2, 3, 255], np.uint8), shape) for shape in shapes]
    at_a_time = 1 if config.eval.window else 2
    groups = [slice(i, i + at_a_time) for i in range(0, 2, at_a_time)]
    found = [
        maps for some in groups for maps in inference.start(variables, images[some], ("labels", "loss"), truths[some])()
    ]
    for image, truth, maps in zip(images, truths, found, strict=True):
        probabilities = inference.probabilities(variables, image).astype(np.float64)
        of_truth = np.take_along_axis(probabilities, np.minimum(truth, 3)[..., None].astype(int), -1)[..., 0]
        np.testing.assert_allclose(maps["loss"], np.where(truth == 255, 0, -np.log(of_truth)), atol=1e-5)
        np.testing.assert_array_equal(maps["labels"], probabilities.argmax(-1))


class Certain(Constant):
    """Sure of class 2, beyond what float32 can say of the others."""

    @nn.compact
    def __call__(self, images, train=False):
        return jnp.broadcast_to(jnp.array([-900.0, 0.0, 900.0])[None, None, None], (*images.shape[:3], 3))


def test_the_loss_of_what_was_impossible_is_finite(config):
    truth = np.array([[0, 1, 2, 255]], np.uint8).repeat(40, 0)
    (maps,) = labeller(Certain(), config).start({}, [photo(40, 4)], ("loss",), [truth])()
    np.testing.assert_allclose(maps["loss"][0], [87.3365, 87.3365, 0, 0], atol=1e-3)


def test_the_papers_four_crops(config):
    """Crops of 1024 of an image of 2048 x 1024, an eighth in size: beyond reach of the seams nothing changes."""
    config.eval.update(window=1024, stride=342)
    _, tops, lefts, _ = labeller(Net(5), config).grid(1024, 2048)
    assert (tops.tolist(), lefts.tolist()) == ([0], [0, 341, 683, 1024])
    config.eval.update(window=128, stride=43)
    net, image = Net(5), photo(128, 256)
    variables, inference = prepared(net), labeller(net, config)
    _, _, lefts, _ = inference.grid(128, 256)
    assert lefts.tolist() == [0, 43, 85, 128]
    expected, found = whole(net, variables, image, config), inference.probabilities(variables, image)
    config.eval.batch_size = 3  # the second batch of crops is filled up with what must not count
    np.testing.assert_allclose(labeller(net, config).probabilities(variables, image), found, atol=1e-6)
    seams = np.array([x for left in lefts for x in (left, left + 128) if 0 < x < 256])
    far = (np.abs(np.arange(256)[:, None] + 0.5 - seams) > REACH).all(axis=1)
    assert 150 < far.sum() < 256
    np.testing.assert_allclose(found[:, far], expected[:, far], atol=1e-6)
    assert not np.allclose(found[:, ~far], expected[:, ~far], atol=1e-4)
    near_a_crops_border = np.abs(found[:, 43] - expected[:, 43]).max()
    assert near_a_crops_border < 0.02 * np.abs(found - expected[:, ::-1]).max(), "a crop's border has little weight"


def test_large_images_are_taken_in_windows(config):
    """Whole images of 4096 x 8192 would need tens of gigabytes; windows need those of one row of them."""
    inference = labeller(Net(1), config)
    assert inference.canvas(2048, 100) == (2048, 1024)
    assert inference.canvas(2049, 100) is None
    side, tops, lefts, size = inference.grid(2049, 100)
    assert (side, tops.tolist(), lefts.tolist(), size) == (WINDOW, [0, 512, 1025], [0], (WINDOW, 100))
    config.eval.scales = (1.0, 1.5)
    assert labeller(Net(1), config).canvas(1500, 100) is None, "a view of it is too large"
    config.eval.scales = (4.0,)
    assert labeller(Net(1), config).canvas(1000, 100) == (1024, 512), "as large as a window is"


def torch_resize(array, height, width):
    """Bilinear, antialiased: [H, W, C]."""
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(np.array(array, np.float32)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(tensor, (height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), True), ((0.5,), False), ((0.5, 1.0, 1.5), True)])
def test_views_are_averaged(config, scales, flip):
    """Scales and mirroring, with PyTorch's resizing."""
    net, image = Net(5), photo(64, 64)
    variables, apply = prepared(net), jax.jit(net.apply)
    normal = (image - np.array(config.data.mean)) / np.array(config.data.std)
    expected = []
    for scale in scales:
        for step in (1, -1) if flip else (1,):
            view = torch_resize(normal[:, ::step], int(64 * scale), int(64 * scale))
            logits = torch_resize(np.asarray(apply(variables, view[None])[0]), 64, 64)
            expected.append(scipy.special.softmax(logits, axis=-1)[:, ::step])
    config.eval.update(scales=scales, flip=flip)
    inference = labeller(net, config)
    found = inference.probabilities(variables, image)
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=2e-5)
    np.testing.assert_array_equal(inference.start(variables, [image])()[0]["labels"], found.argmax(-1))


def test_a_mesh_labels_as_one_device_does(config):
    net, image = Net(5), photo(100, 170)
    variables = prepared(net)
    for window, mesh in ((0, (2, 4)), (64, (4, 2)), (64, (3, 1))):
        config.batch_size = 12
        config.mesh.update(data=mesh[0], space=mesh[1])
        config.data.size, config.eval.window = 128, window
        expected = labeller(net, config).probabilities(variables, image)
        devices = mesh_of(config)
        found = labeller(net, config, devices).probabilities(jax.device_put(variables, replicated(devices)), image)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    config.eval.window = 96
    config.mesh.update(data=2, space=4)
    with pytest.raises(UserError, match=r"config.eval.window=96 must be a multiple of 128 on config.mesh.space=4"):
        labeller(net, config, mesh_of(config))


@pytest.mark.parametrize(
    ("shape", "flip", "params"),
    [
        ((48, 48), False, ""),
        ((64, 20), True, ""),
        ((1, 3), False, ""),
        pytest.param((48, 48), True, "2,3,1,4,67,3", marks=pytest.mark.slow),
    ],
)
def test_an_image_smaller_than_a_window_is_padded_to_it(config, shape, flip, params):
    """By the mean colour, at the bottom and right, as whole images are; against the network on such an image."""
    net, image = Net(5), photo(*shape)
    variables = prepared(net)
    padded = np.tile(np.rint(config.data.mean).astype(np.uint8), (64, 64, 1))
    padded[: shape[0], : shape[1]] = image
    expected = whole(net, variables, padded, config)
    if flip:
        expected = (expected + whole(net, variables, padded[:, ::-1], config)[:, ::-1]) / 2
    expected = expected[: shape[0], : shape[1]]
    if params:
        expected = crf.refine(image, crf.log_probabilities(expected), crf.parse(params))
    config.eval.update(window=64, batch_size=2, flip=flip, crf=params)
    inference = labeller(net, config)
    found = inference.probabilities(variables, image)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(inference.start(variables, [image])()[0]["labels"], found.argmax(-1))


class SomeSizes(ShapesSource):
    """Images smaller than a window of 64 pixels in both directions, in one, in none."""

    shapes = ((48, 48), (48, 130), (130, 48), (64, 64), (40, 64), (100, 90))

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        label = np.random.default_rng(index).integers(0, 6, self.shapes[index], np.uint8)
        return {"image": photo(*self.shapes[index], index), "label": label, "image_id": str(index)}


@pytest.mark.slow
def test_a_split_may_mix_images_smaller_and_larger_than_a_window(config):
    """A net that sees no more than a pixel labels them as they are."""
    config.eval.update(window=64, stride=40, batch_size=2)
    net, source = Net(1, num_classes=6), SomeSizes("val")
    variables = prepared(net)
    applied = Evaluator(source, labeller(net, config), settings.spec_from(config), settings.reading(config))
    evaluation = applied(variables)
    assert list(evaluation.images) == list(range(6))
    for i, found in evaluation.images.items():
        prediction = np.frombuffer(zlib.decompress(found.packed), np.uint8).reshape(source.shapes[i])
        np.testing.assert_array_equal(prediction, whole(net, variables, source[i]["image"], config).argmax(-1))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scales", (1.0, 0.0), "config.eval.scales must be one or more positive numbers"),
        ("scales", (), "config.eval.scales must be one or more positive numbers"),
        ("window", 31, "config.eval.window must be at least 32 pixels, or 0 for whole images. Got 31"),
        ("stride", -1, "config.eval.stride must be positive"),
    ],
)
def test_wrong_protocols_are_named(config, key, value, message):
    config.eval[key] = value
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)


class ManySizes(ShapesSource):
    """A hundred samples of as many sizes, most of them small, some of more than a thousand pixels."""

    sizes = [(20 + i, 110 - i // 2) for i in range(90)] + [(100 * i, 1800 // i) for i in range(1, 11)]

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index]
        sample = super().__getitem__(int(index))
        rows, columns = (
            -(-length // side) for length, side in zip((height, width), sample["label"].shape, strict=True)
        )
        return {
            "image": np.tile(sample["image"], (rows, columns, 1))[:height, :width],
            "label": np.tile(sample["label"], (rows, columns))[:height, :width],
            "image_id": str(index),
        }


@pytest.mark.slow
def test_images_of_a_hundred_sizes_compile_at_most_eight_programs(config, caplog):
    assert len(set(ManySizes.sizes)) == 100
    config.mesh.data, config.eval.num_pictures = 1, 0
    mesh = mesh_of(config)
    variables = jax.device_put(init_variables(config_lib.model_from(config), 0), replicated(mesh))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        evaluation = evaluator(ManySizes("val"), mesh, config)(variables)
    assert len(evaluation.images) == 100
    compiled = [record for record in caplog.records if record.getMessage().startswith("Finished XLA compilation")]
    assert 3 <= len(compiled) <= 8, [record.getMessage() for record in compiled]


class FewShapes(ShapesSource):
    """The first samples alone."""

    def __len__(self):
        return 7


@pytest.mark.parametrize("mesh", [pytest.param((1, 1), marks=pytest.mark.slow), (4, 2)])
def test_evaluation_counts_each_image_once_at_its_own_size(config, mesh):
    config.mesh.update(data=mesh[0], space=mesh[1])
    config.batch_size, config.eval.batch_size, config.eval.num_pictures = 4, 3, 2
    model = config_lib.model_from(config)
    variables = randomize(init_variables(model, 0))
    source = FewShapes("val")
    evaluation = evaluator(source, mesh_of(config), config)(variables)
    assert [image.image_id for image in evaluation.images.values()] == source.image_ids[:7]
    assert len(evaluation.pictures) == 2
    expected, num_tipped, losses = np.zeros((6, 6), np.int64), 0, []
    mean, std = np.array(config.data.mean), np.array(config.data.std)
    apply = jax.jit(model.apply)
    for i, found in evaluation.images.items():
        image, label = source[i]["image"], source[i]["label"]
        padded = np.tile(np.rint(mean), (64, 64, 1))
        padded[: label.shape[0], : label.shape[1]] = image
        logits = apply(variables, ((padded - mean) / std).astype(np.float32)[None])
        prediction = np.frombuffer(zlib.decompress(found.packed), np.uint8).reshape(label.shape)
        num_tipped += (np.argmax(logits[0], -1)[: label.shape[0], : label.shape[1]] != prediction).sum()
        scores = np.asarray(logits[0], np.float64)[: label.shape[0], : label.shape[1]][label != 255]
        losses += [scipy.special.logsumexp(scores, -1) - scores[np.arange(len(scores)), label[label != 255]]]
        own = np.zeros((6, 6), np.int64)
        np.add.at(own, (label[label != 255], prediction[label != 255]), 1)
        expected += own
        union = own.sum(0) + own.sum(1) - np.diagonal(own)
        np.testing.assert_allclose(found.miou, (np.diagonal(own)[union > 0] / union[union > 0]).mean(), rtol=1e-12)
    assert num_tipped <= 4, "pixels may tip over by rounding, on a mesh"
    result = result_of(evaluation, config, 3)
    assert result["confusion_matrix"] == expected.tolist()
    np.testing.assert_allclose(result["loss"], np.concatenate(losses).mean(), rtol=1e-4)
    assert f"loss (nats) {result['loss']:.4f}" in re.sub(" +", " ", score_table(result))
    assert set(result["iou_per_class"]) == {"background", "disk", "square", "triangle", "ring", "cross"}
    assert f"{100 * result['miou']:.2f}" in score_table(result)


def test_examples_are_the_best_the_median_and_the_worst():
    source, mious = ShapesSource("val"), np.append(np.random.default_rng(0).permutation(20) / 20, np.nan)
    evaluation = Evaluation(Counts.empty(6))
    for i, miou in enumerate(mious):
        packed = zlib.compress(np.full(source[i]["label"].shape, i % 6, np.uint8).tobytes())
        evaluation.images[i] = LabelledImage(source.image_ids[i], miou, math.nan, math.nan, packed)
    shown = examples(evaluation, source)
    assert [e.rank for e in shown] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    np.testing.assert_allclose([20 * e.miou for e in shown], [19, 18, 17, 11, 10, 9, 2, 1, 0])
    for e in shown:
        i = source.image_ids.index(e.image_id)
        assert mious[i] == e.miou
        np.testing.assert_array_equal(e.image, source[i]["image"])
        assert (e.prediction == i % 6).all()


def test_a_told_evaluation_stops(config):
    config.mesh.data = 1
    variables = init_variables(config_lib.model_from(config), 0)
    assert evaluator(FewShapes("val"), mesh_of(config), config)(variables, should_stop=lambda: True) is None


@pytest.mark.slow
def test_hosts_share_an_evaluation(config, tmp_path):
    """Three processes of two devices each, of which one stops alone, against one process."""
    config.eval.num_pictures = 1
    expected = evaluator(ShapesSource("val"), mesh_of(config), config)(init_variables(config_lib.model_from(config), 0))
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": "."}
    commands = [[sys.executable, "-m", "tests.hosts", address, "3", str(i), tmp_path / "config.json"] for i in range(3)]
    processes = [
        subprocess.Popen(c, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in commands
    ]
    for process in processes:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        found, wanted = json.loads(out.splitlines()[-1]), json.loads(json.dumps(result_of(expected, config, 0)))
        np.testing.assert_allclose(found.pop("loss"), wanted.pop("loss"), rtol=1e-6)  # it is summed in another order
        own, all_of_it = found.pop("calibration"), wanted.pop("calibration")
        assert found == wanted
        assert own["ece"] == pytest.approx(all_of_it["ece"], rel=1e-5), "confidences may round to another 1/65535"
        assert [b["count"] for b in own["bins"]] == pytest.approx([b["count"] for b in all_of_it["bins"]], abs=4)


@pytest.mark.parametrize("window", [0, 64])
def test_every_program_gets_the_projects_compiler_options(config, window, monkeypatch):
    """Shown by one that XLA refuses: whole images and windows are labelled with it, and batch norm is taken again."""
    config.eval.window = window
    model = config_lib.model_from(config)
    variables = init_variables(model, 0)
    monkeypatch.setattr(compilation, "options", lambda *args: {"xla_made_up": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_made_up"):
        labeller(model, config).start(variables, [np.zeros((96, 64, 3), np.uint8)])()
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_made_up"):
        reestimate_statistics(model, variables, [np.zeros((1, 64, 64, 3), np.float32)])
