"""The example pictures of a report, evaluated images with what is wrong in them, and the legend of their colours."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from gcn_jax.data.masks import encode_label
from gcn_jax.data.specs import VOID, ClassSpec, DatasetSpec
from gcn_jax.report.values import data_uri

_LARGEST_SIDE = 480  # pixels of an example's pictures
_VOID_GREY = (200, 200, 200)
_WRONG_RED = (214, 32, 40)


@dataclass(frozen=True)
class Example:
    """An evaluated image to show."""

    image_id: str
    rank: str  # "best", "median" or "worst"
    miou: float  # of this image, 0..1
    image: np.ndarray  # uint8 [H, W, 3]
    label: np.ndarray  # uint8 [H, W]; 255 void
    prediction: np.ndarray  # uint8 [H, W]
    is_wrong: np.ndarray  # bool [H, W]


@dataclass(frozen=True)
class Pictures:
    """What the page shows of an example.

    Attributes:
      image_id, rank, miou: the example's.
      width, height: of each picture, pixels.
      addresses: the ``data:`` URI of each, by what it shows.
    """

    image_id: str
    rank: str
    miou: float
    width: int
    height: int
    addresses: dict[str, str]


def draw_pictures(shown: Example, spec: DatasetSpec) -> Pictures:
    """Draws image, truth, prediction and errors, which stand side by side."""
    palette = spec.palette()
    palette[VOID] = _VOID_GREY
    height, width = shown.label.shape
    factor = min(1.0, _LARGEST_SIDE / max(height, width))
    size = max(1, round(factor * width)), max(1, round(factor * height))
    photo = Image.fromarray(shown.image).resize(size, Image.Resampling.LANCZOS)
    label, prediction, is_wrong = (
        np.asarray(Image.fromarray(map_).resize(size, Image.Resampling.NEAREST))
        for map_ in (shown.label, shown.prediction, shown.is_wrong)
    )
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=85)
    addresses = {
        "image": data_uri("jpeg", buffer.getvalue()),
        "truth": data_uri("png", encode_label(label, palette)),
        "prediction": data_uri("png", encode_label(np.where(label == VOID, label, prediction), palette)),
        "errors": data_uri("png", _errors(np.asarray(photo.convert("L")), label, is_wrong)),
    }
    return Pictures(shown.image_id, shown.rank, shown.miou, *size, addresses)


def _errors(grey: np.ndarray, label: np.ndarray, is_wrong: np.ndarray) -> bytes:
    """A PNG of an example's mistakes: red over a faint photo, void flat grey; all [H, W]."""
    red = 254
    palette = np.repeat(np.linspace(120, 250, 256).astype(np.uint8)[:, None], 3, axis=1)
    palette[red], palette[VOID] = _WRONG_RED, _VOID_GREY
    shade = grey // 8 * 8  # few greys make small files
    picture = np.where(label == VOID, VOID, np.where(is_wrong, red, shade))
    return encode_label(picture.astype(np.uint8), palette)


def legend_entries(result: dict[str, Any], spec: DatasetSpec, examples: list[Example]) -> list[ClassSpec]:
    """What colours mean: the classes that have a score or occur in the examples, then void and errors."""
    shown = {int(v) for e in examples for v in np.union1d(e.label, e.prediction)}
    classes = [c for i, c in enumerate(spec.classes) if i in shown or result["iou_per_class"][c.name] is not None]
    return [*classes, ClassSpec("void, not counted", _VOID_GREY), ClassSpec("wrong, in errors", _WRONG_RED)]
