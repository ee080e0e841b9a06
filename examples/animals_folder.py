"""Makes the folder that configs/animals.py trains on: the cats, cows, dogs, horses, people and sheep of VOC and SBD.

    python examples/animals_folder.py DATA OUT

DATA holds VOCdevkit/ and benchmark_RELEASE/, unpacked or as the official archives. OUT gets images/, masks/,
classes.txt, train.txt and val.txt, as configs/folder.py reads them. Images that hold none of the six classes are left
out; the other classes of VOC are void. Images to train on, those of SBD and of VOC's train split that are not in VOC's
val split, are scaled to a longest side of 320 pixels; those of VOC's val split stay as they are.
"""

import pathlib
import sys

import numpy as np
from PIL import Image

from gcn_jax.console import bar
from gcn_jax.data.samples import Source
from gcn_jax.data.sources import Datasets, open_sources
from gcn_jax.data.specs import VOC, VOID

CLASSES = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
LONGEST_SIDE = 320
TRAIN = "voc_segmentation/train+sbd/train+sbd/val-voc_segmentation/val"


def new_ids() -> np.ndarray:
    """The new value of each of VOC's label values, uint8 [256]."""
    ids = np.full(256, VOID, np.uint8)
    for new, name in enumerate(CLASSES):
        ids[VOC.class_names.index(name)] = new
    return ids


def write(source: Source, split: str, folder: pathlib.Path, longest_side: int | None) -> None:
    """Writes the images that hold an animal or a person, their masks and their list."""
    palette = [value for name in CLASSES for value in VOC.classes[VOC.class_names.index(name)].color]
    ids, names = new_ids(), []
    with bar(split, len(source), "image") as progress:
        for i in range(len(source)):
            sample = source[i]
            mask = ids[sample["label"]]
            progress.update()
            if not ((mask > 0) & (mask != VOID)).any():
                continue
            image, label = Image.fromarray(sample["image"]), Image.fromarray(mask)
            if longest_side:
                factor = longest_side / max(image.size)
                size = round(image.width * factor), round(image.height * factor)
                image = image.resize(size, Image.Resampling.BILINEAR)
                label = label.resize(size, Image.Resampling.NEAREST)
            label.putpalette(palette)
            name = pathlib.PurePath(sample["image_id"]).name
            image.save(folder / "images" / f"{name}.jpg", quality=92)
            label.save(folder / "masks" / f"{name}.png")
            names.append(name)
    (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    print(f"{split}: {len(names)} images")


def main(data: str, folder: pathlib.Path) -> None:
    """Makes the folder."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    colors = (VOC.classes[VOC.class_names.index(name)].color for name in CLASSES)
    lines = [f"{name} {' '.join(map(str, color))}\n" for name, color in zip(CLASSES, colors, strict=True)]
    (folder / "classes.txt").write_text("".join(lines))
    cache = pathlib.Path("~/.cache/gcn_jax").expanduser()
    train, val = open_sources(Datasets(TRAIN, "voc_segmentation/val", (), data, cache, seed=0))
    write(train, "train", folder, LONGEST_SIDE)
    write(val, "val", folder, None)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
