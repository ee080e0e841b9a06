"""A photo for a page: decoded within bounds, reduced, labelled part by part, and what is sent back."""

import gzip
import io
import threading
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gcn_jax.data.image_files import open_image
from gcn_jax.data.images import decode_image
from gcn_jax.data.masks import encode_label
from gcn_jax.data.outputs import encode_grey, levels
from gcn_jax.data.pictures import overlay
from gcn_jax.data.specs import DatasetSpec
from gcn_jax.errors import UserError
from gcn_jax.inference.segmenter import Segmenter

OUTPUTS = ("labels", "overlay", "confidence", "maps")
_NAME = "the photo"


class TooLargeError(UserError):
    """A photo of more pixels, or a file of more bytes, than are taken."""


class Stopped(Exception):  # noqa: N818
    """Nobody waits for the photo any more."""


class Answer(NamedTuple):
    """What is sent back: a body, and headers that tell of it."""

    body: bytes
    headers: dict[str, str]


class _Whole:
    """A photo in memory, as an image that is read in windows: see `gcn_jax.inference.large_images`."""

    def __init__(self, pixels: np.ndarray):
        self._pixels = pixels
        self.shape: Any = pixels.shape

    def read(self, top: int, left: int, bottom: int, right: int, /) -> np.ndarray:
        return self._pixels[top:bottom, left:right]


def decode(data: bytes, most: int, white: int = 0) -> np.ndarray:
    """A photo, uint8 [H, W, 3], of the bytes of a file.

    Args:
      data: the bytes.
      most: pixels that are taken. A photo of more is refused by its header, before a pixel is decoded.
      white: see `decode_image`.

    Raises:
      TooLargeError: if it has more pixels.
      UserError: if it is no image, or damaged.
    """
    if not data:
        raise UserError("no photo: the body is empty; send the bytes of an image file")
    header = open_image(data, _NAME)
    if header.width * header.height > most:
        raise TooLargeError(
            f"{_NAME} has {header.width}x{header.height} pixels, but {most / 1e6:g} million are taken "
            "(config.serve.max_megapixels); make it smaller"
        )
    return decode_image(data, _NAME, white=white)


def reduced(photo: np.ndarray, longest: int) -> np.ndarray:
    """A photo, uint8 [H, W, 3], no side of which is above `longest`; 0: as it is."""
    height, width = photo.shape[:2]
    if not longest or max(height, width) <= longest:
        return photo
    factor = longest / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))


def enlarged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map of a reduced photo, [h, w], in the photo's own shape: each pixel has the value of the nearest one."""
    if values.shape == (height, width):
        return values
    rows, columns = (
        (np.arange(full) * 2 + 1) * few // (2 * full) for full, few in zip((height, width), values.shape, strict=True)
    )
    return values[rows[:, None], columns]


def label(segmenter: Segmenter, photo: np.ndarray, stop: threading.Event) -> tuple[np.ndarray, np.ndarray]:
    """The labels and the confidence of a photo, both uint8 [H, W]; of the confidence 255 is 1.

    Of a large photo no more than a row of windows is in memory with all its probabilities.

    Args:
      segmenter: the model.
      photo: uint8 [H, W, 3].
      stop: once it is set, nobody waits for the result.

    Raises:
      Stopped: if `stop` is set.
      UserError: if a CRF is asked for, and the photo is too large for it.
    """
    labels, confidence = (np.empty(photo.shape[:2], np.uint8) for _ in range(2))
    for top, left, maps in segmenter.rows_of_large(_Whole(photo), ("labels", "confidence")):
        if stop.is_set():
            raise Stopped
        height, width = maps["labels"].shape
        here = slice(top, top + height), slice(left, left + width)
        labels[here], confidence[here] = maps["labels"], levels(maps["confidence"], 8)
    return labels, confidence


def answer(output: str, photo: np.ndarray, maps: tuple[np.ndarray, np.ndarray], spec: DatasetSpec) -> Answer:
    """What is sent of a photo.

    Args:
      output: of `OUTPUTS`: "labels", a palette PNG of class ids; "overlay", a JPEG; and "confidence", a grey PNG: all
        as large as the photo. Or "maps": a byte of each pixel's label, row by row, and then a byte of each pixel's
        confidence, compressed by gzip, of the size that was labelled, which two headers tell.
      photo: uint8 [H, W, 3].
      maps: the labels and the confidence of the photo, which may have been reduced: uint8 [h, w].
      spec: of the classes.
    """
    labels, confidence = maps
    height, width = labels.shape
    headers = {"Label-Width": str(width), "Label-Height": str(height)}
    if output == "maps":
        body = gzip.compress(labels.tobytes() + confidence.tobytes(), 1)
        return Answer(body, headers | {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"})
    headers["Content-Type"] = "image/jpeg" if output == "overlay" else "image/png"
    whole = enlarged(confidence if output == "confidence" else labels, *photo.shape[:2])
    if output == "labels":
        return Answer(encode_label(whole, spec.palette()), headers)
    if output == "confidence":
        return Answer(encode_grey(whole / np.float32(255), 8), headers)
    return Answer(jpeg(overlay(photo, whole, spec.palette())), headers)


def jpeg(picture: np.ndarray) -> bytes:
    """A picture, uint8 [H, W, 3], as a JPEG.

    Raises:
      TooLargeError: if it has a side that JPEG cannot have.
    """
    buffer = io.BytesIO()
    try:
        Image.fromarray(picture).save(buffer, "JPEG", quality=92)
    except (OSError, ValueError) as error:
        raise TooLargeError(f"{_NAME}: an overlay is a JPEG, which has sides of at most 65,500 pixels") from error
    return buffer.getvalue()
