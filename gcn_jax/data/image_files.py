"""Opens image files by Pillow, guarded: whatever a file holds, a `UserError` of one line that names it is all there is.

What is beside the pixels, such as EXIF, decides nothing but the orientation; where it cannot be read, it is 1.
"""

import contextlib
import ctypes
import functools
import io
import logging
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin

from gcn_jax.errors import UserError

# Refused before any pixel is decoded: 16384 x 8192 pixels, 400 MB as RGB.
MAX_PIXELS = 2**27
# The only formats that are read, each by one decoder of Pillow. (For EPS, Pillow would run Ghostscript.)
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif",
)  # fmt: skip

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how such files begin

# What Pillow, and the libtiff that comes with it, tell of odd files themselves is of no use to the reader of a progress
# bar. Set once, since none of this is per thread.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
for _library in pathlib.Path(Image.__file__).parents[1].glob("pillow.libs/libtiff*"):
    ctypes.CDLL(str(_library)).TIFFSetErrorHandler(None)


@contextlib.contextmanager
def errors_named(name: str, fault: str) -> Iterator[None]:
    """Makes a `UserError` of any exception: the file's name, the fault, and the first line of what was raised."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged bytes make Pillow raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name}: {fault} ({reason})") from error


def open_image(data: bytes, name: str) -> Image.Image:
    """Reads an image's header; its pixels are not decoded yet.

    Args:
      data: the file's bytes.
      name: of the file, for messages.

    Raises:
      UserError: if the format is unknown or needs a library that is not there, or the header is damaged, or states more
        than `MAX_PIXELS` pixels.
    """
    formats = _FORMATS if data[4:8] != b"ftyp" else (_format_of_brand(data, name),)
    try:
        # Image.open would look for further images in a JPEG, which many phones store, and then name it MPO.
        is_jpeg = data.startswith(b"\xff\xd8\xff")
        file = io.BytesIO(data)
        image = JpegImagePlugin.JpegImageFile(file) if is_jpeg else Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: {error}{_advice(data)}") from error
    except Exception as error:  # damaged bytes make Pillow raise many kinds
        way = ", or set config.data.channels to its bands" if data.startswith(TIFF) else ""
        raise UserError(
            f"{name}: not a readable image file; if other programs open it, save it as PNG there{way}"
        ) from error
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height} pixels"
        raise UserError(f"{name}: {size} are more than the limit of {MAX_PIXELS}{_advice(data)}")
    return image


def _advice(data: bytes) -> str:
    """What to do about an image that is too large."""
    is_tiff = data.startswith(TIFF)
    return '; as a TIFF, predict labels it with rasterio: pip install -c requirements.txt ".[geo]"' if is_tiff else ""


def _format_of_brand(data: bytes, name: str) -> str:
    """AVIF or HEIF, which have the same kind of header: its size, "ftyp", the main brand, a version, other brands."""
    brands = {data[i : i + 4] for i in (8, *range(16, min(int.from_bytes(data[:4], "big"), 256), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if not _can_read_heif():
        raise UserError(
            f'{name}: a HEIF image needs a library: pip install -c requirements.txt ".[heif]"; or convert it to JPEG'
        )
    return "HEIF"


@functools.cache
def _can_read_heif() -> bool:
    """Teaches Pillow to read HEIF, which takes a moment, when the first such file is met; False without the library."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def load_pixels(image: Image.Image, name: str, *, turned: bool = True) -> Image.Image:
    """Decodes an opened image's pixels.

    Args:
      image: from `open_image`.
      name: of the file, for messages.
      turned: whether a TIFF is turned by its orientation, as Pillow does. Images of other formats are never turned.

    Raises:
      UserError: if the pixels are damaged or incomplete.
    """
    with errors_named(name, "damaged or truncated image file"):
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            image.load()
            return image
        _mend_tiff(image)
        value = _exif_orientation(image)
        exif = image.getexif()  # kept since the line before; Pillow turns by it
        for tag in list(exif):  # it would read them all, and fail at a damaged one
            del exif[tag]
        image.info.pop("xmp", None)
        if turned:
            exif[ExifTags.Base.Orientation] = value
        image.load()
        return image.copy()  # which has the size of its pixels; until here the sides may be exchanged


def _mend_tiff(image: Any) -> None:
    """Sets right how Pillow understands the samples of two rare kinds of TIFF; it would read wrong values."""
    for i, tile in enumerate(image.tile):
        rawmode = tile.args[0]
        if tile.codec_name == "libtiff" and rawmode.endswith("S"):  # libtiff gives the machine's order of bytes
            rawmode = rawmode.rstrip("BS") + {"little": "S", "big": "BS"}[sys.byteorder]
        elif rawmode == "I":  # the number of bits is lost, of "separate planes" that are one
            if image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE) != (16,) or not image.mode.startswith("I;16"):
                raise ValueError("separate planes of this depth are not read; save it as PNG")
            rawmode = image.mode
        image.tile[i] = tile._replace(args=(rawmode, *tile.args[1:]))


def orientation_of(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation of an opened image of these bytes, 1 to 8; 1 if there is none or it is damaged."""
    if image.format == "PNG" and "exif" not in image.info:  # it may stand after the pixels
        with contextlib.suppress(Exception):
            return _exif_orientation(Image.open(io.BytesIO(_without_pixels(data)), formats=["PNG"]))
    return _exif_orientation(image)


def _exif_orientation(image: Image.Image) -> int:
    try:
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)  # a PNG's own would decode the pixels
    except Exception:  # damaged bytes make Pillow raise many kinds
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _without_pixels(data: bytes) -> bytes:
    pixels = (b"IDAT", b"fdAT", b"fcTL")
    return data[:8] + b"".join(data[place] for kind, place in png_chunks(data) if kind not in pixels)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, slice]]:
    """Yields the kind of each chunk of a PNG (ISO/IEC 15948), and where it is: its length, kind, body and CRC."""
    start = 8
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], slice(start, end)
        start = end


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an array [H, W, ...] of stored pixels upright by its EXIF orientation, 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])
