"""Writes masks as annotations in COCO's format, for label tools: each connected region of a class as a polygon."""

import contextlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from gcn_jax.data.coco_file import BACKGROUND
from gcn_jax.data.polygons import trace
from gcn_jax.files import written_whole

Add = Callable[[str, np.ndarray, np.ndarray], None]


@contextlib.contextmanager
def annotations_file(path: pathlib.Path, class_names: Sequence[str]) -> Iterator[Add]:
    """Writes a file of annotations, whole or not at all, image by image, so that not all need fit in memory.

    The categories are the classes, numbered from 1. A first class that is called background has none, and no regions.
    A region's score is the mean confidence of its pixels.

    Args:
      path: of the file.
      class_names: of the classes.

    Yields:
      A function that takes an image's file name, its class ids, uint8 [H, W], and their confidence, float32 [H, W]; or
      of several classes a pixel, bool [H, W, C], and their probabilities, float32 [H, W, C].
    """
    first = int(class_names[0].lower() in BACKGROUND)
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names[first:], 1)]
    images: list[str] = []
    numbers = itertools.count(1)
    with written_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {{}},\n"categories": {json.dumps(categories)},\n"annotations": [')

        def add(name: str, label: np.ndarray, confidence: np.ndarray) -> None:
            height, width = label.shape[:2]
            images.append(json.dumps({"id": len(images) + 1, "file_name": name, "height": height, "width": width}))
            for region in _all_regions(label, confidence, range(first, len(class_names))):
                number = next(numbers)
                record = {"id": number, "image_id": len(images), **region, "iscrowd": 0}
                file.write(("," if number > 1 else "") + "\n" + json.dumps(record, separators=(",", ":")))

        yield add
        file.write('\n],\n"images": [\n' + ",\n".join(images) + "\n]}\n")


def _all_regions(label: np.ndarray, confidence: np.ndarray, classes: range) -> Iterator[dict[str, Any]]:
    if label.ndim == 2:
        yield from _regions(label, confidence, classes)
        return
    for category, i in enumerate(classes, 1):
        for region in _regions(label[..., i], confidence[..., i], range(1, 2)):
            yield {**region, "category_id": category}


def _regions(label: np.ndarray, confidence: np.ndarray, classes: range) -> list[dict[str, Any]]:
    """What COCO says of each region of the classes."""
    regions = np.zeros(label.shape, np.int32)
    categories: list[int] = []
    for category, class_id in enumerate(classes, 1):
        found, count = ndimage.label(label == class_id)
        regions += np.where(found > 0, found + len(categories), 0)
        categories += [category] * count
    areas = np.bincount(regions.reshape(-1), minlength=len(categories) + 1)
    scores = np.bincount(regions.reshape(-1), confidence.reshape(-1), len(categories) + 1) / np.maximum(areas, 1)
    records = []
    for number, (category, polygon) in enumerate(zip(categories, trace(regions), strict=True), 1):
        corner = polygon.min(0)
        records.append(
            {
                "category_id": category,
                "segmentation": [polygon.reshape(-1).tolist()],
                "area": int(areas[number]),
                "bbox": [*corner.tolist(), *(polygon.max(0) - corner).tolist()],
                "score": round(float(scores[number]), 4),
            }
        )
    return records
