"""Folders as people and tools lay them out: names, lists, lists of classes, splits, photographs that EXIF turns."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.data.class_files import canonical_lines
from gcn_jax.data.sources import open_sources
from gcn_jax.data.texts import read_lines
from gcn_jax.errors import UserError

NAMES = [f"im{i}" for i in range(10)]


def label_of(i, height=6, width=8):
    """Labels of classes 0-2, of each image its own."""
    return np.random.default_rng(i).integers(0, 3, (height, width)).astype(np.uint8)


def write(root, image="images/{}.jpg", mask="masks/{}.png", names=NAMES):
    """A folder of images and grey masks; the forms say where each lies."""
    for i, name in enumerate(names):
        for path, picture in (
            (root / image.format(name), Image.fromarray(np.full((6, 8, 3), 20 * i, np.uint8))),
            (root / mask.format(name), Image.fromarray(label_of(i))),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return root


@pytest.fixture
def opened(config, tmp_path):
    """Opens the folder tmp_path, as a run does; returns ids -> samples of both splits."""

    def open_both(**data):
        config.data_dir = str(tmp_path)
        config.data.update(train="folder/train", eval="folder/val", classes=(), **data)
        config_lib.validate(config)
        sources = open_sources(settings.datasets(config))
        return tuple({s["image_id"]: s for s in (source[i] for i in range(len(source)))} for source in sources)

    return open_both


def check(found, ids=NAMES, indices=range(10)):
    assert sorted(found) == sorted(ids)
    for name, i in zip(ids, indices, strict=True):
        np.testing.assert_array_equal(found[name]["label"], label_of(i))
        assert abs(int(found[name]["image"].mean()) - 20 * i) <= 1, "its image"


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.JPG", "masks/{}.PNG"),
        ("JPEGImages/{}.jpg", "SegmentationClassPNG/{}.png"),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
        *(("images/{}.jpg", f"masks/{{}}{end}.png") for end in ("_mask", "_label", "_labelIds", "_L")),
        ("images/{}.jpg", "images/{}_mask.png"),
        ("{}.jpg", "{}_label.png"),
    ],
)
def test_forms_of_folders(opened, tmp_path, image, mask):
    write(tmp_path, image, mask)
    train, val = opened()
    prefix = "images/" if mask.startswith("images/") else ""
    check(train | val, [prefix + name for name in NAMES])
    assert (len(train), len(val)) == (8, 2)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{split}/images/{{}}.jpg", "{split}/masks/{{}}.png"),
        ("images/{split}/{{}}.jpg", "masks/{split}/{{}}.png"),
        ("{split}/{{}}.jpg", "{split}/{{}}_mask.png"),
        ("images/{split}/{{}}.jpg", "annotations/{split}/{{}}.png"),
    ],
)
@pytest.mark.parametrize(
    "splits", [("train", "val", "test"), ("training", "validation", "Test"), ("train", "valid", "")]
)
def test_folders_that_are_splits(opened, tmp_path, image, mask, splits):
    for split, names in zip(splits, (NAMES[:5], NAMES[:3], NAMES[:1]), strict=True):
        if split:
            write(tmp_path, image.format(split=split), mask.format(split=split), names)
    train, val = opened()
    check(train, [f"{splits[0]}/{name}" for name in NAMES[:5]], range(5))
    check(val, [f"{splits[1]}/{name}" for name in NAMES[:3]], range(3))


def test_what_is_no_image_is_passed_over(opened, tmp_path):
    write(tmp_path)
    for junk in (".ipynb_checkpoints/im0.jpg", "@eaDir/im1.jpg", "._im2.jpg", "Thumbs.db", ".DS_Store", "notes.txt"):
        path = tmp_path / "images" / junk
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"junk")
    (tmp_path / "__MACOSX/images").mkdir(parents=True)
    (tmp_path / "__MACOSX/images/._im0.jpg").write_bytes(b"junk")
    train, val = opened()
    check(train | val)


def test_names_of_any_bytes(opened, tmp_path):
    write(tmp_path)
    strange = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    (tmp_path / "images/im0.jpg").rename(tmp_path / "images" / strange)
    (tmp_path / "masks/im0.png").rename(tmp_path / "masks" / strange.replace("jpg", "png"))
    for form, part, old in (("NFC", "images", "im1.jpg"), ("NFD", "masks", "im1.png")):
        name = unicodedata.normalize(form, "straße_é")
        (tmp_path / part / old).rename(tmp_path / part / f"{name}{old[3:]}")
    (tmp_path / "val.txt").write_bytes(b"images/caf\xe9.jpg\n" + unicodedata.normalize("NFD", "straße_é").encode())
    train, val = opened()
    check(val, [r"caf\xe9", "straße_é"], [0, 1])
    check(train, NAMES[2:], range(2, 10))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_texts_in_any_encoding(opened, tmp_path, encoding, end):
    write(tmp_path)
    (tmp_path / "classes.txt").write_bytes(end.join(["hintergrund", "straße", "道路", ""]).encode(encoding))
    (tmp_path / "train.txt").write_bytes(end.join(NAMES[:7]).encode(encoding))
    train, val = opened()
    check(train, NAMES[:7], range(7))
    check(val, NAMES[7:], range(7, 10))
    lines = canonical_lines((tmp_path / "classes.txt").read_bytes(), "classes.txt")
    assert lines == ("hintergrund", "straße", "道路")


def test_another_encoding_is_named():
    with pytest.raises(UserError, match=r"classes\.txt, line 2: not UTF-8 text; save the file as UTF-8"):
        read_lines("a\nstraße\n".encode("latin-1"), "classes.txt")


ROAD = ("sky 0 128 255", "road 10 20 30", "void 1 1 1")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("# label:color_rgb:parts:actions\nsky:0,128,255::\nroad:10,20,30::\nvoid:1,1,1::\n", ROAD),
        ("sky:0,128,255:head,tail:run\nroad:::\n", ("sky 0 128 255", "road")),
        ("name,r,g,b\nsky,0,128,255\nroad,10,20,30\nVoid,1,1,1\n", ROAD),
        ("name, red, green, blue\nsky, 0, 128, 255\nroad, 10, 20, 30\nvoid, 1, 1, 1\n", ROAD),
        ("r g b name\n0 128 255 sky\n10 20 30 road\n1 1 1 Void\n", ROAD),
        ("0 128 255\tsky\n10 20 30\troad\n1 1 1\tVoid\n", ROAD),
        ("0 128 255 \t\tsky\n10,20,30,road\n1 1 1 VOID\n", ROAD),
        ("Pixel Value, Class\n0, sky\n1, road\n", ("sky", "road")),
        ("0: sky\n1: traffic light\n", ("sky", "traffic light")),
        ("0 sky\n1 road\n255 void\n", ("sky", "road", "void 255")),
        ("__ignore__\n_background_\ncat\n", ("void", "_background_", "cat")),
        ("class 0\nclass 1\n2-wheeler\n3D box (far)\n", ("class 0", "class 1", "2-wheeler", "3D box (far)")),
        ("void 11\nvoid 12 1 1 1\nsky\n", ("void 11", "void 12 1 1 1", "sky")),
    ],
)
def test_forms_of_lists_of_classes(text, lines):
    assert canonical_lines(text.encode(), "classes.txt") == lines


@pytest.mark.parametrize(
    "line",
    ["cat:48 112 32", "cat;1;2;3", "cat,1,2", "cat 1 2", "cat,dog", "a，1，2，3", "cat|1", "12", "1 2 3 4 5 cat"],
)
def test_a_line_in_no_form_is_named(line):
    with pytest.raises(UserError, match=r"c\.txt, line 3: .* is in none of the forms of a class: NAME, NAME R G B"):
        canonical_lines(f"sky\n\n{line}\n".encode(), "c.txt")


def test_ids_out_of_order_are_named():
    with pytest.raises(UserError, match=r"c\.txt, line 1: 'cat' has the id 1, but is in place 0: .*first_id=1"):
        canonical_lines(b"1 cat\n2 dog\n", "c.txt")


@pytest.mark.parametrize("name", ["labelmap.txt", "class_dict.csv", "label_colors.txt", "_classes.csv"])
def test_a_list_of_classes_under_its_own_name(opened, config, tmp_path, name):
    write(tmp_path)
    (tmp_path / name).write_text("sky,7,7,7\nroad,8,8,8\ncar,9,9,9\n")
    opened()
    assert settings.spec_from(config).class_names == ["sky", "road", "car"]


def test_a_table_of_machine_colors(opened, config, tmp_path):
    write(tmp_path, "ds0/img/{}.jpg", "ds0/masks_machine/{}.png")
    (tmp_path / "obj_class_to_machine_color.json").write_text('{"dog": [2, 2, 2], "cat": [1, 1, 1]}')
    train, val = opened()
    check(train | val, [f"ds0/{name}" for name in NAMES])
    assert settings.spec_from(config).class_names == ["background", "cat", "dog"]


@pytest.mark.parametrize(
    "line",
    [
        "im3", "im3.jpg", "images/im3.jpg", "./images/im3.jpg", r".\images\im3.jpg", "/home/me/data/images/im3.jpg",
        r"C:\data\images\im3.jpg", "images/im3.jpg masks/im3.png", "/images/im3.jpg /masks/im3.png",
        "images/im3.jpg,masks/im3.png", "images/im3.jpg\tmasks/im3.png", "  im3  ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["{}.txt", "ImageSets/Segmentation/{}.txt"])
def test_forms_of_lines_in_lists(opened, tmp_path, line, form):
    write(tmp_path)
    path = tmp_path / form.format("val")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"im1\n\n{line}\n")
    train, val = opened()
    check(val, ["im1", "im3"], [1, 3])
    assert len(train) == 8


def test_a_list_that_pairs_other_files_is_named(opened, tmp_path):
    write(tmp_path)
    (tmp_path / "val.txt").write_text("images/im3.jpg masks/im4.png\n")
    with pytest.raises(UserError, match=r"val\.txt, line 1: 'masks/im4\.png' is not the mask of 'images/im3\.jpg'"):
        opened()


def test_names_with_spaces_in_lists(opened, tmp_path):
    names = [f"my photo {i}" for i in range(10)]
    write(tmp_path, names=names)
    (tmp_path / "val.txt").write_text("my photo 1\nimages/my photo 2.jpg\n")
    check(opened()[1], ["my photo 1", "my photo 2"], [1, 2])


def test_endings_that_differ_are_named(opened, tmp_path):
    write(tmp_path, mask="masks/{}_mask.png")
    (tmp_path / "masks/im4_mask.png").rename(tmp_path / "masks/im4_label.png")
    with pytest.raises(UserError, match=r"has no mask|has no image"):
        opened()


def test_masks_of_one_class_are_refused_and_missing_classes_named(opened, tmp_path, capsys):
    write(tmp_path)
    for i in range(10):
        Image.fromarray(np.where(label_of(i) == 1, 255, 0).astype(np.uint8)).save(tmp_path / f"masks/im{i}.png")
    (tmp_path / "classes.txt").write_text("background\nperson\n")
    with pytest.raises(UserError, match=r"hold background and void alone; 255 is .* 'person 255 255 255'"):
        opened()
    (tmp_path / "classes.txt").write_text("background 0 0 0\nperson 255 255 255\n")
    train, _ = opened()
    np.testing.assert_array_equal(train["im0"]["label"], label_of(0) == 1)
    write(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nzebra crossing\nlamp\n")
    capsys.readouterr()
    for _ in range(2):
        opened()
        told = capsys.readouterr().err
        for where in ("config.data.train='folder/train'", "config.data.eval='folder/val'"):
            assert f"warning: {where}: the masks hold no pixel of zebra crossing, lamp" in told


def turned(path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    with Image.open(path) as image:
        image.load()
        image.save(path, exif=exif, quality=95)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_masks_of_photographs_that_exif_turns(opened, tmp_path, capsys, orientation, kind):
    """A mask may be drawn on the photograph as it is stored, or upright."""
    write(tmp_path, f"images/{{}}.{kind}")
    stored = np.zeros((32, 48, 3), np.uint8)  # of squares that JPEG keeps
    stored[:16, :16], stored[16:, 16:] = (250, 0, 0), (0, 250, 0)
    path = tmp_path / f"images/im0.{kind}"
    Image.fromarray(stored).save(path)
    turned(path, orientation)
    with Image.open(path) as image:
        upright = np.asarray(image.convert("RGB") if kind == "tif" else _by_pillow(image))
    for pixels in (stored, upright):
        mask = (pixels[..., 1] > 125).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks/im0.png")
        if orientation < 5 and pixels is stored and orientation > 1:
            continue  # it fits both ways
        train, val = opened()
        sample = (train | val)["im0"]
        np.testing.assert_array_equal(sample["label"], sample["image"][..., 1] > 125)
    told = capsys.readouterr().err
    assert ("masks fit only as stored" in told) == (orientation >= 5)
    assert ("masks of 1 photographs fit with EXIF's orientation and without" in told) == (1 < orientation < 5)
    if 1 < orientation < 5:
        ignored = opened(exif="ignore")
        difference = (ignored[0] | ignored[1])["im0"]["image"].astype(int) - stored
        assert np.abs(difference).mean() < 8, "JPEG's own error is about 2"


def _by_pillow(image):
    from PIL import ImageOps

    return ImageOps.exif_transpose(image).convert("RGB")
