"""From files to batches, against independent readings."""

import hashlib
import http.server
import io
import pathlib
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from gcn_jax.data import shapes, transforms
from gcn_jax.data.builders import archives
from gcn_jax.data.builders.voc import ARCHIVE, INNER
from gcn_jax.data.images import decode_image, decode_label, encode_label
from gcn_jax.data.pipeline import eval_batches, train_batches
from gcn_jax.data.sources import KNOWN, ShapesSource, open_source
from gcn_jax.data.specs import SHAPES, VOC
from gcn_jax.errors import UserError


def jpeg(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def voc_folder(tmp_path) -> pathlib.Path:
    """A small VOCdevkit in the official layout: 5 training and 3 validation images of several sizes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data" / INNER
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, count in (("train", 5), ("val", 3)):
        ids = [f"2007_{split}{i}" for i in range(count)]
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids) + "\n")
        for i, image_id in enumerate(ids):
            size = (40 + 7 * i, 60 - 5 * i)
            (root / f"JPEGImages/{image_id}.jpg").write_bytes(jpeg(rng.integers(0, 256, (*size, 3), np.uint8)))
            label = rng.choice(np.array([*range(21), 255], np.uint8), size)
            (root / f"SegmentationClass/{image_id}.png").write_bytes(encode_label(label, VOC.palette()))
    return tmp_path / "data"


@pytest.fixture
def voc_config(config, voc_folder):
    config.data_dir = str(voc_folder)
    config.data.update(train="voc_segmentation/train", eval="voc_segmentation/val")
    return config


def check_records(source, folder, split):
    """Every sample equals what Pillow reads from the folder itself."""
    ids = (folder / INNER / f"ImageSets/Segmentation/{split}.txt").read_text().split()
    samples = {source[i]["image_id"]: source[i] for i in range(len(source))}
    assert sorted(samples) == sorted(ids)
    for image_id, sample in samples.items():
        with Image.open(folder / INNER / f"SegmentationClass/{image_id}.png") as mask:
            np.testing.assert_array_equal(sample["label"], np.array(mask))
        with Image.open(folder / INNER / f"JPEGImages/{image_id}.jpg") as image:
            np.testing.assert_array_equal(sample["image"], np.array(image))


def test_voc_from_a_folder(voc_config, voc_folder):
    check_records(open_source("train", voc_config), voc_folder, "train")
    check_records(open_source("eval", voc_config), voc_folder, "val")


def test_voc_from_the_official_archive_is_the_same(voc_config, voc_folder, tmp_path):
    (tmp_path / "archive").mkdir()
    with tarfile.open(tmp_path / "archive" / ARCHIVE, "w") as tar:
        tar.add(voc_folder / "VOCdevkit", "VOCdevkit")
    voc_config.data_dir = str(tmp_path / "archive")
    check_records(open_source("train", voc_config), voc_folder, "train")


def test_real_voc(config, real_data):
    config.data_dir = str(real_data)
    config.data.update(train="voc_segmentation/train", eval="voc_segmentation/val")
    train, val = open_source("train", config), open_source("eval", config)
    assert (len(train), len(val)) == (437, 149)
    check_records(val, real_data, "val")


def test_a_changed_mask_is_prepared_anew(voc_config, voc_folder):
    open_source("train", voc_config)
    path = voc_folder / INNER / "SegmentationClass/2007_train0.png"
    with Image.open(path) as image:
        label = np.array(image)
    path.write_bytes(encode_label(np.full_like(label, 7), VOC.palette()))
    check_records(open_source("train", voc_config), voc_folder, "train")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"2007_train1\.png: cannot be read"),
        ("size", r"2007_train1\.png: the mask is 20x10 pixels but the image is 55x47"),
        ("value", r"2007_train1\.png: value 33 \(first at row 3, column 4\) is neither a class id \(0-20\) nor 255"),
        ("truncated", r"2007_train1\.jpg: damaged or truncated image"),
        ("rgb", r"2007_train1\.png: a mask must be a grey or palette PNG of class ids, but its mode is RGB"),
        ("text", r"2007_train1\.jpg: not a readable image file"),
    ],
)
def test_a_bad_file_is_named(voc_config, voc_folder, damage, message):
    mask = voc_folder / INNER / "SegmentationClass/2007_train1.png"
    image = voc_folder / INNER / "JPEGImages/2007_train1.jpg"
    label = np.zeros((47, 55), np.uint8)
    label[3, 4] = 33
    if damage == "missing":
        mask.unlink()
    elif damage == "size":
        mask.write_bytes(encode_label(np.zeros((10, 20), np.uint8), VOC.palette()))
    elif damage == "value":
        mask.write_bytes(encode_label(label, VOC.palette()))
    elif damage == "truncated":
        image.write_bytes(image.read_bytes()[:-400])
    elif damage == "rgb":
        Image.fromarray(np.zeros((47, 55, 3), np.uint8)).save(mask)
    elif damage == "text":
        image.write_text("not an image")
    with pytest.raises(UserError, match=message):
        open_source("train", voc_config)
    datasets = pathlib.Path(voc_config.cache_dir) / "datasets"
    assert not list(datasets.glob("*/*/1.0.0")), "nothing half-made may be taken for whole"


def test_a_truncated_archive_is_named(voc_config, voc_folder, tmp_path):
    (tmp_path / "archive").mkdir()
    path = tmp_path / "archive" / ARCHIVE
    with tarfile.open(path, "w") as tar:
        tar.add(voc_folder / "VOCdevkit", "VOCdevkit")
    path.write_bytes(path.read_bytes()[:9000])
    voc_config.data_dir = str(path.parent)
    with pytest.raises(UserError, match=ARCHIVE):
        open_source("train", voc_config)


def test_download_checks_the_checksum_and_comes_once(tmp_path):
    content = b"x" * 3_000_000
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.tar").write_bytes(content)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / "served")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, folder = f"http://127.0.0.1:{server.server_port}/a.tar", tmp_path / "downloads"
        with pytest.raises(UserError, match="checksum"):
            archives.download(url, "0" * 64, len(content), folder)
        with pytest.raises(UserError, match="404"):
            archives.download(url + "x", "0" * 64, len(content), folder)
        assert not (folder / "a.tar").exists()
        sha256 = hashlib.sha256(content).hexdigest()
        path = archives.download(url, sha256, len(content), folder)
        server.shutdown()
    assert path.read_bytes() == content
    assert archives.download(url, sha256, len(content), folder) == path


def test_voc_colors_are_the_official_ones():
    # From the VOC development kit's documentation.
    official = {"aeroplane": (128, 0, 0), "bird": (128, 128, 0), "cow": (64, 128, 0), "person": (192, 128, 128)}
    colors = {c.name: c.color for c in VOC.classes}
    assert official.items() <= colors.items()
    assert colors["tvmonitor"] == (0, 64, 128)
    assert VOC.num_classes == 21
    assert len(set(VOC.class_names)) == 21
    assert VOC.palette()[255].tolist() == [224, 224, 192]
    assert all(spec.num_classes < 255 for spec, _ in KNOWN.values())


def test_label_png_round_trip():
    label = np.random.default_rng(0).integers(0, 256, (13, 17)).astype(np.uint8)
    data = encode_label(label, VOC.palette())
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image.convert("RGB")), VOC.palette()[label])
    np.testing.assert_array_equal(decode_label(data, "x", 256), label)


def test_images_of_every_mode_are_rgb():
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for mode in ("L", "RGBA", "CMYK", "P", "1"):
        buffer = io.BytesIO()
        Image.fromarray(grey).convert(mode).save(buffer, "TIFF")
        assert decode_image(buffer.getvalue(), "x").shape == (6, 8, 3)
    image, exif = Image.fromarray(grey), Image.Exif()
    exif[0x0112] = 6  # turn right
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(buffer.getvalue(), "x")[..., 0], np.rot90(grey, -1))


def test_huge_images_are_refused_unread():
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    with pytest.raises(UserError, match=r"big\.png"):
        decode_image(buffer.getvalue(), "big.png")


def test_shapes_are_reproducible_and_hold_every_class():
    image, label = shapes.draw("train", 3)
    again = shapes.draw("train", 3)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    assert not np.array_equal(shapes.draw("val", 3)[0], image)
    seen = np.unique(np.concatenate([shapes.draw("val", i)[1].ravel() for i in range(30)]))
    assert seen.tolist() == [*range(SHAPES.num_classes), 255]


def sample(height, width, seed=0):
    """An image whose first channel repeats its label, so that any misalignment shows."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 21, (height, width)).astype(np.uint8)
    image = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    image[..., 0] = label
    return {"image": image, "label": label, "image_id": "x"}


@pytest.mark.parametrize("size", [(20, 50), (64, 64), (90, 40), (100, 120)])
def test_transforms_keep_image_and_label_aligned(size):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        out = transforms.crop(transforms.flip(sample(*size), rng), 64, rng)
        out = transforms.pad_sample(out, 64, 64, (200.4, 100.6, 50.0))
        assert out["image"].shape == (64, 64, 3)
        inside = out["label"] != 255
        assert inside.sum() == min(size[0], 64) * min(size[1], 64)
        assert inside[: size[0], : size[1]].all(), "padding goes to the bottom and right"
        np.testing.assert_array_equal(out["image"][..., 0][inside], out["label"][inside])
        assert (out["image"][~inside] == (200, 101, 50)).all()


def test_flip_and_crop_take_every_value():
    outs = [transforms.flip(sample(8, 8), np.random.default_rng(seed))["label"] for seed in range(40)]
    flipped = sum(np.array_equal(out, sample(8, 8)["label"][:, ::-1]) for out in outs)
    assert 8 < flipped < 32
    whole = sample(5, 10)["label"]
    corners = set()
    for seed in range(60):
        out = transforms.crop(sample(5, 10), 8, np.random.default_rng(seed))["label"]
        corners |= {left for left in range(3) if np.array_equal(out, whole[:, left : left + 8])}
    assert corners == {0, 1, 2}


def test_few_shapes_hold_images_of_every_size():
    sizes = [(h, w) for h in range(1, 2049, 13) for w in range(1, 2049, 17)]
    padded = {size: transforms.padded_shape(*size, 512) for size in sizes}
    assert all(h <= ph and w <= pw for (h, w), (ph, pw) in padded.items())
    assert len(set(padded.values())) == 7
    assert padded[(495, 494)] == (512, 512)
    assert transforms.padded_shape(1024, 2048, 512) == (1024, 2048)


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


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_the_iterator_resumes_exactly(config, threads):
    config.data.num_threads = threads
    batches = train_batches(ShapesSource("train"), config)
    for _ in range(3):
        next(batches)
    saved = batches.get_state()
    expected = [next(batches) for _ in range(3)]
    resumed = train_batches(ShapesSource("train"), config)
    resumed.set_state(saved)
    for batch in expected:
        other = next(resumed)
        assert other["image_id"] == batch["image_id"]
        np.testing.assert_array_equal(other["image"], batch["image"])
        np.testing.assert_array_equal(other["label"], batch["label"])


class MixedSizes:
    """Samples of three sizes."""

    sizes = ((50, 60), (64, 40), (100, 60), (30, 130))

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return {**sample(*self.sizes[index % 4], seed=index), "image_id": str(index)}


def test_evaluation_batches_hold_each_image_once_whole(config):
    batches = list(eval_batches(MixedSizes(), config, 3))
    seen = {}
    for batch in batches:
        assert len(batch["image"]) == 3
        for row in range(3):
            if batch["valid"][row]:
                seen[batch["image_id"][row]] = batch["label"][row]
            else:
                assert (batch["label"][row] == 255).all()
    assert sorted(seen, key=int) == [str(i) for i in range(11)]
    for image_id, label in seen.items():
        expected = MixedSizes()[int(image_id)]["label"]
        np.testing.assert_array_equal(label[: expected.shape[0], : expected.shape[1]], expected)
        assert (label != 255).sum() == expected.size
