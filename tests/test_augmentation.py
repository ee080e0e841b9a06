"""Training's random changes beyond mirroring, against NumPy, SciPy and closed forms."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.config.checks import validate
from gcn_jax.data import shapes, transforms
from gcn_jax.data.batches import Augmentation
from gcn_jax.data.pictures import contact_sheet
from gcn_jax.data.sources import open_sources
from gcn_jax.data.specs import SHAPES
from gcn_jax.data.transforms import Turn
from gcn_jax.errors import UserError
from gcn_jax.modes import prepare
from tests.helpers import CHANGES, blocks, is_inside, train_batches

MEAN = (200.4, 100.6, 50.0)


def draws(seed, number=1):
    """The first random numbers that a transform draws, from 0 to 1."""
    return np.random.default_rng(seed).random(number)


def turned(array, angle, value, zoom=1.0):
    return transforms.turned(array, Turn(angle, zoom, MEAN), value)


def test_what_is_off_draws_no_random_number():
    rng, expected = np.random.default_rng(0), np.random.default_rng(0)
    augmentation = Augmentation(size=16, mean=MEAN)
    augmentation.draw(blocks(30, 40, 0), rng)
    assert not augmentation.mixes(rng)
    is_flipped, top, left = expected.random() >= 0.5, expected.integers(15), expected.integers(25)
    assert rng.random() == expected.random()
    drawn, corner = augmentation.draw(blocks(30, 40, 0), np.random.default_rng(0))
    image = blocks(30, 40, 0)["image"][:, :: -1 if is_flipped else 1]
    np.testing.assert_array_equal(drawn["image"], image[top : top + 16, left : left + 16])
    assert corner == (0, 0)


def test_quarter_turns_are_numpys():
    for angle, sample in ((90, blocks(48, 48, 0)), (-90, blocks(33, 33, 1)), (180, blocks(31, 48, 2))):
        for array, value in ((sample["image"], MEAN), (sample["label"], 255)):
            np.testing.assert_array_equal(turned(array, angle, value), np.rot90(array, angle // 90))
            mirrored = array[:, ::-1]
            np.testing.assert_array_equal(turned(mirrored, angle, value), np.rot90(mirrored, angle // 90))


@pytest.mark.parametrize("angle", [-33.0, 10.0, 170.0])
def test_turning_is_scipys(angle):
    label = blocks(90, 120, 0)["label"]
    expected = scipy.ndimage.rotate(label, angle, reshape=False, order=0, mode="grid-constant", cval=255)
    assert (turned(label, angle, 255) == expected).mean() > 0.998, "but for ties"
    small = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize((120, 90), Image.Resampling.BICUBIC))
    found = turned(image, angle, MEAN)
    expected = scipy.ndimage.rotate(image.astype(float), angle, reshape=False, order=1, cval=-1e9)
    is_known = expected.min(-1) >= 0
    assert is_known.mean() > 0.5
    assert abs(found[is_known] - expected[is_known]).max() <= 1
    outside = scipy.ndimage.rotate(np.ones((90, 120)), angle, reshape=False, order=1, mode="grid-constant") == 0
    assert outside.any()
    assert (found[outside] == (200, 101, 50)).all()


@given(
    *(st.integers(1, 150), st.integers(1, 150), st.booleans(), st.integers(0, 2**32)),
    *(st.sampled_from([5.0, 45.0, 180.0]), st.sampled_from([1.0, 0.6]), st.sampled_from([(1.0, 1.0), (0.5, 2.0)])),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_turned_images_and_labels_stay_aligned(height, width, flip, seed, rotate, most, scale):
    sample = blocks(height, width, seed)
    changes = {"rotate": rotate, "max_class_share": most, "scale": scale, "flip": flip}
    drawn, _ = Augmentation(size=64, mean=MEAN, **changes).draw(sample, np.random.default_rng(seed))
    label = drawn["label"]
    if scale == (1.0, 1.0):
        assert label.shape == (min(height, 64), min(width, 64))
    assert drawn["image"].shape == (*label.shape, 3)
    assert set(np.unique(label)) <= {*np.unique(sample["label"]), 255}
    exact = is_inside(label, 2) & (label != 255)  # void may be new pixels
    np.testing.assert_array_equal(drawn["image"][..., 0][exact], 10 * label[exact])


def test_a_window_of_a_turned_image_is_that_of_the_whole():
    sample = blocks(100, 140, 0)
    rng = np.random.default_rng(0)
    cut = transforms.crop(sample, 32, rng, turn=Turn(20.0, 1.5, MEAN))
    rng = np.random.default_rng(0)
    top, left = rng.integers(150 - 32 + 1), rng.integers(210 - 32 + 1)
    for key, value in (("image", MEAN), ("label", 255)):
        expected = turned(sample[key], 20.0, value, 1.5)
        assert expected.shape[:2] == (150, 210)
        difference = abs(cut[key].astype(int) - expected[top : top + 32, left : left + 32])
        assert (difference > 1).mean() < 0.002, "but for rounding"


@pytest.mark.parametrize("zoom", [1.0, 1.5, 2.5])  # whole numbers of pixels
def test_an_enlarged_image_is_pillows(zoom):
    sample = blocks(40, 50, 0)
    expected = transforms.scale(sample, zoom)
    np.testing.assert_array_equal(turned(sample["label"], 0.0, 255, zoom), expected["label"])
    image = turned(sample["image"], 0.0, MEAN, zoom)
    assert abs(image.astype(int) - expected["image"]).max() <= 2, "but for rounding"


def test_what_scale_enlarges_is_turned_in_the_same_step():
    sample, found = blocks(50, 60, 0), set()
    augmentation = Augmentation(size=256, mean=MEAN, flip=False, rotate=1e-9, scale=(0.5, 2.0))
    for seed in range(20):
        drawn = augmentation.draw(sample, np.random.default_rng(seed))[0]
        factor = np.random.default_rng(seed).uniform(0.5, 2.0)
        expected = transforms.scale(sample, factor)
        assert drawn["label"].shape == expected["label"].shape
        agree = drawn["label"] == expected["label"]
        assert agree[2:-2, 2:-2].mean() > 0.95
        found.add(factor > 1)
    assert found == {False, True}


def test_angles_reach_both_ends():
    label = np.zeros((101, 101), np.uint8)
    label[50, 60:] = 1  # a ray to the right
    sample = {"image": np.zeros((101, 101, 3), np.uint8), "label": label, "image_id": "x"}
    augmentation, angles = Augmentation(size=128, mean=MEAN, flip=False, rotate=40.0), []
    for seed in range(60):
        drawn = augmentation.draw(sample, np.random.default_rng(seed))[0]
        assert (drawn["image"][drawn["label"] == 255] == (200, 101, 50)).all()
        rows, columns = np.nonzero(drawn["label"] == 1)
        angles.append(np.degrees(np.arctan2(50 - rows.mean(), columns.mean() - 50)))
    assert -41 < min(angles) < -33
    assert 33 < max(angles) < 41


def blurred(image, largest, seed):
    return transforms.blur({"image": image, "label": None, "image_id": ""}, largest, np.random.default_rng(seed))[
        "image"
    ]


def test_blur_is_nearly_scipys():
    small = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize((120, 90), Image.Resampling.NEAREST))
    for seed in range(8):
        sigma = 4 * draws(seed)[0]
        expected = scipy.ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="nearest")
        assert abs(blurred(image, 4.0, seed) - expected).mean() < 2.2
        if sigma > 1:
            assert abs(image - expected).mean() > 15, "the picture has edges to blur"


def test_blur_spreads_an_edge_by_sigma():
    edge = np.zeros((5, 81, 3), np.uint8)
    edge[:, 40:] = 255
    sigmas = []
    for seed in range(8):
        spread = np.diff(blurred(edge, 6.0, seed)[2, :, 0].astype(float)) / 255
        places = np.arange(80) - 39
        sigmas.append(6 * draws(seed)[0])
        assert abs((spread * places).sum()) < 0.05
        assert abs(np.sqrt((spread * places**2).sum()) - sigmas[-1]) < 0.06
    assert np.ptp(sigmas) > 3


def test_noise_has_its_mean_and_deviation():
    sample = {"image": np.full((300, 300, 3), 128, np.uint8), "label": None, "image_id": ""}
    deviations = []
    for seed in range(8):
        noisy = transforms.noise(sample, 20.0, np.random.default_rng(seed))["image"].astype(float) - 128
        sigma = 20 * draws(seed)[0]
        deviations.append(sigma)
        assert abs(noisy.mean()) < 5 * sigma / np.sqrt(noisy.size)
        np.testing.assert_allclose(noisy.var(), sigma**2 + 1 / 12, rtol=0.02)  # rounding is uniform
        for edge in (-2.5, -0.5, 1.5):
            np.testing.assert_allclose((noisy < edge * sigma).mean(), scipy.stats.norm.cdf(edge), atol=0.5 / sigma)
        pairs = (noisy[..., 0], noisy[..., 1]), (noisy[1:], noisy[:-1]), (noisy[:, 1:], noisy[:, :-1])
        for one, other in pairs:
            assert abs(np.corrcoef(one.reshape(-1), other.reshape(-1))[0, 1]) < 0.02
    assert np.ptp(deviations) > 5
    for value in (0, 255):
        sample["image"] = np.full((50, 50, 3), value, np.uint8)
        noisy = transforms.noise(sample, 100.0, np.random.default_rng(0))["image"]
        assert (noisy == value).mean() > 0.4, "values end at 0 and 255"


def halves(seed, second):
    """A sample of 40 x 60, an image of its own labels: each of the two has classes that the other lacks."""
    rng = np.random.default_rng(seed)
    label = rng.choice(np.array([20, 21, 22, 23, 255] if second else [0, 1, 2], np.uint8), (40, 60))
    return {"image": label[..., None].repeat(3, -1), "label": label, "image_id": "second" if second else "first"}


def mixed(kind, seed, corners=((5, 1), (20, 3))):
    first, second = halves(seed, second=False), halves(seed, second=True)
    augmentation = Augmentation(size=64, mean=(9, 9, 9), mix=kind, mix_share=1.0)
    placed = augmentation.paste((first, corners[0]), (second, corners[1]), np.random.default_rng(seed))
    batch = augmentation.assemble([placed], 1)
    padded = [augmentation.assemble([pair], 1) for pair in zip((first, second), corners, strict=True)]
    return batch, *padded


def check_paired(batch, first, second, part):
    """Each pixel, with its label, is from exactly one of the samples."""
    assert batch["image_id"] == ["first"]
    for key in ("image", "label"):
        np.testing.assert_array_equal(batch[key][0][part], second[key][0][part])
        np.testing.assert_array_equal(batch[key][0][~part], first[key][0][~part])


def test_cutmix_pastes_a_rectangle_with_its_mask():
    shares, corners = [], set()
    for seed in range(200):
        batch, first, second = mixed("cutmix", seed)
        rows, columns = np.nonzero(batch["label"][0] != first["label"][0])
        if not rows.size:
            shares.append(0.0)
            continue
        assert rows.min() >= 20
        assert columns.min() >= 3
        part = np.zeros((64, 64), bool)
        part[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        check_paired(batch, first, second, part)
        shares.append(part.sum() / (40 * 60))
        corners.add((rows.min(), columns.min()))
    assert 0.4 < np.mean(shares) < 0.6, "uniform from 0 to 1"
    assert min(shares) < 0.1
    assert max(shares) > 0.9
    assert len(corners) > 100


def test_classmix_pastes_half_of_the_classes_but_not_void():
    chosen = set()
    for seed in range(60):
        batch, first, second = mixed("classmix", seed)
        pasted = frozenset(np.unique(batch["label"][0])) & {20, 21, 22, 23}
        assert len(pasted) == 2
        check_paired(batch, first, second, np.isin(second["label"][0], list(pasted)))
        chosen.add(pasted)
    assert len(chosen) == 6, "any two of four"


def test_mixes_are_as_many_as_asked_for():
    augmentation = Augmentation(size=64, mean=MEAN, mix="cutmix", mix_share=0.3)
    assert 250 < sum(augmentation.mixes(np.random.default_rng(seed)) for seed in range(1000)) < 350


def two_classes(share_of_first, void=0.0):
    """A wide label: void on the left, then class 3, then class 7."""
    label = np.full((20, 1000), 7, np.uint8)
    label[:, : round(1000 * (void + share_of_first))] = 3
    label[:, : round(1000 * void)] = 255
    return {"image": label[..., None].repeat(3, -1), "label": label, "image_id": "x"}


def shares(sample, most, size=20):
    """The share of the larger class in 200 crops; 1 if there is void alone."""
    found = []
    for seed in range(200):
        label = transforms.crop(sample, size, np.random.default_rng(seed), max_class_share=most)["label"]
        assert label.shape == (20, 20)
        counts = np.bincount(label.reshape(-1), minlength=256)[:255]
        found.append(counts.max() / max(counts.sum(), 1) if counts.any() else 2.0)
    return np.array(found)


def test_a_crop_that_one_class_fills_is_drawn_again():
    # Of the 981 places of a crop, those whose larger class covers at most 0.75 begin 5 to 15 columns before the edge.
    chance = 11 / 981
    assert (shares(two_classes(0.5), 1.0) <= 0.75).mean() < 0.06
    expected = 1 - (1 - chance) ** 11
    assert abs((shares(two_classes(0.5), 0.75) <= 0.75).mean() - expected) < 0.08
    stripes = two_classes(0.0)
    stripes["label"] = np.tile(np.arange(2, dtype=np.uint8).repeat(25), (20, 20))  # 25 columns of each class in turn
    # Of 25 places 11 are good, and not one of 2000 crops should be left bad after 11 draws: (14/25)^11 = 0.0017.
    assert (shares(stripes, 0.75) <= 0.75).mean() > 0.97
    assert 0.3 < (shares(stripes, 1.0) <= 0.75).mean() < 0.6
    assert (shares(two_classes(1.0), 0.75) == 1).all(), "where nothing else is there, the last one is taken"


def test_void_counts_for_no_class_and_is_not_enough():
    stripes = two_classes(0.0)
    stripes["label"] = np.tile(np.array([3] * 12 + [7] * 13 + [255] * 25, np.uint8), (20, 20))
    found = shares(stripes, 0.9)
    assert (found <= 0.9).mean() > 0.95
    assert (shares(stripes, 1.0) == 2).any(), "there are crops of void alone"


def test_an_image_that_is_not_larger_than_the_crop_is_not_drawn_again(monkeypatch):
    draw, drawn = transforms._draw_window, []
    monkeypatch.setattr(transforms, "_draw_window", lambda *args: drawn.append(args) or draw(*args))
    for width, count in ((64, 1), (65, 11)):
        drawn.clear()
        sample = {**blocks(30, width, 0), "label": np.zeros((30, width), np.uint8)}
        transforms.crop(sample, 64, np.random.default_rng(0), max_class_share=0.5)
        assert len(drawn) == count


def test_the_contact_sheet_shows_what_training_sees(config, tmp_path, monkeypatch):
    monkeypatch.setitem(shapes.SPLIT_SIZES, "train", 20)
    monkeypatch.setattr(shapes, "_counts", shapes._counts.__wrapped__)  # which are kept
    config.data.update(train="shapes/val", eval="shapes/train", rare_share=0.5, **CHANGES)
    config.batch_size = 12
    prepare.run(config, tmp_path / "run")
    with Image.open(tmp_path / "run/contact_sheet.png") as image:
        sheet = np.asarray(image)
    batch = next(train_batches(open_sources(settings.datasets(config))[0], config))
    np.testing.assert_array_equal(sheet, contact_sheet(batch["image"], batch["label"], batch["image_id"], SHAPES))
    plain = config_lib.default()
    config.data.update({key: plain.data[key] for key in (*CHANGES, "rare_share")})
    others = next(train_batches(open_sources(settings.datasets(config))[0], config))
    assert (others["image"] != batch["image"]).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rotate": -1.0}, "config.data.rotate must be from 0 to 180 degrees. Got -1.0"),
        ({"rotate": float("nan")}, "config.data.rotate must be"),
        ({"blur": float("inf")}, "config.data.blur must be from 0 to 100 pixels"),
        ({"noise": 256.0}, "config.data.noise must be from 0 to 255"),
        ({"max_class_share": 0.0}, "config.data.max_class_share must be above 0 and at most 1"),
        ({"mix": "mixup"}, "config.data.mix must be one of cutmix, classmix, or empty. Got 'mixup'"),
        ({"mix_share": 1.5, "mix": "cutmix"}, "config.data.mix_share must be from 0 to 1"),
        ({"mix": "cutmix"}, "config.data.mix='cutmix' has no effect without config.data.mix_share above 0"),
        ({"mix_share": 0.5}, "config.data.mix_share=0.5 has no effect without config.data.mix=cutmix or classmix"),
        ({"rare_share": 1.1}, "config.data.rare_share must be from 0 to 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(config, values, told):
    config.data.update(values)
    with pytest.raises(UserError) as error:
        validate(config)
    assert str(error.value).startswith(told)
