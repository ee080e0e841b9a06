"""Annotations of COCO's format as people's tools write them, against other rasterisers and closed forms."""

import json
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy import ndimage

from gcn_jax.config import settings
from gcn_jax.data import coco_file
from gcn_jax.data.outlines import draw
from gcn_jax.data.sources import open_part
from gcn_jax.errors import UserError
from tests.official_data import make_coco

HEIGHT, WIDTH = 30, 40


def box(left, top, right, bottom):
    """A polygon that covers these pixels, right and bottom excluded."""
    return [left, top, right, top, right, bottom, left, bottom]


def drawn(*annotations, height=HEIGHT, width=WIDTH):
    numbered = [{"id": i, "class_id": i, **annotation} for i, annotation in enumerate(annotations, 1)]
    return draw(numbered, height, width, "x.json, image 1")


def runs_of(mask):
    """Plain run lengths, column by column, zeros first."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def test_polygons_fill_what_other_rasterisers_fill():
    rng = np.random.default_rng(0)
    for _ in range(100):
        count = rng.integers(3, 12)
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        radius = rng.uniform(4, 18, count)
        points = np.stack([20 + radius * np.cos(angles), 15 + radius * np.sin(angles)], 1)
        label, left_out = drawn({"segmentation": [points.reshape(-1).tolist()]})
        assert not left_out
        canvas = Image.new("L", (WIDTH, HEIGHT))
        ImageDraw.Draw(canvas).polygon([(x - 0.5, y - 0.5) for x, y in points], fill=1, outline=1)
        pillow = np.array(canvas) > 0
        near = ndimage.binary_dilation(pillow, iterations=2) & ~ndimage.binary_erosion(pillow, iterations=2)
        np.testing.assert_array_equal((label == 1)[~near], pillow[~near])
        library = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([points.reshape(-1).tolist()], HEIGHT, WIDTH)))
        np.testing.assert_array_equal(label, library)


@pytest.mark.parametrize("beyond", [0, 100])
def test_a_rectangle_fills_its_pixels(beyond):
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:30, 10:40] = 1
    polygon = box(10, 5, 40 + beyond, 30 + beyond)
    for outline in ([polygon], polygon, [list(map(str, polygon))], [polygon, [1, 2], [3, 4, 30, 4], []]):
        label, left_out = drawn({"segmentation": outline})
        np.testing.assert_array_equal(label, expected)
        assert not left_out


def test_run_lengths_of_every_kind_fill_their_pixels():
    rng = np.random.default_rng(0)
    for density in (0, 0.01, 0.3, 0.9, 1):
        mask = (rng.random((HEIGHT, WIDTH)) < density).astype(np.uint8)
        packed, runs = coco_mask.encode(np.asfortranarray(mask))["counts"], runs_of(mask)
        size = [HEIGHT, WIDTH]
        for outline in (
            {"size": size, "counts": runs},
            {"size": size, "counts": packed},
            {"size": size, "counts": packed.decode()},
            {"size": [float(HEIGHT), str(WIDTH)], "counts": [float(count) for count in runs]},
            {"counts": runs},
            [{"size": size, "counts": packed.decode()}],
        ):
            label, left_out = drawn({"segmentation": outline})
            np.testing.assert_array_equal(label, mask)
            assert not left_out


def test_parts_are_one_object():
    halves = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    halves[0][:, :7], halves[1][20:] = 1, 1
    label, _ = drawn({"segmentation": [box(0, 0, 7, 30), {"size": [HEIGHT, WIDTH], "counts": runs_of(halves[1])}]})
    np.testing.assert_array_equal(label, halves[0] | halves[1])


ALL = HEIGHT * WIDTH


@pytest.mark.parametrize(
    ("outline", "reason"),
    [
        (None, "no outline"),
        ([], "no outline"),
        ([[]], "no outline"),
        ([[], []], "no outline"),
        ({}, "no outline"),
        ("", "no outline"),
        ([[3, 4]], "a polygon of 1 point"),
        ([[3, 4, 30, 20]], "a polygon of 2 points"),
        ([3, 4, 30, 20], "a polygon of 2 points"),
        ([box(1, 1, 9, 9)[:-1]], "a polygon of 7 numbers, which are no pairs"),
        ([[*box(1, 1, 9, 9), float("nan"), 1]], "a coordinate that is no number"),
        ([[*box(1, 1, 9, 9), None, 1]], "a coordinate that is no number"),
        ([[*box(1, 1, 9, 9), float("inf"), 1]], "a coordinate that is no number"),
        ([[*box(1, 1, 9, 9), 1e300, 1]], r"the coordinate 1e\+300 is far outside the image of 40x30"),
        ([[*box(1, 1, 9, 9), 10**400, 1]], "a polygon that is no list of numbers"),
        ([box(1, 1, 2**31, 9)], r"the coordinate 2\.14748e\+09 is far outside"),
        ([[-399, 0, 399, 0] * 6000], "a polygon that is .* pixels long"),
        ([box(40, 5, 50, 9)], "outside the image of 40x30"),
        ([box(-9, -9, 0, 40)], "outside the image of 40x30"),
        ([[[1, 1], [9, 1], [9, 9]]], "a polygon that is no list of numbers"),
        ([["a", "b"] * 4], "a polygon that is no list of numbers"),
        ("polygon", "a polygon that is no list of numbers"),
        (7, "a polygon that is no list of numbers"),
        ({"size": [30, 40]}, "run lengths that are no"),
        ({"size": [40, 30], "counts": [ALL]}, r"run lengths for the size \[40, 30\], but the image's is \[30, 40\]"),
        ({"size": 1200, "counts": [ALL]}, "run lengths for the size 1200"),
        ({"size": [30, 40], "counts": [ALL - 1]}, "run lengths for 1199 pixels, but the image has 1200"),
        ({"size": [30, 40], "counts": [0, 2**32]}, "run lengths for 4294967296 pixels"),
        ({"size": [30, 40], "counts": [-5, ALL + 5]}, "run lengths that are no whole numbers"),
        ({"size": [30, 40], "counts": [0.5, ALL - 0.5]}, "run lengths that are no whole numbers"),
        ({"size": [30, 40], "counts": ["a"]}, "run lengths that are no numbers"),
        ({"size": [30, 40], "counts": {"a": 1}}, "run lengths that are no numbers"),
        ({"size": [30, 40], "counts": ""}, "run lengths for 0 pixels"),
        ({"size": [30, 40], "counts": "b'PQ1'"}, "damaged run lengths"),
        ({"size": [30, 40], "counts": "o"}, "damaged run lengths"),
        ({"size": [30, 40], "counts": "o" * 999}, "damaged run lengths"),
        ({"size": [30, 40], "counts": "\u00e9"}, "damaged run lengths"),
    ],
)
def test_what_cannot_be_drawn_is_left_out_with_the_reason(outline, reason):
    label, left_out = drawn({"segmentation": box(0, 0, 5, 5)}, {"segmentation": outline})
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:5, :5] = 1
    np.testing.assert_array_equal(label, expected)
    ((identity, found),) = left_out
    assert identity == 2
    assert re.search(reason, found)


@pytest.mark.parametrize("area", ["missing", None, [], "", float("nan"), float("inf"), -1, 0, True, "many"])
def test_without_an_area_the_pixels_count(area):
    small, large = {"segmentation": [box(5, 5, 9, 9)]}, {"segmentation": [box(0, 0, 20, 20)]}
    if area != "missing":
        small["area"] = large["area"] = area
    for annotations in ((small, large), (large, small)):
        label, _ = drawn(*annotations)
        assert label[6, 6] == 1 + annotations.index(small)
    assert drawn({**small, "area": "900"}, {**large, "area": 899.5})[0][6, 6] == 2, "what is stated counts"


@pytest.mark.parametrize(
    ("mark", "is_crowd"),
    [(None, False), (0, False), (1, True), ("0", False), ("1", True), (False, False), (True, True), (1.0, True)],
)
def test_marks_of_crowds(mark, is_crowd):
    label, _ = drawn({"segmentation": [box(0, 0, 9, 9)], "iscrowd": mark})
    assert label[4, 4] == (255 if is_crowd else 1)


def test_ids_of_all_kinds_have_an_order():
    square = {"segmentation": [box(0, 0, 9, 9)], "area": 81}
    annotations = [{**square, "id": identity, "class_id": i} for i, identity in enumerate(["a", 7, None, "7", 9, 7], 1)]
    for some in (annotations, annotations[::-1]):
        assert draw(some, HEIGHT, WIDTH, "x")[0][4, 4] == 1, "texts come last"


# What a file may hold besides its lists.


@pytest.fixture
def official(tmp_path):
    """The content of a small official file, and a function that writes it."""
    make_coco(tmp_path, 2017)
    path = tmp_path / "coco/annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    return content, lambda: path.write_text(json.dumps(content))


@pytest.fixture
def labels(config, tmp_path):
    """A function that reads the labels of `coco_voc/train`, by image."""

    def found():
        config.data_dir = str(tmp_path)
        source = open_part("coco_voc", "train", settings.datasets(config))
        return {source[i]["image_id"]: source[i]["label"] for i in range(len(source))}

    return found


def test_ids_and_sizes_of_other_types_mean_the_same(official, labels, capsys):
    content, write = official
    before = labels()
    for image in content["images"]:
        image.update(id=str(image["id"]), height=float(image["height"]), width=str(image["width"]))
    content["images"][0]["file_name"] = rf"C:\data\train2017\{content['images'][0]['file_name']}"
    content["images"][1]["coco_url"] = "http://images.cocodataset.org/train2017/" + content["images"][1].pop(
        "file_name"
    )
    content["images"][2].update(height=None, width=0, file_name="./" + content["images"][2]["file_name"])
    for annotation in content["annotations"]:
        annotation.update(image_id=float(annotation["image_id"]), category_id=str(annotation["category_id"]))
        if not annotation["iscrowd"]:
            del annotation["iscrowd"]
    content["annotations"] += [{**content["annotations"][0]}]
    content["categories"] += [content["categories"][0], {"id": 99}]
    content["images"] += [dict(content["images"][0])]
    write()
    capsys.readouterr()
    after = labels()
    assert before.keys() == after.keys() == {"000000000007", "000000000009"}
    for name, label in before.items():
        np.testing.assert_array_equal(after[name], label)
    assert "left out" not in capsys.readouterr().err


def test_bad_annotations_are_left_out_and_counted(official, labels, capsys):
    content, write = official
    before = labels()
    square = {"iscrowd": 0, "area": 9, "segmentation": [box(0, 0, 9, 9)]}
    content["annotations"] += [
        {**square, "id": 500, "image_id": 7, "category_id": 1, "segmentation": [[1, 2, 30, 30]]},
        {**square, "id": 501, "image_id": 8, "category_id": 1},
        {**square, "id": 502, "image_id": 7, "category_id": 77},
        {**square, "id": 503, "image_id": 9, "category_id": 1, "segmentation": []},
        {**square, "id": 504, "image_id": 9, "category_id": 52, "segmentation": []},
    ]
    write()
    capsys.readouterr()
    after = labels()
    for name, label in before.items():
        np.testing.assert_array_equal(after[name], label)
    told = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(told) == 1
    assert told[0].endswith(
        "instances_train2017.json: 4 of 9 annotations cannot be drawn and were left out: annotation 501 (the file "
        "lists no image 8), annotation 502 (the file lists no category 77), annotation 500 (a polygon of 2 points), ..."
    )
    labels()
    assert "left out" not in capsys.readouterr().err, "told when the records are written"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"].clear(), "none of its 0 annotations has an outline"),
        (
            lambda c: [a.update(segmentation=[], bbox=[1, 2, 3, 4]) for a in c["annotations"]],
            r"none of its 7 annotations has an outline \(7 have a box\).* export polygons or masks",
        ),
        (
            lambda c: [a.update(segmentation=[[1, 2, 30, 30]]) for a in c["annotations"]],
            r"none of its 5 annotations can be drawn: annotation 100 \(a polygon of 2 points\)",
        ),
        (
            lambda c: [a.update(segmentation=[[0.1, 0.1, 0.9, 0.1, 0.5, 1.0]]) for a in c["annotations"]],
            "its polygons are in fractions of the image's size",
        ),
        (lambda c: c.pop("categories"), r"not a COCO instances file \(KeyError: 'categories'\)"),
        (lambda c: c.update(images={}), r"not a COCO instances file .*'images' is no list of records"),
        (lambda c: c["annotations"].append(5), r"not a COCO instances file .*'annotations' is no list of records"),
        (lambda c: c["images"][1].pop("id"), r"not a COCO instances file \(image 2 has the id None\)"),
        (lambda c: c["images"][1].update(id=7), r"000000000007\.jpg and 000000000009\.jpg have the same id, 7"),
        (lambda c: c["images"][1].pop("file_name"), "image 9 has no file_name"),
        (lambda c: c["categories"][1].update(id=1), "person and airplane have the same id, 1"),
        (lambda c: c["images"][0].update(height=2**16, width=2**16), "65536x65536 pixels are more than the limit"),
        (lambda c: c["images"][0].update(height=41), "the mask is 60x41 pixels but the image is 60x40"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_line(official, labels, change, message):
    content, write = official
    change(content)
    write()
    with pytest.raises(UserError, match=rf"instances_train2017\.json.*{message}") as error:
        labels()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"null", b'{"images": ', b"\xff\xfe\x00", b"[" * 100_000])
def test_other_files_are_refused(content):
    with pytest.raises(UserError, match=r"^x\.json: not a COCO instances file"):
        coco_file.read(content, "x.json")
