"""From files to batches, against independent readings."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.data import shapes, transforms
from gcn_jax.data.batches import group_by_shape
from gcn_jax.data.images import decode_image
from gcn_jax.data.masks import decode_ids, decode_own_label, encode_label
from gcn_jax.data.sources import ShapesSource
from gcn_jax.data.specs import SHAPES, VOC
from gcn_jax.errors import UserError
from tests.helpers import assert_same_batches, blocks, is_inside, train_batches


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_voc_colors_are_the_official_ones():
    # From the VOC development kit's documentation.
    official = {"aeroplane": (128, 0, 0), "bird": (128, 128, 0), "cow": (64, 128, 0), "person": (192, 128, 128)}
    colors = {c.name: c.color for c in VOC.classes}
    assert official.items() <= colors.items()
    assert colors["tvmonitor"] == (0, 64, 128)
    assert VOC.num_classes == 21
    assert len(set(VOC.class_names)) == 21
    assert VOC.palette()[255].tolist() == [224, 224, 192]


def test_label_png_round_trip():
    label = np.random.default_rng(0).integers(0, 256, (13, 17)).astype(np.uint8)
    data = encode_label(label, VOC.palette())
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image.convert("RGB")), VOC.palette()[label])
    np.testing.assert_array_equal(decode_ids(data, "x", 256), label)
    np.testing.assert_array_equal(decode_own_label(data, "x"), label)
    for damaged in (data[:-30], data[:-25] + b"?" + data[-24:], b""):
        with pytest.raises(UserError, match="label of x: damaged"):
            decode_own_label(damaged, "label of x")


def photo():
    """Smooth colours, which JPEG keeps, of odd sides, which chroma subsampling does not divide."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3)).astype(np.uint8))
    return small.resize((61, 47), Image.Resampling.BICUBIC)


def test_jpeg_pixels_equal_pillow():
    for options in ({}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}, {"restart_marker_rows": 1}):
        data = encoded(photo(), "JPEG", **options)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(decode_image(data, "x"), np.array(image))
    damaged = encoded(photo(), "JPEG")
    for data in (damaged[:-60], damaged[:300]):
        with pytest.raises(UserError, match="x: "):
            decode_image(data, "x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_images_of_every_mode_and_orientation(kind):
    for mode in {"JPEG": ("L", "CMYK"), "PNG": ("L", "LA", "P", "RGBA", "1"), "TIFF": ("L", "CMYK", "RGBA", "1")}[kind]:
        image = decode_image(encoded(photo().convert(mode), kind), "x")
        assert image.shape == (47, 61, 3)
        tolerance = {"1": 140, "P": 60}.get(mode, 12)
        grey = np.asarray(photo().convert("L"), int)
        assert abs(np.asarray(Image.fromarray(image).convert("L"), int) - grey).mean() < tolerance
    turns = {1: 0, 3: 2, 6: 3, 8: 1}  # EXIF orientation -> quarter turns against the clock
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = decode_image(encoded(photo(), kind), "x")
        np.testing.assert_array_equal(decode_image(encoded(photo(), kind, exif=exif), "x"), np.rot90(upright, turn))


def test_huge_images_are_refused_unread():
    data = encoded(Image.new("1", (30_000, 30_000)), "PNG")
    with pytest.raises(UserError, match=r"big\.png"):
        decode_image(data, "big.png")
    with pytest.raises(UserError, match=r"big\.png"):
        decode_ids(data, "big.png", 2)


def test_labels_of_16_bits():
    label = np.random.default_rng(0).integers(0, 5, (6, 8)).astype(np.uint16)
    label[2, 3] = 65535
    expected = np.where(label == 65535, 255, label)
    np.testing.assert_array_equal(decode_ids(encoded(Image.fromarray(label), "PNG"), "x", 5), expected)
    with pytest.raises(UserError, match=r"x: value 4 .* is neither a class id \(0-3\)"):
        decode_ids(encoded(Image.fromarray(label), "PNG"), "x", 4)
    label[1, 1] = 300
    with pytest.raises(UserError, match=r"x: value 300 \(first at row 1, column 1\)"):
        decode_ids(encoded(Image.fromarray(label), "PNG"), "x", 200)


def test_shapes_are_reproducible_and_hold_every_class():
    image, label = shapes.draw("train", 3)
    again = shapes.draw("train", 3)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    assert not np.array_equal(shapes.draw("val", 3)[0], image)
    seen = np.unique(np.concatenate([shapes.draw("val", i)[1].ravel() for i in range(30)]))
    assert seen.tolist() == [*range(SHAPES.num_classes), 255]


SIDES = st.integers(1, 150)


@given(
    *(SIDES, SIDES, st.booleans(), st.booleans(), st.integers(0, 2**32)),
    st.sampled_from([(1.0, 1.0), (0.5, 0.5), (0.4, 0.9), (1.3, 2.0)]),
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_transforms_keep_image_and_label_aligned(height, width, flip, place_anywhere, seed, scale):
    config = config_lib.default()
    config.data.update(size=64, flip=flip, place_anywhere=place_anywhere, scale=scale, mean=(200.4, 100.6, 50.0))
    sample = blocks(height, width, seed)
    augmentation = settings.augmentation(config)
    drawn, corner = augmentation.draw(sample, np.random.default_rng(seed))
    batch = augmentation.assemble([(drawn, corner)], 1)
    image, label = batch["image"][0], batch["label"][0]
    if scale == (1.0, 1.0):
        assert drawn["label"].shape == (min(height, 64), min(width, 64))
    (rows, columns), (top, left) = drawn["label"].shape, corner
    assert place_anywhere or corner == (0, 0)
    assert 0 <= top <= 64 - rows
    assert 0 <= left <= 64 - columns
    assert batch["inside"].tolist() == [[top, left, top + rows, left + columns]]
    outside = np.ones((64, 64), bool)
    outside[top : top + rows, left : left + columns] = False
    assert (label[outside] == 255).all(), "padding is void ..."
    assert (image[outside] == (200, 101, 50)).all(), "... and of the mean colour"
    assert set(np.unique(label[~outside])) <= set(np.unique(sample["label"])), "no id, nor void, is made"
    first = np.where(label == 255, 250, 10 * label.astype(int))
    exact = ~outside if scale == (1.0, 1.0) else is_inside(np.where(outside, 254, label), 2) & ~outside
    np.testing.assert_array_equal(image[..., 0][exact], first[exact])


def test_scaled_labels_lie_where_the_image_does():
    sample = blocks(160, 160, 3)
    for factor in (0.5, 2.0, 1.37):
        out = transforms.scale(sample, factor)
        assert out["label"].shape == (round(160 * factor), round(160 * factor))
        assert is_inside(out["label"], 2).mean() > 0.2, "the property above must be about many pixels"


def test_color_jitter_changes_colours_alone():
    sample = blocks(40, 50, 0)
    factors = set()
    for seed in range(20):
        out = transforms.color_jitter(sample, 0.5, np.random.default_rng(seed))
        assert out["label"] is sample["label"]
        assert out["image"].shape == sample["image"].shape
        factors.add(round(float(out["image"].mean()), 3))
        grey = np.asarray(Image.fromarray(out["image"]).convert("L"), float).mean()
        assert 0.4 < grey / np.asarray(Image.fromarray(sample["image"]).convert("L"), float).mean() < 1.6
    assert len(factors) > 15
    np.testing.assert_array_equal(
        transforms.color_jitter(sample, 0.0, np.random.default_rng(0))["image"], sample["image"]
    )


def test_flip_crop_and_place_take_every_value(config):
    whole = blocks(8, 10, 1)
    outs = [transforms.flip(whole, np.random.default_rng(seed))["image"] for seed in range(40)]
    flipped = sum(np.array_equal(out, whole["image"][:, ::-1]) for out in outs)
    assert 8 < flipped < 32
    corners = set()
    for seed in range(60):
        out = transforms.crop(whole, 8, np.random.default_rng(seed))["image"]
        corners |= {left for left in range(3) if np.array_equal(out, whole["image"][:, left : left + 8])}
    assert corners == {0, 1, 2}
    config.data.update(size=32, place_anywhere=True)
    augmentation = settings.augmentation(config)
    placed = {augmentation.draw(blocks(30, 31, 0), np.random.default_rng(seed))[1] for seed in range(80)}
    assert placed == {(top, left) for top in range(3) for left in range(2)}


def test_an_epoch_holds_each_sample_once_and_the_next_another_order(config):
    config.batch_size, config.num_steps = 8, 50
    source = ShapesSource("val")  # 200 samples: 25 batches an epoch
    batches = train_batches(source, config)
    ids = [image_id for _ in range(50) for image_id in next(batches)["image_id"]]
    assert len(set(ids[:200])) == len(set(ids[200:])) == 200
    assert ids[:200] != ids[200:]
    again = train_batches(source, config)
    assert next(again)["image_id"] == ids[:8]
    config.seed = 1
    assert next(train_batches(source, config))["image_id"] != ids[:8]


class Same:
    """One image, a hundred times."""

    image_ids = tuple(map(str, range(100)))

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return {**blocks(30, 40, 0), "image_id": self.image_ids[index]}


def test_samples_are_augmented_one_by_one(config):
    config.update(batch_size=50, num_steps=4)
    batches = list(train_batches(Same(), config))
    mirrored = [(batch["image"][:, :30, :40] != blocks(30, 40, 0)["image"]).any(axis=(1, 2, 3)) for batch in batches]
    for batch in mirrored:
        assert 10 < batch.sum() < 40, "some of a batch are flipped"
    by_id = [dict(zip(b["image_id"], m, strict=True)) for b, m in zip(batches, mirrored, strict=True)]
    first, second = {**by_id[0], **by_id[1]}, {**by_id[2], **by_id[3]}
    assert 25 < sum(first[i] != second[i] for i in first) < 75, "and others in the next epoch"


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_the_iterator_resumes_exactly_with_any_number_of_threads(config, threads):
    config.data.update(scale=(0.5, 2.0), color_jitter=0.3, place_anywhere=True)
    expected = list(train_batches(ShapesSource("train"), config))
    assert len(expected) == config.num_steps
    config.data.num_threads = threads
    batches = train_batches(ShapesSource("train"), config)
    assert_same_batches([next(batches) for _ in range(3)], expected[:3])
    saved = batches.get_state()
    next(batches)
    resumed = train_batches(ShapesSource("train"), config)
    resumed.set_state(saved)
    assert_same_batches(resumed, expected[3:])


def test_processes_share_each_batch(config):
    config.update(batch_size=6, num_steps=40)  # 240 samples of 200: into the second epoch
    config.data.update(scale=(0.5, 2.0), flip=True)
    whole = list(train_batches(ShapesSource("val"), config))
    shards = [list(train_batches(ShapesSource("val"), config, (i, 3))) for i in range(3)]
    assert [len(shard) for shard in shards] == [40, 40, 40]
    for step, batch in enumerate(whole):
        for i, shard in enumerate(shards):
            assert shard[step]["image_id"] == batch["image_id"][i::3]
            np.testing.assert_array_equal(shard[step]["image"], batch["image"][i::3])


class OneBad:
    """Three samples, of which one cannot be read."""

    image_ids = ("a", "b", "c")

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            raise UserError("b.png: damaged")
        return blocks(20, 20, int(index))


def test_a_bad_file_stops_the_run_with_its_name(config):
    for batches in (
        train_batches(OneBad(), config),
        group_by_shape(OneBad(), lambda h, w: (h, w), 1, settings.reading(config)),
    ):
        with pytest.raises(UserError) as error:
            list(batches)
        assert str(error.value) == "b.png: damaged"


class MixedSizes:
    """Samples of three sizes."""

    sizes = ((50, 60), (64, 40), (100, 60), (30, 130))

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return {**blocks(*self.sizes[index % 4], index), "image_id": str(index)}


def test_groups_hold_each_image_once_whole(config):
    def shape(height, width):
        return None if width == 130 else (height > 64, width > 64)

    groups = list(group_by_shape(MixedSizes(), shape, 3, settings.reading(config)))
    for group in groups:
        keys = {shape(*sample["label"].shape) for _, sample in group}
        assert len(keys) == 1
        assert len(group) <= (1 if None in keys else 3)
    seen = dict(pair for group in groups for pair in group)
    assert sorted(seen) == list(range(11))
    for index, sample in seen.items():
        assert sample["image_id"] == str(index)
        np.testing.assert_array_equal(sample["label"], MixedSizes()[index]["label"])
