"""The truth of scores beside the last, and the patterns of masks: against SciPy, NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from gcn_jax.config import settings
from gcn_jax.data.sources import open_source
from gcn_jax.models import init_variables
from gcn_jax.models.layers import cosine_patterns
from gcn_jax.modes.start_weights import with_own_patterns
from gcn_jax.training.levels import RADIUS, region_loss, sampled
from gcn_jax.training.loss import cross_entropy
from gcn_jax.training.losses import Loss
from gcn_jax.training.patterns import WINDOW, mask_patterns

VOID = 255


def blobs(height, width, classes=4, seed=0):
    """Smooth areas of classes, some of them void."""
    noise = np.random.default_rng(seed).standard_normal((classes + 1, height, width))
    label = np.argmax([ndimage.gaussian_filter(plane, 30) for plane in noise], axis=0)
    return np.where(label == classes, VOID, label).astype(np.uint8)[None]


@pytest.mark.parametrize(("size", "stride"), [((64, 96), 8), ((33, 70), 8), ((35, 49), 2), ((40, 40), 1)])
def test_labels_are_sampled_in_the_middle_of_coarse_pixels(size, stride):
    label = blobs(*size)
    coarse = tuple(-(-side // stride) for side in size)
    found = np.asarray(sampled(jnp.asarray(label), coarse))
    for i, j in np.ndindex(coarse):
        y, x = stride * i + stride // 2, stride * j + stride // 2
        assert found[0, i, j] == (label[0, y, x] if y < size[0] and x < size[1] else VOID)


def regions(label, classes, stride):
    """Each class dilated and eroded by a disc, at a coarser resolution, by SciPy."""
    _, height, width = label.shape
    rows, columns = -(-height // stride), -(-width // stride)
    filled = np.full((rows * stride, columns * stride), VOID)
    filled[:height, :width] = label[0]
    cells = filled.reshape(rows, stride, columns, stride)
    reach = np.arange(-(RADIUS // stride), RADIUS // stride + 1)
    disc = np.hypot(*np.meshgrid(reach, reach)) <= RADIUS // stride
    dilated, eroded = [], []
    for name in range(classes):
        held = (cells == name).any((1, 3))
        others = ((cells != name) & (cells != VOID)).any((1, 3))
        dilated.append(ndimage.binary_dilation(held, disc))
        eroded.append(held & ~ndimage.binary_dilation(others, disc))
    return np.stack(dilated, -1), np.stack(eroded, -1), cells[:, stride // 2, :, stride // 2] != VOID


@pytest.mark.parametrize("size", [(160, 192), (150, 131)])
def test_regions_are_scipys_dilated_and_eroded_classes(size):
    label = blobs(*size)
    dilated, eroded, counted = regions(label, 4, 8)
    assert eroded.any()
    assert not dilated.all()
    assert not counted.all()
    scores = np.random.default_rng(1).standard_normal((1, *counted.shape, 4)).astype(np.float32)
    for kind, truth in (("dilated", dilated), ("eroded", eroded)):
        losses = np.logaddexp(0, np.where(truth, -scores[0], scores[0]))
        found = jax.jit(region_loss, static_argnums=2)(scores, label, kind)
        np.testing.assert_allclose(found, losses[counted].mean(), rtol=1e-5)
    assert region_loss(jnp.asarray(scores), jnp.full_like(label, VOID), "dilated") == 0


def test_other_scores_add_their_losses():
    rng, label = np.random.default_rng(0), jnp.asarray(blobs(48, 64))
    logits, coarse, region = (rng.standard_normal((1, *s, 4)).astype(np.float32) for s in ((48, 64), (6, 8), (6, 8)))
    found = Loss(auxiliary=0.3)(logits, label, {"logits": (coarse,), "eroded": (region,)})
    own, other = cross_entropy(logits, label), cross_entropy(coarse, label[:, 4::8, 4::8])
    np.testing.assert_allclose(found, own + 0.3 * (other + region_loss(region, label, "eroded")), rtol=1e-5)


def test_patterns_span_what_masks_look_like():
    """Straight edges at any place are sums of the patterns that such masks give, far better than of others."""
    rng, places = np.random.default_rng(0), np.arange(WINDOW)

    def edges(count):
        angle, offset = rng.uniform(0, np.pi, count), rng.uniform(-12, 12, count)
        ahead = np.cos(angle)[:, None, None] * (places - 15.5)[:, None] + np.sin(angle)[:, None, None] * (places - 15.5)
        return (ahead > offset[:, None, None]).astype(np.uint8)

    start = cosine_patterns(10, 2)
    patterns = mask_patterns([edges(400)], start)
    same = np.abs(patterns)  # each of two classes is the other's rest
    np.testing.assert_allclose(same[..., 0], same[..., 1], atol=1e-4)
    unseen = edges(200).reshape(200, 8, 4, 8, 4).mean((2, 4)).reshape(200, 64)
    unseen -= unseen.mean(1, keepdims=True)
    shares = []
    for basis in (patterns[..., 1].reshape(64, 10), np.linalg.qr(rng.standard_normal((64, 10)))[0]):
        rest = unseen - (basis @ np.linalg.lstsq(basis, unseen.T, rcond=None)[0]).T
        shares.append((rest**2).sum() / (unseen**2).sum())
    assert shares[0] < 0.1 < 0.5 < shares[1]


def test_a_class_without_windows_keeps_its_start():
    start = cosine_patterns(3, 3)
    label = np.zeros((1, 40, 70), np.uint8)
    label[:, :16] = 1  # two windows, both alike: one component
    found = mask_patterns([label, np.full_like(label, VOID)], start)
    np.testing.assert_array_equal(found[..., 2], start[..., 2])
    np.testing.assert_array_equal(found[:, :, 1:, :2], start[:, :, 1:, :2])
    np.testing.assert_allclose(np.abs(found[:, :, 0, :2]), 0.5, atol=1e-6)


def test_a_training_starts_with_patterns_of_its_own_masks(config):
    """And goes on with those of another run: a class that it had keeps its patterns, a new one gets some."""
    config.model.decoder = "lrr"
    source = open_source("train", settings.datasets(config))
    start = init_variables(settings.model_from(config), config.seed)
    fresh = start["batch_stats"]["patterns"]["patterns"]
    made = with_own_patterns(config, start, source)
    patterns = made["batch_stats"]["patterns"]["patterns"]
    assert (patterns != fresh).any((0, 1, 2)).all(), "all classes occur in the training images"
    assert made["params"] is start["params"]
    assert with_own_patterns(config, made, source) is made
    half = np.where(np.arange(6) < 3, 2 * patterns, fresh)
    other = {**made, "batch_stats": {**made["batch_stats"], "patterns": {"patterns": half}}}
    found = with_own_patterns(config, other, source)["batch_stats"]["patterns"]["patterns"]
    np.testing.assert_array_equal(found, np.where(np.arange(6) < 3, 2 * patterns, patterns))
