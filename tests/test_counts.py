"""Scores against SciPy, the official evaluator of Cityscapes, closed forms and counting by hand."""

import glob

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813
from PIL import Image
from scipy import ndimage

from gcn_jax.data.specs import CITYSCAPES, CITYSCAPES_RAW_IDS, CITYSCAPES_TRAIN_IDS
from gcn_jax.evaluation import boundary
from gcn_jax.evaluation.counts import Counts


def blocks(rng, shape, num_classes, side):
    """A random label map of blocks, with void."""
    values = np.array([*range(num_classes), 255], np.uint8)
    rows, columns = (-(-length // side) for length in shape)
    return rng.choice(values, (rows, columns)).repeat(side, 0).repeat(side, 1)[: shape[0], : shape[1]]


def disturbed(rng, label, num_classes):
    """A prediction with mistakes: the truth shifted, two classes swapped, holes of another class and of none."""
    prediction = np.roll(label, rng.integers(-9, 10, 2), (0, 1))
    prediction[label == 255] = rng.integers(0, num_classes, (label == 255).sum())
    a, b = rng.choice(num_classes, 2, replace=False)
    prediction = np.select([prediction == a, prediction == b], [b, a], prediction).astype(np.uint8)
    for value in (rng.integers(num_classes), 255):
        top, left = (rng.integers(0, max(length - 20, 1)) for length in label.shape)
        prediction[top : top + 20, left : left + 20] = value
    return prediction


def by_scipy(label, prediction, num_classes):
    """The counts of an image by SciPy's distance transform and erosion, a class and a trimap at a time."""
    height, width = label.shape
    differs = np.zeros(label.shape, bool)
    for row, column in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        neighbour = np.pad(label, 1, mode="edge")[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        differs |= label != neighbour
    distance = ndimage.distance_transform_edt(~differs) if differs.any() else np.full(label.shape, np.inf)
    within = np.zeros((len(boundary.WIDTHS) + 1, num_classes, num_classes + 1), np.int64)
    for i, width_ in enumerate((*boundary.WIDTHS, np.inf)):
        chosen = (distance <= width_) & (label != 255)
        np.add.at(within[i], (label[chosen], np.minimum(prediction, num_classes)[chosen]), 1)
    times = max(1, round(0.02 * (height**2 + width**2) ** 0.5))
    regions = np.zeros((3, num_classes), np.int64)
    for c in range(num_classes):
        masks = [label == c, (prediction == c)]
        truth, found = (m & ~ndimage.binary_erosion(m, np.ones((3, 3)), times) & (label != 255) for m in masks)
        regions[:, c] = truth.sum(), found.sum(), (truth & found).sum()
    return within, regions


def count(label, prediction, num_classes):
    return Counts.of_image(label=label, prediction=prediction, num_classes=num_classes)


@pytest.mark.parametrize("num_classes", [2, 5, 150])
@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (15, 90), (97, 130)])
def test_counts_are_scipys(shape, num_classes):
    rng = np.random.default_rng(num_classes)
    for side in (1, 7, 40):
        label = blocks(rng, shape, num_classes, side)
        prediction = disturbed(rng, label, num_classes)
        counts = count(label, prediction, num_classes)
        within, regions = by_scipy(label, prediction, num_classes)
        np.testing.assert_array_equal(counts.confusion.cumsum(0), within)
        np.testing.assert_array_equal(counts.boundary, regions)


def test_the_border_of_an_image_is_no_boundary():
    label = np.zeros((60, 60), np.uint8)
    counts = count(label, label, 2)
    assert counts.confusion[-1, 0, 0] == 3600, "one class alone: nothing is near a boundary"
    label[:, 30:] = 1
    near = count(label, label, 2).confusion[: boundary.WIDTHS.index(7) + 1].sum()
    assert near == 60 * 16, "columns 22 to 37: 7 away from columns 29 and 30 that lie on the boundary"


def test_erosion_is_of_each_mask_by_itself():
    """A thin class between two others: eroding the label map would hand its pixels to the lower class."""
    label = np.repeat(np.array([0] * 20 + [1] * 3 + [2] * 20, np.uint8)[None], 43, axis=0)
    left = boundary.survives_erosion(label, 2)
    assert not left[label == 1].any()
    assert left[label == 0].sum() == left[label == 2].sum() == (20 - 4) * (43 - 4)


def test_scores_by_hand():
    confusion = np.zeros((len(boundary.WIDTHS) + 1, 4, 5), np.int64)
    near, far = boundary.WIDTHS.index(7), boundary.WIDTHS.index(7) + 1
    confusion[near] = [[4, 2, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 4, 0, 0, 0]]
    confusion[far] = [[2, 0, 0, 0, 0], [0, 2, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    regions = np.array([[4, 2, 0, 0], [4, 3, 0, 1], [2, 0, 0, 0]])
    scores = Counts(confusion, regions).compute()
    np.testing.assert_allclose(scores["iou"], [6 / 9, 3 / 11, np.nan, 0])
    np.testing.assert_allclose(scores["miou"], (6 / 9 + 3 / 11) / 3)
    np.testing.assert_allclose(scores["accuracy"], [6 / 8, 3 / 5, np.nan, 0])
    np.testing.assert_allclose(scores["mean_accuracy"], (6 / 8 + 3 / 5) / 3)
    np.testing.assert_allclose(scores["pixel_accuracy"], 9 / 17)
    np.testing.assert_allclose(scores["frequency_weighted_iou"], (8 * 6 / 9 + 5 * 3 / 11) / 17)
    np.testing.assert_allclose(scores["boundary_accuracy"], 5 / 12)
    np.testing.assert_allclose(scores["internal_accuracy"], 4 / 5)
    np.testing.assert_allclose(scores["boundary_iou_per_class"], [2 / 6, 0, np.nan, 0])
    np.testing.assert_allclose(scores["boundary_iou"], 2 / 6 / 3)
    assert np.isnan(scores["trimap_miou"][:near]).all()
    np.testing.assert_allclose(scores["trimap_miou"][near], (4 / 7 + 1 / 8) / 3)
    np.testing.assert_allclose(scores["trimap_miou"][far:], scores["miou"])
    np.testing.assert_array_equal(scores["confusion"], confusion.sum(0)[:, :4])
    empty = Counts.empty(3).compute()
    assert np.isnan([empty["miou"], empty["pixel_accuracy"], empty["frequency_weighted_iou"]]).all()


def test_a_million_millions_of_pixels_lose_none():
    total, part = Counts.empty(2), Counts.empty(2)
    part.confusion[0, :, :2] = [[10**9 + 1, 1], [3, 10**9 + 7]]
    part.boundary[:] = 2**31 + 1
    for _ in range(1000):
        total = total.merge(part)
    assert total.confusion.sum() == 1000 * (2 * 10**9 + 12) > 10**12
    assert (total.boundary == 1000 * (2**31 + 1)).all()
    scores = total.compute()
    assert scores["confusion"].tolist() == [[1000 * (10**9 + 1), 1000], [3000, 1000 * (10**9 + 7)]]
    assert scores["iou"].tolist() == [(10**9 + 1) / (10**9 + 5), (10**9 + 7) / (10**9 + 11)]


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one size. Got \(4, 5\), \(5, 4\)"):
        count(np.zeros((4, 5), np.uint8), np.zeros((5, 4), np.uint8), 2)


def official_scores(pairs, folder):
    """Class IoUs by cityscapesscripts, of raw label ids: (truth, prediction) pairs."""
    files = []
    for i, pair in enumerate(pairs):
        files.append([str(folder / f"x_{i:06d}_000000_{kind}.png") for kind in ("gtFine_labelIds", "pred")])
        for path, array in zip(files[-1], pair, strict=True):
            Image.fromarray(array).save(path)
    official.args.evalInstLevelScore = official.args.JSONOutput = False
    official.args.quiet = True
    results = official.evaluateImgLists([p for _, p in files], [t for t, _ in files], official.args)
    return results["classScores"]


def assert_official(raw_labels, folder):
    """Our class IoUs of disturbed label maps are those of cityscapesscripts."""
    rng = np.random.default_rng(0)
    counts, pairs = Counts.empty(19), []
    for raw in raw_labels:
        label = CITYSCAPES_TRAIN_IDS[raw]
        prediction = disturbed(rng, label, 19)
        counts = counts.merge(count(label, prediction, 19))
        pairs.append((raw, np.append(CITYSCAPES_RAW_IDS, 0)[np.minimum(prediction, 19)].astype(np.uint8)))
    expected = official_scores(pairs, folder)
    ours = dict(zip(CITYSCAPES.class_names, counts.compute()["iou"], strict=True))
    for name, iou in ours.items():
        np.testing.assert_allclose(iou, expected[name], rtol=0, atol=1e-12, err_msg=name)
    assert np.isfinite(list(ours.values())).sum() > 10


def test_class_iou_is_the_official_one(tmp_path):
    rng = np.random.default_rng(1)
    raw_ids = np.append(CITYSCAPES_RAW_IDS, [0, 4, 9, 29]).astype(np.uint8)
    assert_official([rng.choice(raw_ids, (20, 30)).repeat(9, 0).repeat(9, 1) for _ in range(3)], tmp_path)


def real_truth(real_data):
    paths = sorted(glob.glob(str(real_data / "cityscapes_gt/frankfurt/*_labelIds.png")))
    for path in paths:
        with Image.open(path) as image:
            yield np.array(image)


def test_class_iou_is_the_official_one_on_real_truth(real_data, tmp_path):
    assert_official(real_truth(real_data), tmp_path)


def test_counts_are_scipys_on_real_truth(real_data):
    label = CITYSCAPES_TRAIN_IDS[next(real_truth(real_data))]
    prediction = disturbed(np.random.default_rng(0), label, 19)
    counts = count(label, prediction, 19)
    within, regions = by_scipy(label, prediction, 19)
    np.testing.assert_array_equal(counts.confusion.cumsum(0), within)
    np.testing.assert_array_equal(counts.boundary, regions)
