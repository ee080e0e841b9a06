"""Decodes image and label files; every failure becomes a `UserError` that names the file."""

import contextlib
import io
import pathlib
import struct
import zlib

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps

from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError

# Refused before any pixel is decoded: 16384 x 8192 pixels, 400 MB as RGB.
MAX_PIXELS = 2**27
# Labels are bytes: class ids are below 254; 254 marks a colour that no class has; 255 is void.
MAX_CLASSES = 254
NO_CLASS = 254
# The only formats that are read, each by one decoder of Pillow. (For EPS, Pillow would run Ghostscript.)
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def _open(data: bytes, name: str) -> Image.Image:
    """Reads an image's header; its pixels are not decoded yet."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{name}: not a readable image file") from error
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{name}: {image.width}x{image.height} pixels are more than the limit of {MAX_PIXELS}")
    return image


def _load(image: Image.Image, name: str) -> Image.Image:
    """Decodes an image's pixels; raises `UserError` if they are damaged or incomplete."""
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{name}: damaged or truncated image file ({error})") from error
    return image


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes a photograph and turns it upright by its EXIF orientation.

    Args:
      data: the bytes of a file in any common format and colour mode, except with 32-bit channels. Of 16-bit channels
        only the high bytes are used.
      name: of the file, for messages.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      UserError: if the file is unreadable, truncated, has 32-bit channels or more than `MAX_PIXELS` pixels.
    """
    image = _open(data, name)
    is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    if image.format == "JPEG" and image.mode == "RGB" and is_upright:
        with contextlib.suppress(ValueError):  # Pillow decides below whether an odd file is readable
            return simplejpeg.decode_jpeg(data)  # the same pixels in 0.6 of the time
    image = _load(image, name)
    if image.mode in ("I", "F"):
        raise UserError(f"{name}: has 32-bit channels; convert it to 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def decode_label(data: bytes, name: str, num_classes: int, colors: np.ndarray | None = None) -> np.ndarray:
    """Decodes a label mask: class ids as grey values (8 or 16 bits) or as palette indices, or classes as colours.

    Args:
      data: the file's bytes.
      name: of the file, for messages.
      num_classes: all ids must be below it, except void's, which is 255, or 65535 in 16 bits.
      colors: uint8 [2**24], for RGB masks: the label of the colour with index 65536 R + 256 G + B; `NO_CLASS` for
        colours of no class. None: RGB masks are refused.

    Returns:
      uint8 [H, W].

    Raises:
      UserError: if the file is unreadable, is an RGB mask without `colors`, or holds a value or colour of no class.
    """
    image = _load(_open(data, name), name)
    if image.mode in ("RGB", "RGBA"):
        if colors is None:
            raise UserError(
                f"{name}: a mask must be a grey or palette PNG of class ids, but its mode is {image.mode}; colours "
                f"are understood in a folder whose classes.txt says what each means"
            )
        return _label_of_colors(np.asarray(image)[..., :3], name, colors)
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I;16"):
        raise UserError(f"{name}: a mask must be a grey, palette or RGB image, but its mode is {image.mode}")
    label = np.asarray(image)
    if label.dtype not in (np.bool_, np.uint8):  # 16 bits
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


def _label_of_colors(pixels: np.ndarray, name: str, colors: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(pixels.astype(np.uint32), -1, 0)
    label = colors[red << 16 | green << 8 | blue]
    if NO_CLASS in label:
        row, column = np.argwhere(label == NO_CLASS)[0]
        color = " ".join(map(str, pixels[row, column]))
        raise UserError(f"{name}: colour {color} (first at row {row}, column {column}) is not in classes.txt")
    return label


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


def read_image(path: pathlib.Path) -> np.ndarray:
    """Reads and decodes a photograph, as `decode_image` does; raises `UserError` if the file cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_image(data, str(path))
