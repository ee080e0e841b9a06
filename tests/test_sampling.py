"""Which images are drawn: by the classes that they hold, the same after an interruption."""

import numpy as np
import pytest

from gcn_jax.config import settings
from gcn_jax.data.samples import Selection
from gcn_jax.data.sampling import Sampler
from gcn_jax.data.shapes import ShapesSource
from gcn_jax.data.sources import open_sources
from gcn_jax.errors import UserError
from tests.helpers import CHANGES, assert_same_batches, train_batches


class Held:
    """Images of which only the classes are known: class 0 in all, 1 in every tenth, 5 in one alone, void in some."""

    def __init__(self, count=40):
        self.presence = np.zeros((count, 256), bool)
        self.presence[:, 0] = self.presence[::10, 1] = self.presence[3, 5] = self.presence[::2, 255] = True

    def __len__(self):
        return len(self.presence)

    def class_presence(self):
        return self.presence


def frequencies(draw, count=20_000):
    drawn = [
        draw(epoch, place, np.random.default_rng((7, epoch, place))) for epoch, place in np.ndindex(count // 40, 40)
    ]
    return np.bincount(drawn, minlength=40) / count


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_frequencies_are_those_of_a_class_and_then_an_image(share):
    presence = Held().presence[:, [0, 1, 5]]
    expected = (1 - share) / 40 + share * (presence / presence.sum(0)).mean(1)
    sampler = Sampler(Held(), 0, share)
    for draw in (sampler.at, lambda epoch, place, rng: sampler.any(rng)):
        found = frequencies(draw)
        assert (abs(found - expected) < 5 * np.sqrt(expected / 20_000)).all()
    if not share:
        assert (frequencies(sampler.at) == 1 / 40).all(), "each once in an epoch"


def test_images_of_void_alone_are_refused():
    source = Held()
    source.presence[:, :255] = False
    with pytest.raises(UserError, match=r"config\.data\.rare_share=0\.5: the images to train on hold void alone"):
        Sampler(source, 0, 0.5)
    Sampler(source, 0)


def counted(source):
    return np.array([np.bincount(source[i]["label"].reshape(-1), minlength=256) > 0 for i in range(len(source))])


def test_a_selection_holds_the_classes_of_its_samples():
    val = ShapesSource("val")
    np.testing.assert_array_equal(val.class_presence(), counted(val))
    selection = Selection([val, Held()], [(0, 5), (1, 3), (0, 2)])
    np.testing.assert_array_equal(
        selection.class_presence(), [val.class_presence()[5], Held().presence[3], val.class_presence()[2]]
    )


def test_all_changes_together_resume_exactly_with_another_number_of_threads(config):
    config.data.update(train="shapes/val", eval="shapes/train", rare_share=0.5, **CHANGES)
    config.update(batch_size=8, num_steps=27)  # 216 samples of 200: into the second epoch
    source, _ = open_sources(settings.datasets(config))
    expected = list(train_batches(source, config))
    ids = [image_id for batch in expected for image_id in batch["image_id"]]
    assert len(set(ids)) < 180, "not each once"
    config.data.num_threads = 1
    batches = train_batches(ShapesSource("val"), config)
    assert_same_batches([next(batches) for _ in range(23)], expected[:23])
    resumed = train_batches(source, config)
    resumed.set_state(batches.get_state())
    assert_same_batches(resumed, expected[23:])
    for i in range(2):
        for batch, whole in zip(train_batches(source, config, (i, 2)), expected, strict=True):
            assert batch["image_id"] == whole["image_id"][i::2]
            np.testing.assert_array_equal(batch["image"], whole["image"][i::2])
            np.testing.assert_array_equal(batch["label"], whole["label"][i::2])
