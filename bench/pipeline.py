"""Compares the time from JPEG files to training batches with that of PyTorch's DataLoader.

    python -m bench.pipeline --data_dir=DIR

Images of VOC's train split in DIR (without DIR, drawn images of VOC's size) are decoded, flipped, padded to 512 and put
into batches, all as uint8. Ours reads its prepared records with as many threads as the DataLoader has worker processes.
The DataLoader's data set is written as people usually write it, once with Pillow and once with OpenCV. (OpenCV cannot
read palette indices, so that masks are read by Pillow there, too.) Times are seconds per image.
"""

import argparse
import pathlib
import random
import tempfile
import time
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from bench.timing import compare
from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.config.defaults import IMAGENET_MEAN
from gcn_jax.data import shapes
from gcn_jax.data.batches import TrainBatches
from gcn_jax.data.masks import encode_label
from gcn_jax.data.sources import open_source
from gcn_jax.data.specs import VOC

SIZE = 512
MEAN = tuple(round(value) for value in IMAGENET_MEAN)


def draw_voc(folder: pathlib.Path, count: int) -> None:
    """Writes drawn images of VOC's size in its layout."""
    root = folder / "VOCdevkit/VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    names = [f"drawn_{i:04d}" for i in range(count)]
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names), encoding="utf-8")
    for i, name in enumerate(names):
        image, label = shapes.draw("train", i)
        picture = Image.fromarray(image).resize((500, 375), Image.Resampling.BICUBIC)
        picture.save(root / f"JPEGImages/{name}.jpg", quality=90)
        large = np.asarray(Image.fromarray(label).resize((500, 375), Image.Resampling.NEAREST))
        (root / f"SegmentationClass/{name}.png").write_bytes(encode_label(large, VOC.palette()))


class TorchVoc(torch.utils.data.Dataset):
    """What a PyTorch user would write, with Pillow or OpenCV."""

    def __init__(self, root: pathlib.Path, use_opencv: bool):
        names = (root / "ImageSets/Segmentation/train.txt").read_text(encoding="utf-8").split()
        self.pairs = [(str(root / f"JPEGImages/{n}.jpg"), str(root / f"SegmentationClass/{n}.png")) for n in names]
        self.use_opencv = use_opencv

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image_path, label_path = self.pairs[index]
        flip = random.random() < 0.5
        image, label = (self._opencv if self.use_opencv else self._pillow)(image_path, label_path, flip)
        return torch.from_numpy(image), torch.from_numpy(label)

    def _opencv(self, image_path: str, label_path: str, flip: bool) -> tuple[np.ndarray, np.ndarray]:
        image: Any = cv2.imread(image_path, cv2.IMREAD_COLOR_RGB)
        label = np.asarray(Image.open(label_path))
        if flip:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        border = (0, SIZE - image.shape[0], 0, SIZE - image.shape[1], cv2.BORDER_CONSTANT)
        return cv2.copyMakeBorder(image, *border, value=MEAN), cv2.copyMakeBorder(label, *border, value=255)

    def _pillow(self, image_path: str, label_path: str, flip: bool) -> tuple[np.ndarray, np.ndarray]:
        image, label = Image.open(image_path).convert("RGB"), Image.open(label_path).copy()
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            label = label.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        padded_image, padded_label = Image.new("RGB", (SIZE, SIZE), MEAN), Image.new("P", (SIZE, SIZE), 255)
        padded_image.paste(image)
        padded_label.paste(label)
        return np.array(padded_image), np.array(padded_label)


def measure(batches, num_images: int) -> float:
    """Seconds per image, without the first batch."""
    first = next(batches)
    start, seen = time.perf_counter(), 0
    while seen < num_images:
        batch = next(batches)
        seen += len(batch["image"] if isinstance(batch, dict) else batch[0])
    del first
    return (time.perf_counter() - start) / seen


def main() -> None:
    """Measures the times and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="", help="folder that holds VOCdevkit/")
    parser.add_argument("--workers", type=int, default=2, help="our threads, and the DataLoader's processes")
    parser.add_argument("--images", type=int, default=1600, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    cv2.setNumThreads(0)  # inherited by the workers: one thread each
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = pathlib.Path(args.data_dir or scratch)
        if not args.data_dir:
            draw_voc(data_dir, 200)
        config = config_lib.default()
        config.update(data_dir=str(data_dir), cache_dir=f"{scratch}/cache")
        config.data.update(train="voc_segmentation/train", size=SIZE, num_threads=args.workers)
        source = open_source("train", settings.datasets(config))
        augmentation, reading = settings.augmentation(config), settings.reading(config)

        def ours(batch_size: int) -> float:
            num_batches = 2 * args.images // batch_size + 2
            options = {"batch_size": batch_size, "num_batches": num_batches, "seed": 0}
            return measure(TrainBatches(source, augmentation, reading, **options), args.images)

        def loader(batch_size: int, use_opencv: bool) -> float:
            data = TorchVoc(data_dir / "VOCdevkit/VOC2012", use_opencv)
            epochs: Any = torch.utils.data.ConcatDataset([data] * (2 * args.images // len(data) + 1))
            batches = torch.utils.data.DataLoader(epochs, batch_size, shuffle=True, num_workers=args.workers)
            return measure(iter(batches), args.images)

        cases = {
            f"batch {batch_size}, {args.workers} workers": {
                "ours": partial(ours, batch_size),
                "DataLoader, Pillow": partial(loader, batch_size, False),
                "DataLoader, OpenCV": partial(loader, batch_size, True),
            }
            for batch_size in (1, 8)
        }
        versions = ("grain", "simplejpeg", "pillow", "numpy", "torch", "opencv-python-headless")
        compare("pipeline", cases, rounds=dict.fromkeys(cases, args.rounds), versions=versions)


if __name__ == "__main__":
    main()
