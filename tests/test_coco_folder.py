"""The user's own folder in COCO's format: where its files are found, what becomes of them, what is named."""

import json
import re

import numpy as np
import pytest
from PIL import Image, ImageOps

from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.data.builders.archives import Folder
from gcn_jax.data.sources import open_sources
from gcn_jax.data.splits import draw
from gcn_jax.errors import UserError
from tests import command_line
from tests.coco_data import HEIGHT, WIDTH, box, content, label, make, photograph, save_photograph, write

TRAIN, VAL, ALL = range(1, 6), range(6, 8), range(1, 11)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "mine"


@pytest.fixture
def opened(config, root):
    """A function that does what a run does before its first step, and returns all samples by their splits."""

    def found(**changes):
        config.data_dir = str(root)
        config.data.update(train="coco/train", eval="coco/val", **{"classes": (), **changes})
        config_lib.validate(config)
        sources = dict(zip(("train", "val"), open_sources(settings.datasets(config)), strict=True))
        samples = {
            split: {source.image_ids[i]: source[i] for i in range(len(source))} for split, source in sources.items()
        }
        for split, source in sources.items():
            labels = (sample["label"].reshape(-1) for sample in samples[split].values())
            held = [np.bincount(label, minlength=256) > 0 for label in labels]
            np.testing.assert_array_equal(source.class_presence(), held)
        return samples

    return found


def check(found, names):
    """Samples against the numbers of their photographs, which stand in their names."""
    assert list(found) == names
    for name, sample in found.items():
        number = int(re.findall(r"\d+", name)[-1])
        assert abs(sample["image"].astype(int) - photograph(number)).max() <= 3
        np.testing.assert_array_equal(sample["label"], label(number), strict=True)


PLAIN = "{}.jpg"
SPLIT_FORMS = {
    "official": ("annotations/instances_SPLIT2017.json", "SPLIT2017/{}.jpg", PLAIN),
    "below images": ("annotations/instances_SPLIT2017.json", "images/SPLIT2017/{}.jpg", PLAIN),
    "plain names": ("annotations/SPLIT.json", "SPLIT/{}.jpg", PLAIN),
    "in one folder": ("annotations/instances_SPLIT.json", "images/{}.jpg", PLAIN),
    "names with their folder": ("annotations/instances_SPLIT.json", "images/SPLIT/{}.jpg", "images/SPLIT/{}.jpg"),
    "in the folder itself": ("SPLIT.json", "SPLIT/{}.jpg", PLAIN),
    "subsets of CVAT": ("annotations/instances_SPLIT.json", "images/SPLIT/{}.jpg", PLAIN),
    "Roboflow": ("SPLIT/_annotations.coco.json", "SPLIT/{}.jpg", PLAIN),
    "a folder with its only json": ("SPLIT/labels_of_it.json", "SPLIT/data/{}.jpg", PLAIN),
    "a data set of Supervisely each": ("SPLIT/annotations/instances.json", "SPLIT/images/{}.jpg", PLAIN),
    "elsewhere": ("annotations/SPLIT.json", "photographs/of SPLIT/{}.jpg", r"C:\photographs\{}.jpg"),
}
NAMES = {"official": ("train", "val"), "subsets of CVAT": ("Train", "Validation"), "Roboflow": ("train", "valid")}


@pytest.mark.parametrize("form", SPLIT_FORMS)
def test_two_files_of_annotations_are_two_splits(opened, root, form):
    names = NAMES.get(form, ("train", "val"))
    for name, numbers in zip(names, (TRAIN, VAL), strict=True):
        own_path, own_place, own_name = (text.replace("SPLIT", name) for text in SPLIT_FORMS[form])
        make(root, {own_path: (numbers, own_name)}, [own_place])
    for extra in ("captions_train2017", "captions_val2017", "person_keypoints_val2017", "image_info_test2017"):
        write(root / f"annotations/{extra}.json", {})
    write(root / "test/_annotations.coco.json", {})
    write(root / "notes.json", {})
    found = opened()
    for split, name, numbers in (("train", names[0], TRAIN), ("val", names[1], VAL)):
        place = SPLIT_FORMS[form][1].replace("SPLIT", name).removesuffix(".jpg")
        check(found[split], [place.format(number) for number in numbers])


ONE_FORMS = {
    "CVAT": ("annotations/instances_default.json", "images/{}.jpg", PLAIN),
    "newer CVAT": ("annotations/instances_default.json", "images/default/{}.jpg", PLAIN),
    "labelme2coco": ("annotations.json", "JPEGImages/{}.jpg", "JPEGImages/{}.jpg"),
    "Label Studio": ("result.json", "images/{}.jpg", "images/{}.jpg"),
    "Label Studio on Windows": ("result.json", "images/{}.jpg", r"images\{}.jpg"),
    "Label Studio's own paths": ("result.json", "images/{}.jpg", "../../label-studio/data/media/upload/1/{}.jpg"),
    "Roboflow's train alone": ("train/_annotations.coco.json", "train/{}.jpg", PLAIN),
    "FiftyOne": ("labels.json", "data/{}.jpg", PLAIN),
    "VIA": ("via_export_coco.json", "{}.jpg", PLAIN),
    "any name": ("my labels v2.json", "a/b/c/{}.jpg", "./b/c/{}.jpg"),
    "absolute names": ("annotations.json", "photos/{}.jpg", "/home/me/photos/{}.jpg"),
}


@pytest.mark.parametrize("form", ONE_FORMS)
def test_of_one_file_a_fifth_is_drawn_for_val(config, opened, root, form):
    path, place, file_name = ONE_FORMS[form]
    make(root, {path: (ALL, file_name)}, [place])
    found = opened()
    expected = draw([place.format(number).removesuffix(".jpg") for number in ALL], config.seed)
    assert (len(expected["train"]), len(expected["val"])) == (8, 2)
    for split in ("train", "val"):
        check(found[split], expected[split])


@pytest.mark.parametrize("place", ["{}", "images/{}", "{}2017", "images/{}2017", "{}/photos"])
@pytest.mark.parametrize("file_name", ["photo.jpg", "holiday/photo.jpg"])
def test_the_same_name_in_two_splits_is_the_one_of_its_split(opened, root, place, file_name):
    for split, number in (("train", 1), ("val", 2)):
        write(root / f"annotations/instances_{split}2017.json", content({number: file_name}))
        save_photograph(root / place.format(split) / "photo.jpg", number)
    found = opened()
    for split, number in (("train", 1), ("val", 2)):
        np.testing.assert_array_equal(found[split][f"{place.format(split)}/photo"]["label"], label(number))


def test_files_that_differ_in_their_ending_alone_keep_it(opened, root):
    make(root, {"annotations.json": (ALL, PLAIN)}, [PLAIN])
    what = json.loads((root / "annotations.json").read_text())
    what["images"][0]["file_name"] = "2.png"
    write(root / "annotations.json", what)
    (root / "1.jpg").rename(root / "2.png")
    found = opened()
    assert {"2.jpg", "2.png", "3"} < {*found["train"], *found["val"]}


def two(root, forms):
    for path, place in forms:
        make(root, {path: (ALL, PLAIN)}, [place])


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ((), "holds no annotations in COCO's format; known: annotations/instances_train2017.json and"),
        (("annotations/val.json",), "holds no annotations for training beside .*annotations/val.json"),
        (("train/_annotations.coco.json", "annotations/instances_train2017.json"), "{1} and {0} could both be"),
        (("annotations/instances_train2014.json", "annotations/instances_train2017.json"), "{0} and {1} could both"),
        (("annotations/instances_default.json", "train/_annotations.coco.json"), "{0} and {1} could both be"),
        (("annotations.json", "result.json"), "{0} and {1} could both be the annotations; leave one of them there"),
        (("a.json", "b.json", "c.json"), "{0} and {1} could both be"),
        (("train/a.json", "train/b.json"), "{0} and {1} could both be"),
        (("annotations.json", "annotations/val.json"), "{0} and {1} could both be"),
    ],
)
def test_what_could_be_several_is_refused(opened, root, paths, message):
    root.mkdir()
    two(root, [(path, PLAIN) for path in paths])
    with pytest.raises(UserError, match=f"config.data_dir={root}: {message.format(*map(re.escape, paths))}"):
        opened()


def test_no_folder_at_all(config, opened, root):
    with pytest.raises(UserError, match=r"config\.data_dir=.*mine: no such folder"):
        opened()
    config.data.update(train="coco/train", eval="coco/val")
    config.data_dir = ""
    with pytest.raises(UserError, match=r"config\.data_dir is empty: set it to the folder that holds the images and"):
        config_lib.validate(config)
    make(root, {"annotations.json": (ALL, PLAIN)}, [PLAIN])
    config.data_dir = str(root / "annotations.json")
    with pytest.raises(UserError, match=r"config\.data_dir=.*annotations\.json: is a file; name the folder of it"):
        config_lib.validate(config)


def test_two_kinds_of_folder_do_not_mix(config, root):
    make(root, {"annotations.json": (ALL, PLAIN)}, [PLAIN])
    config.data_dir = str(root)
    for train, evaluation, message in (
        ("coco/train", "folder/val", "config.data.eval='folder/val' has the classes of folder, but"),
        (
            "coco/train+folder/train",
            "coco/val",
            "config.data.train='coco/train+folder/train': its parts have different",
        ),
    ):
        config.data.update(train=train, eval=evaluation, classes=())
        with pytest.raises(UserError, match=re.escape(message)):
            config_lib.validate(config)


# The classes.


def categories_of(*pairs):
    return [{"id": key, "name": name} for key, name in pairs]


@pytest.mark.parametrize(
    ("categories", "names", "values"),
    [
        (categories_of((1, "cat"), (2, "dog")), ["background", "cat", "dog"], (1, 2)),
        (categories_of((20, "cat"), (3, "dog"), (7, "never seen")), ["background", "dog", "never seen", "cat"], (3, 1)),
        (categories_of((0, "cat"), (1, "dog")), ["background", "cat", "dog"], (1, 2)),
        (categories_of(("10", "cat"), ("9", "dog")), ["background", "dog", "cat"], (2, 1)),
        (categories_of((1, "cat"), (2, "dog"), (0, "_background_")), ["background", "cat", "dog"], (1, 2)),
        (categories_of((1, "cat"), (2, "Background")), ["background", "cat"], (1, 0)),
        (categories_of((1, "cat"), (2, "void")), ["background", "cat"], (1, 255)),
        (categories_of((1, "cat"), (2, "dog"), (0, "cat")), ["background", "cat", "dog"], (1, 2)),
        ([{"id": 1}, {"id": 2, "name": " a,  b "}], ["background", "category 1", "a b"], (1, 2)),
    ],
)
def test_classes_are_background_and_the_categories_by_their_ids(config, opened, root, categories, names, values):
    write(root / "annotations.json", content({number: f"{number}.jpg" for number in ALL}, categories))
    for number in ALL:
        save_photograph(root / f"{number}.jpg", number)
    found = opened()
    assert settings.spec_from(config).class_names == names
    for samples in found.values():
        for name, sample in samples.items():
            np.testing.assert_array_equal(sample["label"], label(int(name), *values))


def test_classes_that_were_trained_keep_their_ids(config, opened, root):
    make(root, {"annotations.json": (ALL, PLAIN)}, [PLAIN])
    found = opened(classes=("background", "horse", "dog", "cat"))
    for samples in found.values():
        for name, sample in samples.items():
            np.testing.assert_array_equal(sample["label"], label(int(name), 3, 2))
    _, val = open_sources(settings.datasets(config))
    assert val.pixels().sum() == 2 * HEIGHT * WIDTH
    assert val.pixels()[3] > val.pixels()[2] > 0 == val.pixels()[1]
    with pytest.raises(UserError, match=r"the category 'dog' is none of the classes of annotations\.json"):
        opened(classes=("background", "cat"))


def ruin(root, kind):
    path = root / "annotations/train.json"
    what = json.loads(path.read_text())
    images, annotations, categories = what["images"], what["annotations"], what["categories"]
    if kind == "lacking":
        categories.append({"id": 3, "name": "horse"})
    elif kind == "twice":
        categories[1]["name"] = "cat"
    elif kind == "a colour":
        categories[1]["name"] = "dog 1 2 3"
    elif kind == "none":
        categories.clear()
        (root / "annotations/val.json").unlink()
    elif kind == "300":
        categories += [{"id": i, "name": f"class {i}"} for i in range(3, 301)]
    elif kind == "missing":
        (root / "train/1.jpg").unlink()
        (root / "train/2.jpg").unlink()
    elif kind == "several":
        images[0]["file_name"] = "photo.jpg"
        for folder in "ab":
            save_photograph(root / folder / "photo.jpg", 1)
    elif kind == "outside":
        images[0]["file_name"] = "../secret.jpg"
        save_photograph(root.parent / "secret.jpg", 1)
    elif kind == "two ids":
        images[1]["file_name"] = "./1.jpg"
    elif kind == "leak":
        images[0]["file_name"] = "val/6.jpg"
    elif kind == "size":
        images[0]["height"] += 1
    elif kind == "damaged":
        (root / "train/1.jpg").write_bytes((root / "train/1.jpg").read_bytes()[:-20])
    elif kind == "boxes":
        for annotation in annotations:
            annotation.update(segmentation=[], bbox=[1, 2, 3, 4])
    elif kind == "bad":
        for annotation in annotations:
            annotation["segmentation"] = [[1, 2, 20, 20]]
    elif kind == "other":
        what = {"version": "5.0.1", "shapes": []}
    elif kind == "empty":
        what["images"] = []
    what["images"] = what.get("images", images)
    write(path, what if kind != "other" else {"shapes": []})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lacking", r"annotations/val\.json: lacks the category 'horse', which the other split has"),
        ("twice", r"train\.json: the categories 1 and 2 are both called 'cat'; rename one"),
        ("a colour", r"train\.json: 'dog 1 2 3' cannot be the name of a class; rename the category"),
        ("none", r"train\.json: 1 classes; there must be 2 to 254"),
        ("300", r"train\.json: 301 classes; there must be 2 to 254"),
        ("missing", r"train\.json: 2 of 5 images are not below .*mine: 1\.jpg of image 1"),
        ("several", r"train\.json: image 1, photo\.jpg, could be a/photo\.jpg or b/photo\.jpg"),
        ("outside", r"train\.json: 1 of 5 images are not below .*mine: \.\./secret\.jpg of image 1"),
        ("two ids", r"train\.json: images 1 and 2 are both train/1\.jpg"),
        ("leak", r"annotations/val\.json: holds val/6, which .*annotations/train\.json holds, too"),
        ("size", r"train/1\.jpg: the image is 32x24 pixels, but 32x25 in .*train\.json"),
        ("damaged", r"train/1\.jpg: damaged or truncated"),
        ("boxes", r"train\.json: none of its 10 annotations has an outline \(10 have a box\)"),
        ("bad", r"train\.json: none of its 10 annotations can be drawn: annotation 1 \(a polygon of 2 points\)"),
        ("other", r"train\.json: not a COCO instances file \(KeyError: 'images'\)"),
        ("empty", r"no image is left for train \(2 in all\)"),
    ],
)
def test_a_mistake_is_named_before_training(opened, root, kind, message):
    for split, numbers in (("train", TRAIN), ("val", VAL)):
        make(root, {f"annotations/{split}.json": (numbers, PLAIN)}, [f"{split}/{{}}.jpg"])
    opened()
    ruin(root, kind)
    with pytest.raises(UserError, match=message) as error:
        opened()
    assert "\n" not in str(error.value)


def test_bad_annotations_and_bare_images_are_told_once_and_again_when_the_file_changes(opened, root, capsys):
    make(root, {"annotations.json": (ALL, PLAIN)}, [PLAIN])
    what = json.loads((root / "annotations.json").read_text())
    what["annotations"][0]["segmentation"] = [[1, 2, 20, 20]]
    del what["annotations"][-2:]
    write(root / "annotations.json", what)
    found = opened()
    err = capsys.readouterr().err
    line = (
        "annotations.json: 1 of 18 annotations cannot be drawn and were left out: annotation 1 (a polygon of 2 points)"
    )
    assert err.count(line) == 1
    assert err.count("annotations.json: 1 of 10 images have no annotation, and are background") == 1
    samples = found["train"] | found["val"]
    np.testing.assert_array_equal(samples["1"]["label"], np.where(label(1) == 2, 2, 0))
    assert not samples["10"]["label"].any()
    opened()
    assert "left out" not in capsys.readouterr().err
    what["annotations"][1]["segmentation"] = []
    write(root / "annotations.json", what)
    opened()
    assert "2 of 18 annotations" in capsys.readouterr().err


def test_files_are_checked_once_and_when_they_change(opened, root, monkeypatch):
    make(root, {"annotations.json": (ALL, PLAIN)}, [PLAIN])
    before = opened()
    reads = []
    read = Folder.read
    monkeypatch.setattr(Folder, "read", lambda self, name: reads.append(name) or read(self, name))
    after = opened()
    assert sorted(reads) == sorted(f"{number}.jpg" for number in ALL), "of a started run, each sample once"
    for split, samples in before.items():
        for name, sample in samples.items():
            np.testing.assert_array_equal(after[split][name]["label"], sample["label"])
    save_photograph(root / "3.jpg", 4)
    reads.clear()
    opened()
    assert len(reads) == 2 * len(ALL)


def test_crowds_are_void_below_all_else_but_not_where_every_mask_is_marked(opened, root, capsys):
    make(root, {"annotations.json": (ALL, PLAIN)}, [PLAIN])
    what = json.loads((root / "annotations.json").read_text())
    for annotation in what["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 1)
    write(root / "annotations.json", what)
    assert all((s["label"] == label(int(name), 255)).all() for some in opened().values() for name, s in some.items())
    assert "as CVAT marks masks" not in capsys.readouterr().err
    for marks in ([{"attributes": {"occluded": False}}], [{"iscrowd": 1}] * len(what["annotations"])):
        for annotation, mark in zip(what["annotations"], marks, strict=False):
            annotation.update(mark)
        write(root / "annotations.json", what)
        found = opened()
        assert all((s["label"] == label(int(name))).all() for some in found.values() for name, s in some.items())
        assert "annotations are marked as crowds, as CVAT marks masks; they are taken" in capsys.readouterr().err
        what["annotations"][0].pop("attributes", None)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("stated", ["upright", "stored", "none", "square"])
def test_annotations_fit_the_photograph_as_they_state(opened, root, capsys, orientation, stated):
    """With EXIF's orientation, against Pillow's own pixels, upright and as stored."""
    rng = np.random.default_rng(0)
    height, width = (24, 24) if stated == "square" else (24, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    root.mkdir()
    pixels = {}
    for number in ALL:
        stored = np.kron(rng.integers(0, 256, (3, width // 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        path = root / f"{number}.png"
        Image.fromarray(stored).save(path, exif=exif)
        pixels[number] = stored
    what = content({number: f"{number}.png" for number in ALL})
    is_turned = orientation >= 5 and stated != "stored"
    size = {"height": width, "width": height} if is_turned else {"height": height, "width": width}
    for image in what["images"]:
        image.update(size if stated != "none" else {"height": None, "width": None})
    for annotation in what["annotations"]:
        annotation["segmentation"] = [box(0, 0, 5, 3)]
    write(root / "annotations.json", what)
    found = opened()
    err = capsys.readouterr().err
    for name, sample in (found["train"] | found["val"]).items():
        assert sample["image"].shape[:2] == sample["label"].shape == tuple(size.values())
        is_stored = stated == "stored" and orientation >= 5
        with Image.open(root / f"{name}.png") as image:
            upright = np.array(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(sample["image"], pixels[int(name)] if is_stored else upright)
        assert sample["label"][:3, :5].all()
        assert np.count_nonzero(sample["label"]) == 15
    assert ("are not turned by EXIF" in err) == (stated == "stored" and orientation >= 5)
    fits_both_ways = orientation > 1 and (orientation < 5 or stated == "square") and stated != "none"
    assert ("fit with EXIF's orientation and without: turned" in err) == fits_both_ways


@pytest.mark.slow
def test_a_folder_from_preparation_to_prediction(cache, root, tmp_path):
    make(root, {"annotations/instances_default.json": (range(1, 13), PLAIN)}, ["images/{}.jpg"])
    tiny = ("--config.model.backbone=resnet14", "--config.model.width=4", "--config.model.kernel_size=3")
    args = ("--config=configs/coco.py", "--config.data.size=64", f"--workdir={tmp_path / 'run'}", *tiny)
    args += (f"--config.cache_dir={cache}",)
    out, err = command_line.run("--mode=prepare", *args, f"--config.data_dir={root}")
    assert re.search(r"images +10 +2\n", out)
    assert re.search(r"dog +250 +50\n", out)
    assert "contact_sheet.png" in err
    short = ("--config.num_steps=2", "--config.batch_size=2", "--config.eval_every=2")
    _, err = command_line.run(*args, *short, f"--config.data_dir={root}")
    assert "training on 10 images of coco/train" in err
    run = ("--mode=predict", f"--input={root / 'images'}", f"--output={tmp_path / 'out'}")
    command_line.run(*args, *run)
    for number in range(1, 13):
        with Image.open(tmp_path / f"out/{number}.png") as image:
            assert (image.mode, image.size) == ("P", (WIDTH, HEIGHT))
            assert np.array(image).max() <= 2
            assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
