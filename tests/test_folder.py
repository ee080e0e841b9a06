"""The user's own folder: what is understood, what is inferred, what is named."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import saved_config
from gcn_jax.config import settings
from gcn_jax.config.settings import spec_from
from gcn_jax.data import folder
from gcn_jax.data.legend import parse_classes
from gcn_jax.data.masks import encode_label
from gcn_jax.data.sources import open_folder, open_source, open_sources
from gcn_jax.data.specs import VOC
from gcn_jax.errors import UserError

CLASSES = "sky 0 128 255\nroad,10,20,30\n# a comment\n\ntraffic light 250 170 30\nvoid 1 1 1\n"
COLORS = np.array([(0, 128, 255), (10, 20, 30), (250, 170, 30)], np.uint8)


@pytest.fixture
def labels():
    """Ten labels of classes 0-2 with void, by name; a name has a folder, another a dot."""
    rng = np.random.default_rng(0)
    names = [f"photo{i}" for i in range(8)] + ["day/one", "v1.5"]
    return {name: rng.choice(np.array([0, 1, 2, 255], np.uint8), (20 + i, 30)) for i, name in enumerate(names)}


@pytest.fixture
def root(tmp_path, labels) -> pathlib.Path:
    """A folder of grey masks without any list."""
    root = tmp_path / "mine"
    rng = np.random.default_rng(1)
    for name, label in labels.items():
        for part in ("images", "masks"):
            (root / part / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*label.shape, 3), np.uint8)).save(root / f"images/{name}.jpg")
        Image.fromarray(label).save(root / f"masks/{name}.png")
    return root


@pytest.fixture
def mine(config, root):
    config.data_dir = str(root)
    config.data.update(train="folder/train", eval="folder/val")
    return config


def started(mine):
    """What a run does before its first step."""
    config_lib.validate(mine)
    return open_sources(settings.datasets(mine))


def opened(mine):
    train, val = started(mine)
    found = {s["image_id"]: s for source in (train, val) for s in (source[i] for i in range(len(source)))}
    counts = sum(np.bincount(sample["label"].reshape(-1), minlength=256) for sample in found.values())
    np.testing.assert_array_equal(train.pixels() + val.pixels(), counts)
    for source in (train, val):
        held = [np.bincount(found[name]["label"].reshape(-1), minlength=256) > 0 for name in source.image_ids]
        np.testing.assert_array_equal(source.class_presence(), held)
    return train, val, found


def check(found, labels, root):
    assert found.keys() == labels.keys()
    for name, label in labels.items():
        np.testing.assert_array_equal(found[name]["label"], label)
        assert found[name]["label"].dtype == np.uint8
        with Image.open(root / f"images/{name}.jpg") as image:
            np.testing.assert_array_equal(found[name]["image"], np.array(image))


def test_a_bare_folder(mine, root, labels, capsys):
    train, val, found = opened(mine)
    assert "holds no classes.txt; it has 3 classes, the ids 0-2 of its masks" in capsys.readouterr().err
    check(found, labels, root)
    assert (len(train), len(val)) == (8, 2)
    assert spec_from(mine).class_names == ["class 0", "class 1", "class 2"]
    again = opened(mine)
    assert (again[0].image_ids, again[1].image_ids) == (train.image_ids, val.image_ids)
    mine.seed = 1
    assert opened(mine)[1].image_ids != val.image_ids


@pytest.mark.parametrize("kind", ["palette", "16 bits", "colours", "colours with alpha"])
def test_masks_of_every_kind(mine, root, labels, kind):
    for name, label in labels.items():
        path = root / f"masks/{name}.png"
        if kind == "palette":
            path.write_bytes(encode_label(label, VOC.palette()))
        elif kind == "16 bits":
            Image.fromarray(np.where(label == 255, 65535, label.astype(np.uint16))).save(path)
        else:
            palette = np.concatenate([COLORS, np.zeros((252, 3)), [(1, 1, 1)]]).astype(np.uint8)
            Image.fromarray(palette[label]).convert("RGBA" if "alpha" in kind else "RGB").save(path)
    if "colours" in kind:
        (root / "classes.txt").write_text(CLASSES)
    check(opened(mine)[2], labels, root)


def test_classes_txt(mine, root):
    (root / "classes.txt").write_text(CLASSES)
    config_lib.validate(mine)
    spec = spec_from(mine)
    assert spec.class_names == ["sky", "road", "traffic light"]
    assert [c.color for c in spec.classes] == [tuple(color) for color in COLORS.tolist()]
    assert spec.void_color == (1, 1, 1)
    bare = parse_classes(["a", "b"])
    assert not bare.stated
    assert [c.color for c in bare.spec.classes] == [c.color for c in VOC.classes[:2]]


def test_lists(mine, root):
    (root / "train.txt").write_text("photo1\nphoto3.jpg\r\n\nimages/day/one.jpg\nv1.5\nphoto1\n")
    train, val, _ = opened(mine)
    assert train.image_ids == ["photo1", "photo3", "day/one", "v1.5"]
    assert val.image_ids == ["photo0", "photo2", "photo4", "photo5", "photo6", "photo7"]
    (root / "val.txt").write_text("photo5\n")
    assert opened(mine)[1].image_ids == ["photo5"]
    (root / "train.txt").unlink()
    assert len(opened(mine)[0].image_ids) == 9


def test_the_masks_are_searched_once_and_when_they_change(mine, root, labels, monkeypatch):
    opened(mine)
    reads = []
    read = folder.read_mask
    monkeypatch.setattr(folder, "read_mask", lambda *args: reads.append(args[1]) or read(*args))
    mine.data.classes = ()
    config_lib.validate(mine)
    open_sources(settings.datasets(mine))
    assert reads == []
    Image.fromarray(np.full((20, 30), 4, np.uint8)).save(root / "masks/photo0.png")
    mine.data.classes = ()
    config_lib.validate(mine)
    assert spec_from(mine).num_classes == 5
    assert len(reads) == len(labels)


def test_a_survey_that_another_version_kept_is_not_read(mine, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(folder, "_FORM", 1)
        opened(mine)
    for path in (settings.cache_dir(mine) / "folders").iterdir():
        path.write_text("{}")
    opened(mine)


def test_trained_classes_are_kept_for_evaluation_and_prediction(mine, root, tmp_path):
    (root / "classes.txt").write_text(CLASSES)
    config_lib.validate(mine)
    (tmp_path / "run").mkdir()
    saved_config.save(mine, tmp_path / "run")
    mine.data.classes = ()
    mine.data_dir = ""
    settled = saved_config.of_trained(mine, tmp_path / "run", given=())
    assert spec_from(settled).class_names == ["sky", "road", "traffic light"]
    assert spec_from(saved_config.load(tmp_path / "run")) == spec_from(settled)


def test_a_trained_model_is_taken_as_it_is_unless_the_user_asks_for_another(mine, root, tmp_path):
    (root / "classes.txt").write_text(CLASSES)
    config_lib.validate(mine)
    saved_config.save(mine, tmp_path)
    asked = mine.copy_and_resolve_references()
    asked.model.update(width=99, norm="train", kernel_size=7)
    asked.data.update(mean=(1.0, 2.0, 3.0), size=320)
    asked.eval.window = 64
    settled = saved_config.of_trained(asked, tmp_path, given={"eval.window", "data.size"})
    assert settled.model == mine.model
    assert (settled.data.mean, settled.data.size, settled.eval.window) == (mine.data.mean, 320, 64)
    assert asked.model.width == 99, "a copy"
    with pytest.raises(UserError, match=r"its checkpoints have config.model.width \d+, not 99"):
        saved_config.of_trained(asked, tmp_path, given={"model.width"})
    asked.data.update(train="shapes/train", eval="shapes/val")
    with pytest.raises(UserError, match="its checkpoints have the classes 'sky, road, traffic light', not 'background"):
        saved_config.of_trained(asked, tmp_path, given=())


def ruin(root, kind):
    mask, image = root / "masks/photo4.png", root / "images/photo4.jpg"
    if kind == "no mask":
        mask.unlink()
    elif kind == "no image":
        image.unlink()
    elif kind == "two images":
        Image.new("RGB", (30, 24)).save(root / "images/photo4.png")
    elif kind == "size":
        Image.new("L", (31, 24)).save(mask)
    elif kind == "rgb":
        Image.new("RGB", (30, 24), (4, 5, 6)).save(mask)
    elif kind == "value":
        (root / "classes.txt").write_text("a\nb\nc\n")
        Image.new("L", (30, 24), 3).save(mask)
    elif kind == "colour":
        (root / "classes.txt").write_text("a 0 0 0\nb 9 9 9\nc 1 2 3\n")
        Image.new("RGB", (30, 24), (4, 5, 6)).save(mask)
    elif kind == "binary":
        for path in (root / "masks").rglob("*.png"):
            with Image.open(path) as old:
                binary = np.where(np.array(old) > 0, 255, 0).astype(np.uint8)
            Image.fromarray(binary).save(path)
    elif kind == "cut":
        image.write_bytes(image.read_bytes()[:-300])
    elif kind == "32 bits":
        Image.fromarray(np.zeros((24, 30), np.float32)).save(root / "masks/photo4.tif")
        mask.unlink()
    elif kind == "huge":
        Image.new("1", (30_000, 30_000)).save(mask)
    elif kind == "list":
        (root / "train.txt").write_text("photo1\nphoto99\n")
    elif kind == "empty list":
        (root / "val.txt").write_text("\n")
    elif kind == "all in one":
        (root / "train.txt").write_text(
            "\n".join(p.stem for p in (root / "images").rglob("photo*.jpg")) + "\nday/one\nv1.5\n"
        )
    elif kind == "leak":
        (root / "train.txt").write_text("photo1\nphoto2\n")
        (root / "val.txt").write_text("photo2\nphoto3\n")
    elif kind == "no masks folder":
        (root / "masks").rename(root / "labels")
    elif kind == "no images":
        for path in (root / "images").rglob("*.jpg"):
            path.rename(path.with_suffix(".txt"))
    elif kind == "one class":
        (root / "classes.txt").write_text("a\n")
    elif kind == "classes twice":
        (root / "classes.txt").write_text("a\nb\na\n")
    elif kind == "300 classes":
        (root / "classes.txt").write_text("\n".join(f"c{i}" for i in range(300)))
    elif kind == "wrong colour":
        (root / "classes.txt").write_text("a 0 0 0\nb 0 0 256\n")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no mask", r"images/photo4\.jpg: has no mask; expected masks/photo4\.png"),
        ("no image", r"masks/photo4\.png: has no image; expected images/photo4\.jpg"),
        ("two images", r"images/photo4\.png: images/photo4\.jpg has the same name"),
        ("size", r"masks/photo4\.png: the mask is 31x24 pixels but the image is 30x24"),
        (
            "rgb",
            r"masks/photo4\.png: a mask must be .* of class ids, but its mode is RGB; colours are .*classes\.txt",
        ),
        ("value", r"masks/photo4\.png: value 3 \(first at row 0, column 0\) is neither a class id \(0-2\)"),
        ("colour", r"masks/photo4\.png: colour 4 5 6 \(first at row 0, column 0\) is not in classes\.txt"),
        ("binary", r"masks: the masks hold no id but 0 and 255, which is void"),
        ("cut", r"images/photo4\.jpg: damaged or truncated"),
        ("32 bits", r"masks/photo4\.tif: a mask must be a grey, palette or RGB image, but its mode is F"),
        ("huge", r"masks/photo4\.png: "),
        ("list", r"train\.txt, line 2: 'photo99' has no file in .*images"),
        ("empty list", r"val\.txt: is empty"),
        ("all in one", r"no image is left for val \(10 in all\)"),
        ("leak", r"holds 1 image\(s\) of config\.data\.eval, such as photo2"),
        ("no masks folder", r"config\.data_dir=.*: holds no folder masks/"),
        ("no images", r"images: holds no image"),
        ("one class", r"classes\.txt: 1 classes; there must be 2 to 254"),
        ("classes twice", r"classes\.txt, line 3: 'a' repeats the name or colour"),
        ("300 classes", r"classes\.txt: 300 classes; there must be 2 to 254"),
        ("wrong colour", r"classes\.txt, line 2: colour 0 0 256 is not of 0-255"),
    ],
)
def test_a_mistake_is_named_before_training(mine, root, kind, message):
    ruin(root, kind)
    with pytest.raises(UserError, match=message) as error:
        started(mine)
    assert "\n" not in str(error.value)


def test_no_folder_at_all(mine, tmp_path):
    mine.data_dir = ""
    with pytest.raises(UserError, match=r"config\.data_dir is empty: set it to the folder that holds images/"):
        config_lib.validate(mine)
    mine.data_dir = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere"):
        config_lib.validate(mine)


def test_files_changed_since_the_check_are_named(mine, root):
    config_lib.validate(mine)
    source = open_source("train", settings.datasets(mine))
    Image.fromarray(np.full((20, 30), 7, np.uint8)).save(root / f"masks/{source.image_ids[0]}.png")
    with pytest.raises(UserError, match=r"value 7 .* is neither a class id \(0-2\)"):
        source[0]


def test_names_are_listed_without_reading(mine, root, labels):
    for path in (root / "images").rglob("*.jpg"):
        path.write_bytes(b"")
    assert open_folder(settings.datasets(mine)).pairs.keys() == labels.keys()
