"""The pictures of a report: evaluated images with what is wrong in them, the colours' legend, receptive fields."""

import io
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from gcn_jax.data.images import encode_label
from gcn_jax.data.specs import VOID, DatasetSpec
from gcn_jax.report.html import data_uri, percent, swatch

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


def example(shown: Example, spec: DatasetSpec) -> str:
    """Image, truth, prediction and errors, side by side."""
    palette = spec.palette()
    palette[VOID] = _VOID_GREY
    height, width = shown.label.shape
    factor = min(1.0, _LARGEST_SIDE / max(height, width))
    size = max(1, round(factor * width)), max(1, round(factor * height))
    photo = Image.fromarray(shown.image).resize(size, Image.Resampling.LANCZOS)
    label, prediction = (
        np.asarray(Image.fromarray(map_).resize(size, Image.Resampling.NEAREST))
        for map_ in (shown.label, shown.prediction)
    )
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=85)
    name = escape(shown.image_id)
    pictures = {
        "image": data_uri("jpeg", buffer.getvalue()),
        "truth": data_uri("png", encode_label(label, palette)),
        "prediction": data_uri("png", encode_label(np.where(label == VOID, label, prediction), palette)),
        "errors": data_uri("png", _errors(np.asarray(photo.convert("L")), label, prediction)),
    }
    figures = "".join(
        f'<figure><img src="{uri}" width="{size[0]}" height="{size[1]}" loading="lazy" alt="{what} of {name}">'
        f"<figcaption>{what}</figcaption></figure>"
        for what, uri in pictures.items()
    )
    heading = f"<h3><b>{escape(shown.rank)}</b> {name} <span>mean IoU {percent(shown.miou)}</span></h3>"
    return f'<article class="example">{heading}<div class="pictures">{figures}</div></article>'


def _errors(grey: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> bytes:
    """A PNG of an example's mistakes: red over a faint photo, void flat grey; all uint8 [H, W]."""
    red = 254
    palette = np.repeat(np.linspace(120, 250, 256).astype(np.uint8)[:, None], 3, axis=1)
    palette[red], palette[VOID] = _WRONG_RED, _VOID_GREY
    shade = grey // 8 * 8  # few greys make small files
    picture = np.where(label == VOID, VOID, np.where(label == prediction, shade, red))
    return encode_label(picture.astype(np.uint8), palette)


def legend(result: dict[str, Any], spec: DatasetSpec, examples: list[Example]) -> str:
    """The colours of the classes that have a score or occur in the examples, and of void."""
    shown = {int(v) for e in examples for v in np.union1d(e.label, e.prediction)}
    entries = [
        f"<li>{swatch(c.color)}{escape(c.name)}</li>"
        for i, c in enumerate(spec.classes)
        if i in shown or result["iou_per_class"][c.name] is not None
    ]
    entries.append(f"<li>{swatch(_VOID_GREY)}void, not counted</li><li>{swatch(_WRONG_RED)}wrong, in errors</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'
