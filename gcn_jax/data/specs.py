"""The classes of each data set: their names, ids and colours are written only here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# The label of pixels that neither the loss nor a score counts: outlines and unlabelled regions in VOC, and all padding.
VOID = 255


@dataclass(frozen=True)
class ClassSpec:
    """A class: its name and its colour (RGB, 0-255). Its id is its index in `DatasetSpec.classes`."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class DatasetSpec:
    """The label space of a data set: which classes there are, in the order of their ids.

    Attributes:
      name: of the data set.
      classes: the classes; class i has id i.
      void_color: the colour of void (label 255) in pictures, RGB, 0-255.
      multi_label: whether a pixel may have none, one or several of the classes; otherwise it has one.
    """

    name: str
    classes: tuple[ClassSpec, ...]
    void_color: tuple[int, int, int] = (224, 224, 192)
    multi_label: bool = False

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.classes]

    def palette(self) -> np.ndarray:
        """The colours of all 256 label values, uint8 [256, 3]: void's at 255, black for values that are no class."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = [c.color for c in self.classes]
        palette[VOID] = self.void_color
        return palette


def voc_colors() -> Iterator[tuple[int, int, int]]:
    """VOC's colours of the labels 0, 1, 2, ...: bit b of a label becomes bit 7 - b // 3 of colour channel b % 3."""
    for label in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            rgb[bit % 3] |= (label >> bit & 1) << 7 - bit // 3
        yield rgb[0], rgb[1], rgb[2]


def _with_voc_colors(name: str, class_names: Sequence[str]) -> DatasetSpec:
    return DatasetSpec(name, tuple(ClassSpec(*pair) for pair in zip(class_names, voc_colors(), strict=False)))


VOC = _with_voc_colors("voc", [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
])  # fmt: skip
# The classes of VOC that have another name in COCO: COCO's name -> VOC's.
COCO_TO_VOC = {
    "airplane": "aeroplane",
    "couch": "sofa",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "tv": "tvmonitor",
}

# In the order of train ids: the label id in the official files, and the class. All other label ids are not evaluated.
_CITYSCAPES = (
    (7, ClassSpec("road", (128, 64, 128))),
    (8, ClassSpec("sidewalk", (244, 35, 232))),
    (11, ClassSpec("building", (70, 70, 70))),
    (12, ClassSpec("wall", (102, 102, 156))),
    (13, ClassSpec("fence", (190, 153, 153))),
    (17, ClassSpec("pole", (153, 153, 153))),
    (19, ClassSpec("traffic light", (250, 170, 30))),
    (20, ClassSpec("traffic sign", (220, 220, 0))),
    (21, ClassSpec("vegetation", (107, 142, 35))),
    (22, ClassSpec("terrain", (152, 251, 152))),
    (23, ClassSpec("sky", (70, 130, 180))),
    (24, ClassSpec("person", (220, 20, 60))),
    (25, ClassSpec("rider", (255, 0, 0))),
    (26, ClassSpec("car", (0, 0, 142))),
    (27, ClassSpec("truck", (0, 0, 70))),
    (28, ClassSpec("bus", (0, 60, 100))),
    (31, ClassSpec("train", (0, 80, 100))),
    (32, ClassSpec("motorcycle", (0, 0, 230))),
    (33, ClassSpec("bicycle", (119, 11, 32))),
)
CITYSCAPES = DatasetSpec("cityscapes", tuple(c for _, c in _CITYSCAPES), void_color=(0, 0, 0))
# Train id -> raw label id, uint8 [19].
CITYSCAPES_RAW_IDS = np.array([raw_id for raw_id, _ in _CITYSCAPES], np.uint8)
CITYSCAPES_RAW_IDS.setflags(write=False)
# Raw label id -> train id, uint8 [256].
CITYSCAPES_TRAIN_IDS = np.full(256, VOID, np.uint8)
CITYSCAPES_TRAIN_IDS[CITYSCAPES_RAW_IDS] = np.arange(len(_CITYSCAPES))
CITYSCAPES_TRAIN_IDS.setflags(write=False)

SHAPES = _with_voc_colors("shapes", ["background", "disk", "square", "triangle", "ring", "cross"])
FAR_ENDS = DatasetSpec(
    "far_ends",
    (
        ClassSpec("background", (0, 0, 0)),
        ClassSpec("red", (255, 0, 0)),
        ClassSpec("green", (0, 255, 0)),
        ClassSpec("blue", (0, 0, 255)),
    ),
)
