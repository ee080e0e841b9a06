"""The drawn data set `far_ends`: what each bar shows, and where."""

import numpy as np
import pytest
import scipy.ndimage

from gcn_jax.data import far_ends
from gcn_jax.data.sources import DRAWN, KNOWN
from gcn_jax.data.specs import FAR_ENDS, VOID

INDICES = range(40)


def test_bars_are_whole_and_apart():
    """As many regions of equal label as bars: none is cut off, covered, or touches another."""
    for index in INDICES:
        _, label = far_ends.draw("train", index)
        bars = far_ends.bars("train", index)
        regions = {class_id: scipy.ndimage.label(label == class_id)[1] for class_id in range(1, FAR_ENDS.num_classes)}
        assert regions == {c: sum(bar.class_id == c for bar in bars) for c in regions}
        border = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
        assert (border == 0).all()
        inner = [(bar.distance() < -far_ends._OUTLINE).sum() for bar in bars]
        area = sum((bar.length - 1.5) * (far_ends.WIDTH - 1.5) for bar in bars)
        np.testing.assert_allclose(sum(inner), area, rtol=0.05, atol=20)
        assert sum(inner) == ((label > 0) & (label != VOID)).sum()


def test_only_the_head_tells_the_class():
    """Behind the head every pixel is grey but for the noise; in the head the class's channel is the brightest."""
    for index in INDICES:
        image, label = far_ends.draw("val", index)
        image = image.astype(int)
        for bar in far_ends.bars("val", index):
            inside, behind = (bar.distance() < 0) & (label != VOID), bar.from_head() > far_ends.WIDTH
            assert (label[inside] == bar.class_id).all()
            body = image[inside & behind]
            np.testing.assert_allclose(body - body.mean(1, keepdims=True), 0, atol=40)  # noise of 6, at 6 sigma
            head = image[inside & ~behind].mean(0)
            assert head.argmax() == bar.class_id - 1
            assert head.max() > 2 * np.delete(head, bar.class_id - 1).max()


def test_lengths_are_spread_and_classes_alike():
    bars = [bar for index in range(400) for bar in far_ends.bars("train", index)]
    counts = np.histogram([bar.length for bar in bars], 4, far_ends.LENGTHS)[0]
    assert counts.min() > 0.1 * len(bars), "long bars find less room, but are not rare"
    by_class = np.bincount([bar.class_id for bar in bars], minlength=4)
    assert by_class[0] == 0
    np.testing.assert_allclose(by_class[1:] / len(bars), 1 / 3, atol=0.08)


def test_a_sample_depends_on_split_and_index_alone():
    first, again = far_ends.draw("train", 3), far_ends.draw("train", 3)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (far_ends.draw("val", 3)[0] != first[0]).any()


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_data_have_train_and_val(name):
    assert KNOWN[name] == ("train", "val")
