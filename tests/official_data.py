"""Small official folders and archives of the data sets, as tests make them."""

import io
import json
import pathlib
import shutil
import tarfile
import zipfile

import numpy as np
import scipy.io
from PIL import Image
from pycocotools import mask as coco_mask

from gcn_jax.data.masks import encode_label
from gcn_jax.data.specs import VOC

VOC_ROOT, SBD_ROOT = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"


def encoded(array, kind="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, quality=95)
    return buffer.getvalue()


def write_mat(path, label):
    record = np.zeros((1, 1), [("Segmentation", "O"), ("Boundaries", "O"), ("CategoriesPresent", "O")])
    record["Segmentation"][0, 0] = label
    scipy.io.savemat(path, {"GTcls": record}, do_compression=True)


def noise(rng, size):
    return rng.integers(0, 256, (*size, 3), np.uint8)


def make_voc(folder):
    """5 train, 3 val and 2 test images of several sizes."""
    rng, root = np.random.default_rng(0), folder / VOC_ROOT
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    lists = {split: [f"2007_{split}{i}" for i in range(n)] for split, n in (("train", 5), ("val", 3), ("test", 2))}
    lists["trainval"] = lists["train"] + lists["val"]
    for split, ids in lists.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids) + "\n")
    for i, image_id in enumerate(lists["trainval"] + lists["test"]):
        size = (40 + 7 * i, 60 - 5 * i)
        (root / f"JPEGImages/{image_id}.jpg").write_bytes(encoded(noise(rng, size)))
        if "test" not in image_id:
            label = rng.choice(np.array([*range(21), 255], np.uint8), size)
            (root / f"SegmentationClass/{image_id}.png").write_bytes(encode_label(label, VOC.palette()))


def make_sbd(folder):
    """train: one image of its own and one of VOC's train; val: one of its own and one of VOC's val."""
    rng, root = np.random.default_rng(1), folder / SBD_ROOT
    for part in ("img", "cls"):
        (root / part).mkdir(parents=True)
    for split, ids in (("train", ["2008_a", "2007_train1"]), ("val", ["2008_b", "2007_val2"])):
        (root / f"{split}.txt").write_text("\n".join(ids))
        for image_id in ids:
            (root / f"img/{image_id}.jpg").write_bytes(encoded(noise(rng, (30, 50))))
            write_mat(root / f"cls/{image_id}.mat", rng.integers(0, 21, (30, 50)).astype(np.uint8))


def make_coco(folder, year):
    """Three images: overlapping objects with a crowd, one COCO class alone, none of VOC's."""
    rng, root = np.random.default_rng(2), folder / "coco"
    (root / f"train{year}").mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": 40, "width": 60} for i in (7, 9, 11)]
    for image in images:
        (root / f"train{year}" / image["file_name"]).write_bytes(encoded(noise(rng, (40, 60))))
    crowd = np.zeros((40, 60), np.uint8)
    crowd[5:30, 20:60] = 1
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], crowd.T.reshape(-1), [2]])))).tolist()
    packed = coco_mask.encode(np.asfortranarray(np.pad(np.ones((9, 9), np.uint8), ((25, 6), (40, 11)))))
    outlines = [
        (7, 1, 0, 900.0, [[2, 2, 42, 2, 42, 32, 2, 32]]),  # a large person
        (7, 63, 0, 150.0, [[10, 10, 25, 10, 25, 20, 10, 20], [30, 25, 35, 25, 35, 35]]),  # a couch on top, two parts
        (7, 1, 1, 1000.0, {"size": [40, 60], "counts": runs}),
        (7, 72, 0, 81.0, {"size": [40, 60], "counts": packed["counts"].decode()}),  # a tv as compressed run lengths
        (7, 52, 0, 10.0, [[0, 0, 8, 0, 8, 8, 0, 8]]),  # a banana
        (9, 5, 0, 200.0, [[5, 5, 30, 8, 20, 30]]),  # an airplane
        (11, 52, 0, 10.0, [[0, 0, 8, 0, 8, 8, 0, 8]]),
    ]
    annotations = [
        {"id": i, "image_id": m, "category_id": c, "iscrowd": crowd, "area": area, "segmentation": outline}
        for i, (m, c, crowd, area, outline) in enumerate(outlines, 100)
    ]
    names = {1: "person", 5: "airplane", 52: "banana", 63: "couch", 72: "tv"}
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in names.items()],
    }
    (root / f"annotations/instances_train{year}.json").write_text(json.dumps(content))


def make_cityscapes(folder):
    """An image or two a split; every raw id occurs."""
    rng, root = np.random.default_rng(3), folder / "cityscapes"
    for split, kind, count in (("train", "gtFine", 2), ("val", "gtFine", 1), ("train_extra", "gtCoarse", 2)):
        for i in range(count):
            name = f"{split}/ulm/{split.replace('_', '')}ulm_{i:06d}_000019"
            for path in (root / f"leftImg8bit/{name}", root / f"{kind}/{name}"):
                path.parent.mkdir(parents=True, exist_ok=True)
            image = encoded(noise(rng, (32, 64)), "PNG")
            (root / f"leftImg8bit/{name}_leftImg8bit.png").write_bytes(image)
            label = rng.choice(np.array([*range(34), 255], np.uint8), (32, 64))
            (root / f"{kind}/{name}_{kind}_labelIds.png").write_bytes(encoded(label, "PNG"))
            (root / f"{kind}/{name}_{kind}_color.png").write_bytes(encoded(label, "PNG"))
    (root / "leftImg8bit/test/bonn").mkdir(parents=True)
    (root / "leftImg8bit/test/bonn/bonn_000000_000019_leftImg8bit.png").write_bytes(image)


def zip_of(path, *roots):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for root, inner in roots:
            for file in sorted(root.rglob("*")):
                archive.write(file, pathlib.Path(inner) / file.relative_to(root))


def pack(data, folder):
    """The official archives of the folders."""
    folder.mkdir()
    with tarfile.open(folder / "VOCtrainval_11-May-2012.tar", "w") as tar:
        tar.add(data / "VOCdevkit", "./VOCdevkit")
    shutil.copy(folder / "VOCtrainval_11-May-2012.tar", folder / "VOC2012test.tar")
    with tarfile.open(folder / "benchmark.tgz", "w:gz") as tar:
        tar.add(data / "benchmark_RELEASE", "benchmark_RELEASE")
    year = "2014" if (data / "coco/train2014").exists() else "2017"
    zip_of(folder / f"train{year}.zip", (data / f"coco/train{year}", f"train{year}"))
    zip_of(folder / f"annotations_trainval{year}.zip", (data / "coco/annotations", "annotations"))
    root = data / "cityscapes"
    fine = [(root / f"leftImg8bit/{split}", f"leftImg8bit/{split}") for split in ("train", "val", "test")]
    zip_of(folder / "leftImg8bit_trainvaltest.zip", *fine)
    zip_of(folder / "leftImg8bit_trainextra.zip", (root / "leftImg8bit/train_extra", "leftImg8bit/train_extra"))
    zip_of(folder / "gtFine_trainvaltest.zip", (root / "gtFine", "gtFine"))
    zip_of(folder / "gtCoarse.zip", (root / "gtCoarse", "gtCoarse"))
