"""Decodes image and label files; every failure becomes a `UserError` that names the file."""

import contextlib
import io
import pathlib

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps

from gcn_jax.errors import UserError

# Refused before any pixel is decoded: 16384 x 8192 pixels, 400 MB as RGB.
MAX_PIXELS = 2**27
# The only formats that are read, each by one decoder of Pillow. (For EPS, Pillow would run Ghostscript.)
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def open_image(data: bytes, name: str) -> Image.Image:
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


def load_pixels(image: Image.Image, name: str) -> Image.Image:
    """Decodes an image's pixels; raises `UserError` if they are damaged or incomplete."""
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{name}: damaged or truncated image file ({error})") from error
    return image


def orientation(data: bytes, name: str) -> int:
    """The EXIF orientation of an image, 1 to 8."""
    return open_image(data, name).getexif().get(ExifTags.Base.Orientation, 1)


def white_of(data: bytes, name: str) -> int:
    """The value of white in an image of more than 8 bits; 0 for others."""
    return 65535 if open_image(data, name).mode.startswith("I;16") else 0


def decode_image(data: bytes, name: str, *, white: int = 0, turned: bool = True) -> np.ndarray:
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
    image = open_image(data, name)
    is_upright = not turned or image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    if image.format == "JPEG" and image.mode == "RGB" and is_upright:
        with contextlib.suppress(ValueError):  # Pillow decides below whether an odd file is readable
            return simplejpeg.decode_jpeg(data)  # the same pixels in 0.6 of the time
    image = load_pixels(image, name)
    if image.mode in ("I", "F"):
        raise UserError(f"{name}: has 32-bit channels; convert it to 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray((ImageOps.exif_transpose(image) if turned else image).convert("RGB"))


def read_image(path: pathlib.Path) -> np.ndarray:
    """Reads and decodes a photograph, as `decode_image` does; raises `UserError` if the file cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_image(data, str(path))
