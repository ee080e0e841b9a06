"""What label tools export, in the form that each writes: the table of docs/data.md, line by line."""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.data.sources import open_sources
from gcn_jax.data.specs import voc_colors
from gcn_jax.errors import UserError
from tests.coco_data import HEIGHT, WIDTH, content, label, photograph, save_photograph, write

NUMBERS = range(1, 11)
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "data.md"


def packed(mask):
    """A mask as COCO packs it."""
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}


def plain(mask):
    """The same as plain run lengths."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.reshape(-1).astype(int)]))).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, mask.size]).tolist()}


def photographs(root, form):
    for number in NUMBERS:
        save_photograph(root / form.format(number), number)


def save(path, array, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(np.uint8(palette).tobytes())
    image.save(path)


def cvat_masks(root):
    """Segmentation mask 1.1, with its images. The background stands where CVAT's sorting puts it."""
    (root / "labelmap.txt").parent.mkdir(parents=True)
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:48,112,32::\ndog:200,40,99::\n"
    )
    names = "\n".join(map(str, NUMBERS))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text(f"{names}\n")
    colors = np.uint8([(0, 0, 0), (48, 112, 32), (200, 40, 99)])
    for number in NUMBERS:
        save(root / f"SegmentationClass/{number}.png", colors[label(number)])
        save(root / f"SegmentationObject/{number}.png", np.uint8([(0, 0, 0), (128, 0, 0), (0, 128, 0)])[label(number)])
    photographs(root, "JPEGImages/{}.jpg")


def cvat_coco(root):
    """COCO 1.0 of polygons and of brushed masks, which CVAT marks as crowds."""
    what = content({number: f"{number}.jpg" for number in NUMBERS})
    for image in what["images"]:
        image |= {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    for annotation in what["annotations"]:
        annotation["attributes"] = {"occluded": False}
        if annotation["image_id"] % 2:
            number = NUMBERS[annotation["image_id"] - 1]
            annotation["segmentation"] = plain(label(number, 1, 3) & annotation["category_id"] > 0)
            annotation["iscrowd"] = 1
    write(root / "annotations/instances_default.json", {"licenses": [{"name": "", "id": 0, "url": ""}], **what})
    photographs(root, "images/default/{}.jpg")


def labelme_voc(root):
    """labelme2voc: palette PNGs, beside them arrays and pictures."""
    photographs(root, "JPEGImages/{}.jpg")
    for number in NUMBERS:
        save(root / f"SegmentationClassPNG/{number}.png", label(number), list(voc_colors()))
        save_photograph(root / f"SegmentationClassVisualization/{number}.jpg", number)
        path = root / f"SegmentationClass/{number}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, label(number).astype(np.int32))
    (root / "class_names.txt").write_text("_background_\ncat\ndog")


def labelme_coco(root):
    """labelme2coco: ids from 0, of which 0 is the background, and a line that was drawn by mistake."""
    categories = [{"supercategory": None, "id": i, "name": n} for i, n in enumerate(("_background_", "cat", "dog"))]
    what = content({number: f"JPEGImages/{number}.jpg" for number in NUMBERS}, categories[1:], first_id=0)
    what["annotations"].append({**what["annotations"][0], "id": 20, "segmentation": [[3.0, 3.0, 20.0, 20.0]]})
    write(root / "annotations.json", {"type": "instances", **what, "categories": categories})
    photographs(root, "JPEGImages/{}.jpg")
    photographs(root, "Visualization/{}.jpg")


def label_studio_coco(root):
    """COCO of polygons: ids from 0; a rectangle is a box without an outline."""
    names = {number: f"images/{number:08x}-{number}.jpg" for number in NUMBERS}
    what = content(names, [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], first_id=0)
    for annotation in what["annotations"]:
        annotation["ignore"] = 0
    rectangle = {"segmentation": [], "bbox": [1, 1, 5, 5], "area": 25, "id": 20}
    what["annotations"].append({**what["annotations"][0], **rectangle})
    write(root / "result.json", {**what, "info": {"contributor": "Label Studio"}})
    for number in NUMBERS:
        save_photograph(root / names[number], number)


def label_studio_png(root):
    """A mask for each label of each annotation; the photographs are the user's own."""
    for number in NUMBERS:
        for value, tag in ((1, "cat"), (2, "dog")):
            name = f"task-{number}-annotation-{number + 3}-by-1-tag-{tag}-0.png"
            save(root / name, np.uint8(label(number) == value) * 255)


def roboflow_masks(root):
    """Semantic Segmentation Masks."""
    for split, numbers in (("train", NUMBERS[:7]), ("valid", NUMBERS[7:]), ("test", NUMBERS[:1])):
        for number in numbers:
            save_photograph(root / f"{split}/{number}_jpg.rf.0f{number}.jpg", number)
            save(root / f"{split}/{number}_jpg.rf.0f{number}_mask.png", label(number))
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n2, dog")
    (root / "README.roboflow.txt").write_text("pets - v1")


def roboflow_coco(root):
    """COCO Segmentation: id 0 is the project's name, here that of a class, and no object is of it."""
    categories = [{"id": 1, "name": "cat", "supercategory": "cat"}, {"id": 2, "name": "dog", "supercategory": "cat"}]
    for split, numbers in (("train", NUMBERS[:7]), ("valid", NUMBERS[7:]), ("test", NUMBERS[:1])):
        names = {number: f"{number}_jpg.rf.0f{number}.jpg" for number in numbers}
        what = content(names, categories, first_id=0)
        what["categories"] = [{"id": 0, "name": "cat", "supercategory": "none"}, *categories]
        write(root / split / "_annotations.coco.json", what)
        for number in numbers:
            save_photograph(root / split / names[number], number)


def via_coco(root):
    """VIA 2: the area is that of the box; a point has neither area nor outline."""
    what = content({number: f"{number}.jpg" for number in NUMBERS})
    for annotation in what["annotations"]:
        x, y = np.reshape(annotation["segmentation"], (-1, 2)).T.tolist()
        annotation["area"] = (max(x) - min(x)) * (max(y) - min(y))
    for category in what["categories"]:
        category["supercategory"] = "animal"
    point = {"segmentation": [[]], "area": [], "bbox": [], "iscrowd": 0, "keypoints": [3, 4, 2], "num_keypoints": 1}
    what["annotations"].append({**point, "id": 21, "image_id": 1, "category_id": 1})
    write(root / "via_export_coco.json", {"info": {}, "licenses": [], **what})
    write(root / "via_project_28Nov2026.json", {"_via_settings": {}, "_via_img_metadata": {}})
    photographs(root, "{}.jpg")


def supervisely_masks(root):
    """Export as masks: the classes from 1 on as grey RGB; the background has no name."""
    write(root / "obj_class_to_machine_color.json", {"cat": [1, 1, 1], "dog": [2, 2, 2]})
    write(root / "meta.json", {"classes": []})
    for number in NUMBERS:
        grey = np.repeat(label(number)[..., None], 3, 2)
        save(root / f"ds0/masks_machine/{number}.png", grey)
        save(root / f"ds0/masks_human/{number}.png", np.hstack([photograph(number), grey * 99]))
        write(root / f"ds0/ann/{number}.jpg.json", {})
    photographs(root, "ds0/img/{}.jpg")


def supervisely_coco(root):
    """Export to COCO, of one data set."""
    write(root / "annotations/instances.json", content({number: f"{number}.jpg" for number in NUMBERS}))
    photographs(root, "images/{}.jpg")


def segments_coco(root):
    """coco-instance: packed run lengths; the photographs lie in folders below, bitmaps beside them."""
    what = content({number: f"{number}.png" for number in NUMBERS})
    for annotation in what["annotations"]:
        number = NUMBERS[annotation["image_id"] - 1]
        annotation["segmentation"] = packed(label(number) == annotation["category_id"])
    write(root / "export_coco-instance_me_pets_v0.1.json", what)
    for number in NUMBERS:
        save(root / f"segments/me_pets/v0.1/{number}.png", photograph(number))
        save(root / f"segments/me_pets/v0.1/{number}_label_ground-truth.png", label(number))


def segments_bitmaps(root):
    """The semantic bitmaps beside the photographs."""
    for number in NUMBERS:
        save_photograph(root / f"segments/me_pets/v0.1/{number}.jpg", number)
        save(root / f"segments/me_pets/v0.1/{number}_label_ground-truth.png", label(number))
        save(root / f"segments/me_pets/v0.1/{number}_label_ground-truth_semantic.png", label(number))


# Tool and export, as the table has them: the config, and what writes it.
READ = {
    ("CVAT", "Segmentation mask 1.1"): ("folder", cvat_masks),
    ("CVAT", "COCO 1.0"): ("coco", cvat_coco),
    ("labelme", "labelme2voc"): ("folder", labelme_voc),
    ("labelme", "labelme2coco"): ("coco", labelme_coco),
    ("Label Studio", "COCO"): ("coco", label_studio_coco),
    ("Roboflow", "Semantic Segmentation Masks"): ("folder", roboflow_masks),
    ("Roboflow", "COCO Segmentation"): ("coco", roboflow_coco),
    ("VIA", "COCO"): ("coco", via_coco),
    ("Supervisely", "masks"): ("folder", supervisely_masks),
    ("Supervisely", "COCO"): ("coco", supervisely_coco),
    ("Segments.ai", "coco-instance"): ("coco", segments_coco),
}
NOT_READ = {
    ("Label Studio", "PNG"): label_studio_png,
    ("Segments.ai", "semantic bitmaps"): segments_bitmaps,
}


def opened(config, root, name):
    config.data_dir = str(root)
    config.data.update(train=f"{name}/train", eval=f"{name}/val", classes=())
    config_lib.validate(config)
    return open_sources(settings.datasets(config))


@pytest.mark.parametrize("export", READ, ids=" ".join)
def test_an_export_is_read_as_it_is(config, tmp_path, export):
    name, make = READ[export]
    make(tmp_path / "export")
    sources = opened(config, tmp_path / "export", name)
    names = [name.lower().strip("_") for name in settings.spec_from(config).class_names]
    assert names == ["background", "cat", "dog"]
    seen = []
    for source in sources:
        for i in range(len(source)):
            number = round((source[i]["image"][..., 0].mean()) / 8)
            np.testing.assert_array_equal(source[i]["label"], label(number))
            seen.append(number)
    assert sorted(seen) == list(NUMBERS)
    assert len(sources[1]) in (2, 3)


@pytest.mark.parametrize("export", NOT_READ, ids=" ".join)
@pytest.mark.parametrize("name", ["folder", "coco"])
def test_an_export_that_is_not_read_is_refused(config, tmp_path, export, name):
    NOT_READ[export](tmp_path / "export")
    with pytest.raises(UserError, match=r"config\.data_dir=.*export: holds no"):
        opened(config, tmp_path / "export", name)


def test_the_table_names_these_exports_and_their_configs():
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (?!tool|---)(.+?) \| (.+?) \| (.+) \|$",
        text.partition("## What label tools export")[2].partition("\n## ")[0],
        re.M,
    )
    assert {row[:2] for row in rows} == READ.keys() | NOT_READ.keys()
    for tool, export, what in rows:
        expected = READ.get((tool, export), ("",))[0]
        assert re.findall(r"`configs/(\w+)\.py`", what)[:1] == ([expected] if expected else []), (tool, export)
