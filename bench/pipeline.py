"""Compares the time from JPEG files to training batches with that of PyTorch's DataLoader.

    python -m bench.pipeline --data_dir=DIR

Images of VOC's train split in DIR (without DIR, drawn images of VOC's size) are decoded, flipped, padded to 512 and put
into batches, all as uint8. Ours reads its prepared records with as many threads as the DataLoader has worker processes.
The DataLoader's data set is written as people usually write it, once with Pillow and once with OpenCV. (OpenCV cannot
read palette indices, so that masks are read by Pillow there, too.) A second case has all of training's further random
changes: images are resized, turned, cropped again where one class fills them, blurred and made noisy, and every second
one gets a rectangle of another. Times are seconds per image; with --workers=0 all is done in one thread, and times are
the processor's, which other programs change little.
"""

import argparse
import math
import pathlib
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter

from bench.timing import compare
from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.config.defaults import IMAGENET_MEAN
from gcn_jax.data import shapes
from gcn_jax.data.batches import Augmentation, TrainBatches
from gcn_jax.data.masks import encode_label
from gcn_jax.data.sources import open_source
from gcn_jax.data.specs import VOC

SIZE = 512
MEAN = tuple(round(value) for value in IMAGENET_MEAN)
CHANGES: dict[str, Any] = {
    "scale": (0.5, 2.0),
    "rotate": 10.0,
    "blur": 1.5,
    "noise": 10.0,
    "max_class_share": 0.75,
    "mix": "cutmix",
    "mix_share": 0.5,
}


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


class TorchAugmented(TorchVoc):
    """The same with all the random changes of `CHANGES`."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = self._draw(index)
        if random.random() < CHANGES["mix_share"]:
            other_image, other_label = self._draw(random.randrange(len(self)))
            side = round(SIZE * math.sqrt(random.random()))
            top, left = random.randint(0, SIZE - side), random.randint(0, SIZE - side)
            part = slice(top, top + side), slice(left, left + side)
            image[part], label[part] = other_image[part], other_label[part]
        return torch.from_numpy(image), torch.from_numpy(label)

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image_path, label_path = self.pairs[index]
        factor, angle = random.uniform(*CHANGES["scale"]), random.uniform(-CHANGES["rotate"], CHANGES["rotate"])
        changes = factor, random.random() < 0.5, angle, random.uniform(0, CHANGES["blur"])
        return (self._opencv_changed if self.use_opencv else self._pillow_changed)(image_path, label_path, *changes)

    def _corner(self, height: int, width: int, counts: Callable[[int, int], np.ndarray]) -> tuple[int, int]:
        """The corner of a crop, drawn again while one class fills it."""
        for _ in range(11):
            top, left = random.randint(0, max(height - SIZE, 0)), random.randint(0, max(width - SIZE, 0))
            found = counts(top, left)[:255]
            if max(height, width) <= SIZE or found.max() <= CHANGES["max_class_share"] * found.sum():
                break
        return top, left

    def _pillow_changed(
        self, image_path: str, label_path: str, factor: float, flip: bool, angle: float, sigma: float
    ) -> tuple[np.ndarray, np.ndarray]:
        image, label = Image.open(image_path).convert("RGB"), Image.open(label_path).copy()
        width, height = (round(side * factor) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        label = label.resize((width, height), Image.Resampling.NEAREST)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            label = label.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=MEAN)
        label = label.rotate(angle, Image.Resampling.NEAREST, fillcolor=255)

        def box(top: int, left: int) -> tuple[int, int, int, int]:
            return left, top, min(left + SIZE, width), min(top + SIZE, height)

        corner = self._corner(height, width, lambda *corner: np.array(label.crop(box(*corner)).histogram()))
        image = image.crop(box(*corner)).filter(ImageFilter.GaussianBlur(sigma))
        noise = np.random.default_rng().standard_normal((image.height, image.width, 3), np.float32)
        noisy = np.asarray(image) + random.uniform(0, CHANGES["noise"]) * noise
        padded_image, padded_label = Image.new("RGB", (SIZE, SIZE), MEAN), Image.new("P", (SIZE, SIZE), 255)
        padded_image.paste(Image.fromarray(np.rint(noisy).clip(0, 255).astype(np.uint8)))
        padded_label.paste(label.crop(box(*corner)))
        return np.array(padded_image), np.array(padded_label)

    def _opencv_changed(
        self, image_path: str, label_path: str, factor: float, flip: bool, angle: float, sigma: float
    ) -> tuple[np.ndarray, np.ndarray]:
        image: Any = cv2.imread(image_path, cv2.IMREAD_COLOR_RGB)
        label = np.asarray(Image.open(label_path))
        height, width = (round(side * factor) for side in label.shape)
        way = cv2.INTER_LINEAR if factor > 1 else cv2.INTER_AREA
        image = cv2.resize(image, (width, height), interpolation=way)
        label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
        if flip:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
        image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=MEAN)
        label = cv2.warpAffine(label, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=255)

        def window(top: int, left: int) -> tuple[slice, slice]:
            return slice(top, top + SIZE), slice(left, left + SIZE)

        corner = self._corner(
            height, width, lambda *corner: np.bincount(label[window(*corner)].reshape(-1), minlength=256)
        )
        image, label = image[window(*corner)], label[window(*corner)]
        if sigma:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        noise = np.empty(image.shape, np.int16)
        cv2.randn(noise, np.zeros(1), np.array([random.uniform(0, CHANGES["noise"])]))
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
        border = (0, SIZE - image.shape[0], 0, SIZE - image.shape[1], cv2.BORDER_CONSTANT)
        return cv2.copyMakeBorder(image, *border, value=MEAN), cv2.copyMakeBorder(label, *border, value=255)


def measure(batches, num_images: int, clock: Callable[[], float]) -> float:
    """Seconds per image, without the first batch."""
    first = next(batches)
    start, seen = clock(), 0
    while seen < num_images:
        batch = next(batches)
        seen += len(batch["image"] if isinstance(batch, dict) else batch[0])
    del first
    return (clock() - start) / seen


def main() -> None:
    """Measures the times and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="", help="folder that holds VOCdevkit/")
    parser.add_argument("--workers", type=int, default=2, help="our threads, and the DataLoader's processes")
    parser.add_argument("--images", type=int, default=1600, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    clock = time.perf_counter if args.workers else time.process_time
    cv2.setNumThreads(0)  # inherited by the workers: one thread each
    torch.set_num_threads(1)  # as in its workers
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = pathlib.Path(args.data_dir or scratch)
        if not args.data_dir:
            draw_voc(data_dir, 200)
        config = config_lib.default()
        config.update(data_dir=str(data_dir), cache_dir=f"{scratch}/cache")
        config.data.update(train="voc_segmentation/train", size=SIZE, num_threads=args.workers)
        source = open_source("train", settings.datasets(config))
        reading, plain = settings.reading(config), settings.augmentation(config)
        config.data.update(CHANGES)
        changed = settings.augmentation(config)

        def ours(batch_size: int, augmentation: Augmentation) -> float:
            num_batches = 2 * args.images // batch_size + 2
            options = {"batch_size": batch_size, "num_batches": num_batches, "seed": 0}
            return measure(TrainBatches(source, augmentation, reading, **options), args.images, clock)

        def loader(batch_size: int, kind: type[TorchVoc], use_opencv: bool) -> float:
            data = kind(data_dir / "VOCdevkit/VOC2012", use_opencv)
            epochs: Any = torch.utils.data.ConcatDataset([data] * (2 * args.images // len(data) + 1))
            batches = torch.utils.data.DataLoader(epochs, batch_size, shuffle=True, num_workers=args.workers)
            return measure(iter(batches), args.images, clock)

        cases = {
            f"{name}, batch {batch_size}, {args.workers} workers": {
                "ours": partial(ours, batch_size, augmentation),
                "DataLoader, Pillow": partial(loader, batch_size, kind, False),
                "DataLoader, OpenCV": partial(loader, batch_size, kind, True),
            }
            for name, augmentation, kind in (("plain", plain, TorchVoc), ("changed", changed, TorchAugmented))
            for batch_size in (1, 8)
        }
        versions = ("grain", "simplejpeg", "pillow", "numpy", "torch", "opencv-python-headless")
        compare("pipeline", cases, rounds=dict.fromkeys(cases, args.rounds), versions=versions)


if __name__ == "__main__":
    main()
