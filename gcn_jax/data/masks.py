"""Decodes and encodes label masks; every failure becomes a `UserError` that names the file."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from gcn_jax.data.deep_images import is_deep
from gcn_jax.data.image_files import errors_named, load_pixels, open_image
from gcn_jax.data.legend import NO_CLASS, Legend, Pair, color_text
from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError

# Formats that keep every value; of WebP and TIFF, those files that do. (GIF's writers number its colours anew.)
_LOSSLESS = ("BMP", "PNG", "TIFF", "WEBP")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_WHITE = 0xFFFFFF
_MOST_COLORS = 4096  # in a mask; more are those of a photograph, or of soft edges


class Mask(NamedTuple):
    """A mask as its file holds it.

    Attributes:
      kind: "grey", "palette" or "RGB".
      values: [H, W]: grey values or palette indices, uint8 or uint16; or colours, 65536 R + 256 G + B, uint32.
      colors: int32: the colour of each grey value or index, -1 for those without; empty for RGB.
    """

    kind: str
    values: np.ndarray
    colors: np.ndarray

    def counts(self, name: str) -> dict[Pair, int]:
        """The number of pixels of each pair; raises `UserError` if there are more colours than a mask can have."""
        found, numbers = np.unique(self.values, return_counts=True)
        if len(found) > _MOST_COLORS:
            raise UserError(f"{name}: holds {len(found)} colours, too many for a mask; is it a photograph?")
        ids, colors = self._pairs(found)
        return dict(zip(zip(ids.tolist(), colors.tolist(), strict=True), numbers.tolist(), strict=True))

    def labels(self, legend: Legend, by_color: bool, name: str) -> np.ndarray:
        """The labels, uint8 [H, W], by the ids or by the colours; raises `UserError` naming a pixel of no class."""
        if self.kind == "RGB":
            labels = legend.labels(*self._pairs(self.values), by_color=by_color)
        else:
            labels = legend.labels(*self._pairs(np.arange(len(self.colors))), by_color=by_color)[self.values]
        if (labels == NO_CLASS).any():
            row, column = np.argwhere(labels == NO_CLASS)[0]
            ids, colors = self._pairs(self.values[row, column][None])
            where = f"(first at row {row}, column {column})"
            raise UserError(f"{name}: {legend.problem((int(ids[0]), int(colors[0])), where, by_color=by_color)}")
        return labels

    def of_one_class(self, name: str) -> np.ndarray:
        """A mask of one class, uint8 [H, W]: 0 where it is black, 255 where it is white, and 1 where it holds that.

        A palette of white and black, in this order, counts by its colours. Raises `UserError` naming a pixel of another
        value.
        """
        ids, colors = self._pairs(self.values if self.kind == "RGB" else np.arange(len(self.colors)))
        states = np.select([ids == 0, ids == 1, (ids == 255) | (colors == _WHITE)], [0, 1, 255], NO_CLASS)
        if self.kind == "palette" and self.colors[:2].tolist() == [_WHITE, 0]:
            states[:2] = 255, 0
        states = (states if self.kind == "RGB" else states[self.values]).astype(np.uint8)
        if (states == NO_CLASS).any():
            row, column = np.argwhere(states == NO_CLASS)[0]
            value = self.values[row, column]
            what = f"colour {color_text(int(value))}" if self.kind == "RGB" else f"value {value}"
            raise UserError(
                f"{name}: {what} (first at row {row}, column {column}); the mask of one class holds 0 and 1, or black "
                f"and white, without soft edges; 255 beside 1 is void"
            )
        return states

    def _pairs(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The id and the colour of each value; -1 for what it lacks."""
        if self.kind == "RGB":
            is_grey = (values & 255) * 0x10101 == values
            return np.where(is_grey, values & 255, np.uint32(2**32 - 1)).astype(np.int32), values.astype(np.int32)
        return values, self.colors[values]


def read_mask(data: bytes, name: str) -> Mask:
    """Decodes a mask's values as they are stored, whatever their number of bits.

    Args:
      data: the bytes of a lossless file: grey (1 to 16 bits, or 32-bit integers), palette, RGB, or one of them with
        alpha, which is ignored.
      name: of the file, for messages.

    Raises:
      UserError: if the file is unreadable, lossy, of several pages, or of another mode.
    """
    image = open_image(data, name)
    rawmode = _rawmode(image)
    _check_lossless(image, data, name)
    with errors_named(name, "damaged image file"):
        if is_deep(image, data) and image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
            raise UserError(f"{name}: a mask of 16 bits per colour; save it with 8, or as grey values")
    image = load_pixels(image, name)
    if image.mode in ("RGB", "RGBA"):
        red, green, blue = np.moveaxis(np.asarray(image)[..., :3].astype(np.uint32), -1, 0)
        return Mask("RGB", red << 16 | green << 8 | blue, np.empty(0, np.int32))
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette() or [], np.int32).reshape(-1, 3)[:256]
        colors = np.full(256, -1, np.int32)
        colors[: len(palette)] = palette @ (65536, 256, 1)
        values = np.asarray(image)
        return Mask("palette", values if values.ndim == 2 else values[..., 0], colors)
    return _grey(image, rawmode, name)


def _rawmode(image: Image.Image) -> str:
    """How the file stores its pixels, in Pillow's words, such as "L;4"; "" if Pillow does not say."""
    args = tile[0].args if (tile := getattr(image, "tile", None)) else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _check_lossless(image: Image.Image, data: bytes, name: str) -> None:
    is_changed = (
        image.format not in _LOSSLESS
        or (image.format == "TIFF" and image.info.get("compression") in _LOSSY_TIFF)
        or (image.format == "WEBP" and b"VP8L" not in set(_webp_chunks(data)))
    )
    if is_changed:
        raise UserError(
            f"{name}: a mask in {image.format}, which does not keep its values (lossy compression); export the masks "
            f"anew as PNG: to convert this file does not bring its values back"
        )
    with errors_named(name, "damaged image file"):
        pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise UserError(f"{name}: holds {pages} pages; a mask is one image")


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    """The names of a WebP file's chunks (RFC 9649)."""
    place = 12
    while place + 8 <= len(data):
        yield data[place : place + 4]
        (length,) = struct.unpack_from("<I", data, place + 4)
        place += 8 + length + length % 2


def _grey(image: Image.Image, rawmode: str, name: str) -> Mask:
    values = np.asarray(image)
    if image.mode == "LA":
        values = values[..., 0]
    elif image.mode == "I":
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise UserError(f"{name}: holds values outside of 0-65535; class ids are 0, 1, 2, ...")
    elif image.mode not in ("1", "L") and not image.mode.startswith("I;16"):
        raise UserError(f"{name}: a mask must be a grey, palette or RGB image, but its mode is {image.mode}")
    if values.dtype == np.bool_:
        return Mask("grey", values.astype(np.uint8), np.array([0, 0xFFFFFF], np.int32))
    if values.dtype != np.uint8:
        values, levels = values.astype(np.uint16), np.arange(2**16)
        return Mask("grey", values, np.where(levels % 257 == 0, levels // 257 * 0x10101, -1).astype(np.int32))
    step = {"L;2": 85, "L;4": 17}.get(rawmode[:3], 1)  # by which Pillow stretches few bits to eight
    return Mask("grey", values // np.uint8(step), np.arange(0, 256, step).astype(np.int32) * 0x10101)


def decode_ids(data: bytes, name: str, num_classes: int, legend: Legend | None = None) -> np.ndarray:
    """Decodes a mask of an official data set: class ids as grey values or palette indices.

    Args:
      data: the file's bytes.
      name: of the file, for messages.
      num_classes: all ids must be below it, except void's, which is 255, or 65535 in 16 bits.
      legend: with the classes' colours, which a palette must not contradict; None: any palette will do.

    Returns:
      uint8 [H, W].

    Raises:
      UserError: if the file is unreadable or lossy, or holds another value.
    """
    mask = read_mask(data, name)
    if legend and mask.kind == "palette":
        legend.is_by_color(mask.kind, dict.fromkeys(mask.counts(name), name))
    if mask.kind == "RGB":
        raise UserError(f"{name}: a mask must be a grey or palette PNG of class ids, but its mode is RGB")
    label = mask.values
    if label.dtype != np.uint8:
        label = np.where(label == 65535, VOID, label)
    check_label_values(label, name, num_classes)
    return label.astype(np.uint8, copy=False)


def decode_own_label(data: bytes, name: str) -> np.ndarray:
    """Decodes a PNG that `encode_label` wrote, in 0.6 of Pillow's time.

    Such a PNG (ISO/IEC 15948) has 8 bits per pixel, no interlacing, and filter type 0 before each row.

    Returns:
      uint8 [H, W].

    Raises:
      UserError: if the bytes are damaged.
    """
    try:
        width, height = struct.unpack_from(">II", data, 16)
        packed, start = [], 8
        while start < len(data):
            (length,) = struct.unpack_from(">I", data, start)
            if data[start + 4 : start + 8] == b"IDAT":
                packed.append(data[start + 8 : start + 8 + length])
            start += length + 12
        return np.frombuffer(zlib.decompress(b"".join(packed)), np.uint8).reshape(height, width + 1)[:, 1:]
    except (ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{name}: damaged ({error})") from error


def check_label_values(label: np.ndarray, name: str, num_classes: int) -> None:
    """Raises `UserError` if a label [H, W], of any integer type, holds values that are neither class ids nor void."""
    wrong = label[(label >= num_classes) & (label != VOID)]
    if wrong.size:
        value = wrong.min()
        row, column = np.argwhere(label == value)[0]
        raise UserError(
            f"{name}: value {value} (first at row {row}, column {column}) is neither a class id "
            f"(0-{num_classes - 1}) nor {VOID} for void"
        )


def check_same_size(image: np.ndarray, label: np.ndarray, name: str) -> None:
    """Raises `UserError` if an image [H, W, 3] and its label [H, W] differ in size."""
    if image.shape[:2] != label.shape:
        (height, width), (label_height, label_width) = image.shape[:2], label.shape
        raise UserError(f"{name}: the mask is {label_width}x{label_height} pixels but the image is {width}x{height}")


def encode_label(label: np.ndarray, palette: np.ndarray) -> bytes:
    """Encodes class ids, uint8 [H, W], as a PNG with a palette, uint8 [256, 3], of their colours."""
    image = Image.fromarray(label)
    image.putpalette(palette.tobytes())  # turns mode "L" into "P"
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
