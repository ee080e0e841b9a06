"""The classes of each data set: the one place that knows their names, ids and colours."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# The label of pixels that count nowhere: outlines and unlabelled regions in VOC, and all padding.
VOID = 255
VOID_COLOR = (224, 224, 192)


@dataclass(frozen=True)
class ClassSpec:
    """A class: its name and its colour (RGB, 0-255). Its id is its place in `DatasetSpec.classes`."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class DatasetSpec:
    """The label space of a data set."""

    name: str
    classes: tuple[ClassSpec, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.classes]

    def palette(self) -> np.ndarray:
        """Colours of all 256 label values, uint8 [256, 3]; void's at 255, black where there is no class."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = [c.color for c in self.classes]
        palette[VOID] = VOID_COLOR
        return palette


def voc_colors() -> Iterator[tuple[int, int, int]]:
    """VOC's colour of label 0, 1, 2, ...: the label's bits, three at a time, become the colours' high bits."""
    for label in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            rgb[bit % 3] |= (label >> bit & 1) << 7 - bit // 3
        yield rgb[0], rgb[1], rgb[2]


def _with_voc_colors(name: str, *class_names: str) -> DatasetSpec:
    return DatasetSpec(name, tuple(ClassSpec(*pair) for pair in zip(class_names, voc_colors(), strict=False)))


VOC = _with_voc_colors(
    "voc",
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SHAPES = _with_voc_colors("shapes", "background", "disk", "square", "triangle", "ring", "cross")
