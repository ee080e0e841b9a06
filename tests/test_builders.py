"""Every data set from its official files, unpacked and archived, against independent readings."""

import hashlib
import http.server
import pathlib
import shutil
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import scipy.io
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from PIL import Image
from pycocotools.coco import COCO

from gcn_jax.config import settings
from gcn_jax.data import records
from gcn_jax.data.builders.archives import Folder, is_junk, open_archive
from gcn_jax.data.builders.official import download
from gcn_jax.data.masks import encode_label
from gcn_jax.data.outlines import draw
from gcn_jax.data.sources import BUILDERS, open_part, open_source, open_sources
from gcn_jax.data.specs import CITYSCAPES, CITYSCAPES_TRAIN_IDS, VOC
from gcn_jax.errors import UserError
from tests.official_data import (
    SBD_ROOT,
    VOC_ROOT,
    make_cityscapes,
    make_coco,
    make_sbd,
    make_voc,
    pack,
    zip_of,
)

TRAINAUG = "voc_segmentation/train+sbd/train+sbd/val-voc_segmentation/val"


def read(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> pathlib.Path:
    """Small official folders of all data sets; not to be changed."""
    folder = tmp_path_factory.mktemp("official")
    make_voc(folder)
    make_sbd(folder)
    make_coco(folder, 2017)
    make_cityscapes(folder)
    return folder


@pytest.fixture
def data(official, tmp_path) -> pathlib.Path:
    """A copy of them."""
    return shutil.copytree(official, tmp_path / "data")


def samples(config, name, data_dir):
    config.data_dir = str(data_dir)
    source = open_part(*name.split("/"), settings.datasets(config))
    found = {sample["image_id"]: sample for sample in (source[i] for i in range(len(source)))}
    assert list(found) == list(source.image_ids)
    counts = sum(np.bincount(sample["label"].reshape(-1), minlength=256) for sample in found.values())
    np.testing.assert_array_equal(source.pixels(), counts)
    held = [np.bincount(sample["label"].reshape(-1), minlength=256) > 0 for sample in found.values()]
    np.testing.assert_array_equal(source.class_presence(), held)
    return found


def coco_label(annotations, image_id):
    """By the official class, one instance at a time."""
    table = {"airplane": 1, "dining table": 11, "motorcycle": 14, "potted plant": 16, "couch": 18, "tv": 20}
    instances = annotations.loadAnns(annotations.getAnnIds([image_id]))
    info = annotations.imgs[image_id]
    best = np.full((info["height"], info["width"]), np.inf)
    label = np.zeros((info["height"], info["width"]), np.uint8)
    for instance in instances:
        name = annotations.cats[instance["category_id"]]["name"]
        value = table.get(name, VOC.class_names.index(name) if name in VOC.class_names else None)
        if value is None:
            continue
        inside = annotations.annToMask(instance) > 0
        if instance["iscrowd"]:
            label[inside & np.isinf(best)] = 255
        else:
            smaller = inside & (instance["area"] < best)
            best[smaller], label[smaller] = instance["area"], value
    return label


def expected(name, root):
    """Image id -> image and label, read without our code."""
    data_set, split = name.split("/")
    if data_set == "voc_segmentation":
        root = root / VOC_ROOT
        ids = (root / f"ImageSets/Segmentation/{split}.txt").read_text().split()
        pairs = {i: (read(root / f"JPEGImages/{i}.jpg"), root / f"SegmentationClass/{i}.png") for i in ids}
        return {i: (im, np.full(im.shape[:2], 255) if split == "test" else read(p)) for i, (im, p) in pairs.items()}
    if data_set == "sbd":
        root = root / SBD_ROOT
        ids = (root / f"{split}.txt").read_text().split()
        mats = {i: scipy.io.loadmat(root / f"cls/{i}.mat", mat_dtype=True)["GTcls"][0]["Segmentation"][0] for i in ids}
        return {i: (read(root / f"img/{i}.jpg"), mats[i]) for i in ids}
    if data_set == "coco_voc":
        folder = next((root / "coco").glob(f"{split}20*"))
        annotations = COCO(root / f"coco/annotations/instances_{folder.name}.json")
        found = {}
        for i, info in annotations.imgs.items():
            names = {
                annotations.cats[a["category_id"]]["name"] for a in annotations.loadAnns(annotations.getAnnIds([i]))
            }
            renamed = {"airplane", "dining table", "motorcycle", "potted plant", "couch", "tv"}
            if names & (set(VOC.class_names) | renamed):
                with Image.open(folder / info["file_name"]) as image:
                    found[f"{i:012d}"] = np.array(image.convert("RGB")), coco_label(annotations, i)
        return found
    table = np.full(256, 255)
    for entry in cityscapes_labels:
        if entry.id >= 0:
            table[entry.id] = entry.trainId if 0 <= entry.trainId < 19 else 255
    kind = "gtCoarse" if split == "train_extra" else "gtFine"
    found = {}
    for path in sorted((root / f"cityscapes/leftImg8bit/{split}").rglob("*_leftImg8bit.png")):
        mask = (
            root
            / f"cityscapes/{kind}/{split}"
            / path.parent.name
            / path.name.replace("leftImg8bit", f"{kind}_labelIds")
        )
        label = table[read(mask)] if split != "test" else np.full((32, 64), 255)
        found[path.name.removesuffix("_leftImg8bit.png")] = read(path), label
    return found


def check_same(found, wanted):
    assert found.keys() == wanted.keys()
    for image_id, sample in found.items():
        np.testing.assert_array_equal(sample["image"], wanted[image_id][0])
        np.testing.assert_array_equal(sample["label"], wanted[image_id][1])
        assert sample["label"].dtype == np.uint8


ALL = [
    "voc_segmentation/train", "voc_segmentation/val", "voc_segmentation/trainval", "voc_segmentation/test",
    "sbd/train", "sbd/val", "coco_voc/train",
    "cityscapes/train", "cityscapes/val", "cityscapes/test", "cityscapes/train_extra",
]  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_records_equal_an_independent_reading(config, official, name):
    wanted = expected(name, official)
    assert len(wanted) > 0
    check_same(samples(config, name, official), wanted)


def test_archives_give_the_same_records(config, official, tmp_path):
    pack(official, tmp_path / "archives")
    for name in ALL:
        check_same(samples(config, name, tmp_path / "archives"), expected(name, official))
    left = list((pathlib.Path(config.cache_dir) / "scratch").iterdir())
    assert not left, "the decompressed benchmark.tgz must be gone"


JUNK = (
    "._{}", "Thumbs.db", ".DS_Store", "desktop.ini", ".ipynb_checkpoints/{}", "@eaDir/{}", "__MACOSX/._{}",
    "#recycle/{}", "$RECYCLE.BIN/{}", "System Volume Information/{}", ".{}.swp", ".hidden/{}",
)  # fmt: skip


def scatter_junk(root):
    """Beside every file what systems and tools leave there."""
    for path in [path for path in root.rglob("*") if path.is_file()]:
        for name in JUNK:
            junk = path.parent / name.format(path.name)
            junk.parent.mkdir(exist_ok=True)
            junk.write_bytes(b"junk")


def test_junk_is_no_data(config, official, data, tmp_path):
    scatter_junk(data)
    pack(data, tmp_path / "archives")
    for path in (tmp_path / "archives").glob("*.zip"):
        with zipfile.ZipFile(path, "a") as archive:
            for name in ("__MACOSX/._leftImg8bit", "._leftImg8bit", ".DS_Store"):
                archive.writestr(name, "junk")
    for name in ("cityscapes/train", "cityscapes/test", "voc_segmentation/val"):
        for folder in (data, tmp_path / "archives"):
            check_same(samples(config, name, folder), expected(name, official))


def test_names_without_junk(tmp_path):
    root = tmp_path / ".cache" / "@eaDir"  # above the root names mean nothing
    for name in ("a/b.jpg", "a/c.d/e.png", "Thumbs.db.png", "a/__MACOSX.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    names = Folder(root).names("")
    assert len(names) == 4
    zip_of(tmp_path / "clean.zip", (root, "top"))
    scatter_junk(root)
    zip_of(tmp_path / "x.zip", (root, "top"), (root, "__MACOSX"))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(root, "./top")
    assert Folder(root).names("") == names
    assert Folder(root).names("a") == [name for name in names if name.startswith("a/")]
    for suffix in ("zip", "tar"):
        files = open_archive(tmp_path / f"x.{suffix}", "top", tmp_path)
        assert files.names("") == names
        assert files.names("a") == [name for name in names if name.startswith("a/")]
    assert is_junk("a/THUMBS.DB")
    assert not is_junk("../a/b.jpg")


def test_coco_2014_is_read_where_2017_is_not(config, tmp_path):
    make_coco(tmp_path / "data", 2014)
    check_same(samples(config, "coco_voc/train", tmp_path / "data"), expected("coco_voc/train", tmp_path / "data"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("voc_segmentation/train", 437),
        ("voc_segmentation/val", 149),
        ("sbd/train", 70),
        ("sbd/val", 30),
        ("coco_voc/train", None),
        ("cityscapes/train", 4),
        ("cityscapes/val", 2),
    ],
)
def test_real_records_equal_an_independent_reading(config, real_data, name, count):
    wanted = expected(name, real_data)
    assert len(wanted) == (count or len(wanted))
    check_same(samples(config, name, real_data), wanted)


def test_smaller_instances_lie_on_top_and_crowds_below():
    def box(i, area, left, is_crowd=0, class_id=1):
        outline = [[left, 0, left + 4, 0, left + 4, 4, left, 4]]
        return {"id": i, "area": area, "iscrowd": is_crowd, "class_id": class_id, "segmentation": outline}

    small, large, crowd = box(1, 5, 2, class_id=3), box(2, 9, 0, class_id=4), box(3, 1, 4, is_crowd=1)
    for instances in ([small, large, crowd], [crowd, large, small]):
        label, left_out = draw(instances, 4, 10, "x")
        assert (label[1].tolist(), left_out) == ([4, 4, 3, 3, 3, 3, 255, 255, 0, 0], [])


def test_class_tables_are_the_official_ones():
    official = {label.id: label for label in cityscapes_labels if 0 <= label.trainId < 19}
    for raw_id, label in official.items():
        assert CITYSCAPES_TRAIN_IDS[raw_id] == label.trainId
        assert CITYSCAPES.classes[label.trainId].name == label.name
        assert CITYSCAPES.classes[label.trainId].color == label.color
    assert (CITYSCAPES_TRAIN_IDS != 255).sum() == len(official) == CITYSCAPES.num_classes
    assert all(b.SPEC.num_classes < 254 and b.LICENSE and b.CITATION for b in BUILDERS.values())


def test_trainaug_prefers_voc_and_leaves_its_val_out(config, official):
    config.data_dir = str(official)
    config.data.update(train=TRAINAUG, eval="voc_segmentation/val")
    train, evaluation = open_sources(settings.datasets(config))
    voc, sbd = expected("voc_segmentation/train", official), expected("sbd/train", official)
    assert sorted(train.image_ids) == sorted({*voc, "2008_a", "2008_b"})
    assert not set(train.image_ids) & set(evaluation.image_ids)
    labels = {train[i]["image_id"]: train[i]["label"] for i in range(len(train))}
    np.testing.assert_array_equal(labels["2007_train1"], voc["2007_train1"][1])
    np.testing.assert_array_equal(labels["2008_a"], sbd["2008_a"][1])


def test_an_evaluation_image_in_the_training_data_is_an_error(config, official):
    config.data_dir = str(official)
    for evaluation, minus in (
        ("voc_segmentation/val", "-voc_segmentation/val"),
        ("sbd/val+sbd/train", "-sbd/val-sbd/train"),
    ):
        config.data.update(train="voc_segmentation/train+sbd/val", eval=evaluation)
        with pytest.raises(UserError, match=r"image\(s\) of config\.data\.eval, such as 200") as error:
            open_sources(settings.datasets(config))
        assert str(error.value).endswith(f"--config.data.train=voc_segmentation/train+sbd/val{minus}")
        config.data.train += minus
        open_sources(settings.datasets(config))  # what it advises works


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("voc_segmentation/train+cocoa/train", "'cocoa/train' is unknown data"),
        ("voc_segmentation/train+coco/train", "its parts have different classes"),
        ("voc_segmentation/train+", "'' is unknown data"),
        ("voc_segmentation/test", "the truth of voc_segmentation/test is not published"),
        ("voc_segmentation/train+cityscapes/train", "its parts have different classes"),
        ("sbd/train-sbd/train", "no image is left"),
    ],
)
def test_a_wrong_expression_is_named(config, official, train, message):
    config.data_dir = str(official)
    config.data.train = train
    with pytest.raises(UserError, match=message):
        open_source("train", settings.datasets(config))


def test_a_changed_mask_is_prepared_anew_and_else_nothing_is(config, data):
    before = samples(config, "voc_segmentation/train", data)
    path = data / VOC_ROOT / "SegmentationClass/2007_train0.png"
    path.write_bytes(encode_label(np.full_like(before["2007_train0"]["label"], 7), VOC.palette()))
    check_same(samples(config, "voc_segmentation/train", data), expected("voc_segmentation/train", data))
    shutil.rmtree(data / VOC_ROOT / "JPEGImages")
    with pytest.raises(UserError, match="cannot be read"):
        samples(config, "voc_segmentation/train", data)
    for json_path in (data / "coco/annotations").iterdir():
        samples(config, "coco_voc/train", data)
        (data / "coco/train2017/000000000007.jpg").unlink()
        samples(config, "coco_voc/train", data)  # from the records: COCO's images are not looked at again
        json_path.touch()
        with pytest.raises(UserError, match=r"000000000007\.jpg: cannot be read"):
            samples(config, "coco_voc/train", data)


def test_masks_are_searched_for_classes_once(config, official, monkeypatch):
    config.data_dir, config.data.train = str(official), TRAINAUG
    config.data.eval = "voc_segmentation/val"
    open_sources(settings.datasets(config))
    assert not list(pathlib.Path(config.cache_dir).rglob(records._PRESENCE)), "only if they are needed"
    config.data.rare_share = 0.5
    train, _ = open_sources(settings.datasets(config))
    held = [np.bincount(train[i]["label"].reshape(-1), minlength=256) > 0 for i in range(len(train))]
    np.testing.assert_array_equal(train.class_presence(), held)
    with monkeypatch.context() as changed:
        changed.setattr(records, "decode_own_label", None)
        again, _ = open_sources(settings.datasets(config))
        np.testing.assert_array_equal(again.class_presence(), held)
    path = next(pathlib.Path(config.cache_dir).rglob(records._PRESENCE))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{path}: damaged; delete it"):
        open_sources(settings.datasets(config))
    path.unlink()
    np.testing.assert_array_equal(open_sources(settings.datasets(config))[0].class_presence(), held)


def damage_voc(data, kind):
    mask = data / VOC_ROOT / "SegmentationClass/2007_train1.png"
    image = data / VOC_ROOT / "JPEGImages/2007_train1.jpg"
    label = np.zeros((47, 55), np.uint8)
    label[3, 4] = 33
    if kind == "missing":
        mask.unlink()
    elif kind == "size":
        mask.write_bytes(encode_label(np.zeros((10, 20), np.uint8), VOC.palette()))
    elif kind == "value":
        mask.write_bytes(encode_label(label, VOC.palette()))
    elif kind == "truncated":
        image.write_bytes(image.read_bytes()[:-400])
    elif kind == "rgb":
        Image.fromarray(np.zeros((47, 55, 3), np.uint8)).save(mask)
    elif kind == "text":
        image.write_text("not an image")
    elif kind == "empty":
        (data / VOC_ROOT / "ImageSets/Segmentation/train.txt").write_text("\n")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"2007_train1\.png: cannot be read"),
        ("size", r"2007_train1\.png: the mask is 20x10 pixels but the image is 55x47"),
        ("value", r"2007_train1\.png: value 33 \(first at row 3, column 4\) is neither a class id \(0-20\) nor 255"),
        ("truncated", r"2007_train1\.jpg: damaged or truncated image"),
        ("rgb", r"2007_train1\.png: a mask must be a grey or palette PNG of class ids, but its mode is RGB"),
        ("text", r"2007_train1\.jpg: not a readable image file"),
        ("empty", r"voc_segmentation/train: no image in .*train\.txt"),
    ],
)
def test_a_bad_voc_file_is_named(config, data, kind, message):
    damage_voc(data, kind)
    with pytest.raises(UserError, match=message):
        samples(config, "voc_segmentation/train", data)
    datasets = pathlib.Path(config.cache_dir) / "datasets"
    assert not list(datasets.glob("*/voc_segmentation/*")), "nothing half-made may be left, or taken for whole"


def test_other_bad_files_are_named(config, data):
    (data / SBD_ROOT / "cls/2008_a.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(UserError, match=r"2008_a\.mat: not a readable \.mat file"):
        samples(config, "sbd/train", data)
    masks = data / "cityscapes/gtFine/train/ulm"
    (masks / "trainulm_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(UserError, match=r"trainulm_000001_000019_leftImg8bit\.png: has no gtFine label"):
        samples(config, "cityscapes/train", data)
    (data / "cityscapes/leftImg8bit/val/ulm/valulm_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(UserError, match=r"valulm_000000_000019_gtFine_labelIds\.png: has no image"):
        samples(config, "cityscapes/val", data)
    path = data / "coco/annotations/instances_train2017.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(UserError, match=r"instances_train2017\.json: not a COCO instances file"):
        samples(config, "coco_voc/train", data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "voc_segmentation/train",
            r"holds neither VOCdevkit/.*train\.txt nor VOCtrainval_11-May-2012\.tar; fetch it from http",
        ),
        ("voc_segmentation/test", r"nor VOC2012test\.tar; fetch it from http\S+ into that folder$"),
        ("sbd/train", r"holds neither benchmark_RELEASE/dataset/cls nor benchmark\.tgz; fetch it from https"),
        (
            "coco_voc/train",
            r"neither coco/annotations/instances_train2017\.json nor annotations_trainval2017\.zip; fetch",
        ),
        (
            "cityscapes/train_extra",
            r"neither cityscapes/leftImg8bit/train_extra nor leftImg8bit_trainextra\.zip; fetch",
        ),
    ],
)
def test_a_missing_archive_is_named_with_its_source(config, tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        samples(config, name, tmp_path)


def test_what_needs_a_login_is_said_so(config):
    with pytest.raises(
        UserError, match=r"leftImg8bit_trainvaltest\.zip cannot be downloaded without you: fetch it from"
    ):
        samples(config, "cityscapes/train", "")


ARCHIVES = [
    ("voc_segmentation/train", "VOCtrainval_11-May-2012.tar"),
    ("sbd/train", "benchmark.tgz"),
    ("coco_voc/train", "train2017.zip"),
    ("cityscapes/train", "leftImg8bit_trainvaltest.zip"),
]


@pytest.mark.parametrize(("name", "archive"), ARCHIVES)
def test_a_truncated_or_altered_archive_is_named(config, official, tmp_path, name, archive):
    pack(official, tmp_path / "archives")
    path = tmp_path / "archives" / archive
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=archive):
        samples(config, name, tmp_path / "archives")
    if archive != "VOCtrainval_11-May-2012.tar":  # a plain tar has no checksum of its content; the images tell
        altered = bytearray(whole)
        altered[len(whole) // 3] ^= 0xFF
        path.write_bytes(altered)
        with pytest.raises(UserError, match=archive):
            samples(config, name, tmp_path / "archives")


@pytest.mark.parametrize("bad", ["../../stolen.txt", "/stolen.txt"])
def test_a_path_that_leaves_its_archive_is_refused(config, official, tmp_path, bad):
    pack(official, tmp_path / "archives")
    with tarfile.open(tmp_path / "archives/VOCtrainval_11-May-2012.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo(bad))
    with zipfile.ZipFile(tmp_path / "archives/train2017.zip", "a") as archive:
        archive.writestr(bad, "x")
    for name, archive in (("voc_segmentation/train", "VOCtrainval"), ("coco_voc/train", "train2017")):
        with pytest.raises(UserError, match=rf"{archive}.*refused.*stolen\.txt"):
            samples(config, name, tmp_path / "archives")
    assert not list(tmp_path.rglob("stolen.txt"))


def test_a_corrupt_record_is_named(config, official):
    config.data_dir = str(official)
    source = open_part("voc_segmentation", "train", settings.datasets(config))
    whole = [source[i]["image_id"] for i in range(len(source))]
    (path,) = (pathlib.Path(config.cache_dir) / "datasets").rglob("*.array_record*")
    content = bytearray(path.read_bytes())
    place = 10_000  # within the third record or so
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    source = open_part("voc_segmentation", "train", settings.datasets(config))
    messages = {}
    for i, image_id in enumerate(whole):
        try:
            assert source[i]["image_id"] == image_id
        except UserError as error:
            messages[image_id] = str(error)
    assert len(messages) == 1
    for image_id, message in messages.items():
        assert f"record {image_id} of voc_segmentation/train: damaged; delete {config.cache_dir}" in message


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/served, with ranges; notes what was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = tmp_path / "served" / self.path[1:]
            if not path.is_file():
                self.send_error(404)
                return
            wanted = self.headers.get("Range")
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            asked.append(start)
            body = path.read_bytes()
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start:])

        def log_message(self, *_):
            pass

    (tmp_path / "served").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def test_download_checks_the_checksum_goes_on_and_comes_once(server, tmp_path):
    url, asked = server
    content = np.random.default_rng(0).bytes(3_000_000)
    (tmp_path / "served" / "a.tar").write_bytes(content)
    folder = tmp_path / "downloads"
    with pytest.raises(UserError, match="has the sha256 checksum"):
        download(f"{url}/a.tar", "sha256:" + "0" * 64, folder)
    with pytest.raises(UserError, match="404"):
        download(f"{url}/b.tar", "md5:0", folder)
    assert not (folder / "a.tar").exists()
    for part in (b"", content[:1_000_000], content):
        (folder / "a.tar").unlink(missing_ok=True)
        (folder / "a.tar.part").write_bytes(part)
        path = download(f"{url}/a.tar", "md5:" + hashlib.md5(content).hexdigest(), folder)
        assert path.read_bytes() == content
    assert asked == [0, 0, 1_000_000, 3_000_000]
    assert download(f"{url}/a.tar", "md5:any", folder) == path


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", ["{}", "/JPEGImages/{}.jpg /SegmentationClassAug/{}.png", r".\JPEGImages\{}.jpg"])
def test_official_lists_in_the_forms_of_other_trainers(config, tmp_path, encoding, form):
    make_voc(tmp_path)
    make_sbd(tmp_path)
    config.data_dir = str(tmp_path)
    for name, split, path in (
        ("voc_segmentation", "train", f"{VOC_ROOT}/ImageSets/Segmentation/train.txt"),
        ("sbd", "val", f"{SBD_ROOT}/val.txt"),
    ):
        expected = list(open_part(name, split, settings.datasets(config)).image_ids)
        lines = [form.replace("{}", image_id) for image_id in expected]
        (tmp_path / path).write_bytes("\r\n".join(["", *lines]).encode(encoding))
        assert open_part(name, split, settings.datasets(config)).image_ids == expected


def test_masks_of_train_aug(config, tmp_path):
    make_voc(tmp_path)
    root = tmp_path / VOC_ROOT
    shutil.copytree(root / "SegmentationClass", root / "SegmentationClassAug")
    label = np.full((40, 60), 20, np.uint8)
    Image.fromarray(label).save(root / "SegmentationClassAug/2007_train0.png")
    (root / "ImageSets/Segmentation/train_aug.txt").write_text(
        "/JPEGImages/2007_train0.jpg /SegmentationClassAug/2007_train0.png\n2007_val1\n"
    )
    config.data_dir = str(tmp_path)
    source = open_part("voc_segmentation", "train_aug", settings.datasets(config))
    assert source.image_ids == ["2007_train0", "2007_val1"]
    np.testing.assert_array_equal(source[0]["label"], label)
    config.data_dir = ""
    with pytest.raises(UserError, match="train_aug cannot be downloaded; take sbd/train"):
        open_part("voc_segmentation", "train_aug", settings.datasets(config))
