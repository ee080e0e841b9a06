"""Images of any number of bands, 8 or 16 bits or floats, with the values that the file holds.

``config.data.channels`` says which bands, counted from 1 as GDAL counts them: "4" the first four, "4,3,2" these three
in this order, "4," the fourth alone. "RGB" and "BGR" are no bands but photographs, which `images` reads.
"""

import functools
import io
import logging
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from gcn_jax.data import images
from gcn_jax.data.deep_images import is_deep, read_all_samples
from gcn_jax.data.image_files import IMAGE_SUFFIXES, MAX_PIXELS, TIFF, errors_named, load_pixels, open_image, turn
from gcn_jax.errors import UserError

Bands = tuple[int, ...]  # () for photographs, which are RGB
KINDS = ("uint8", "uint16", "float32")  # what the values of bands may be
FORM = 'RGB, BGR, a number of bands ("4": the first four) or a list ("4,3,2"; "4,": the fourth)'
MAX_BANDS = 4096
MAX_BYTES = 2**31  # of a file, and of its values
ARRAY_SUFFIX = ".npy"
_NUMPY = b"\x93NUMPY"
_LEAST_HEIGHT = 32  # of an array whose first axis is taken for its rows, though it is the shortest
_ORIENTATION = 274  # TIFF's tag
_PHOTOMETRIC = (0, 1, 2, 5, 34892)  # grey, RGB, inks, raw; not a palette or colours of another kind
_JPEG = (6, 7)  # YCbCr that JPEG compressed, which is decoded to RGB
_MODES = {"1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}  # Pillow's -> one with bands


def parse(channels: str) -> Bands:
    """The bands that ``config.data.channels`` names; none for "RGB" and "BGR".

    Raises:
      ValueError: if it names nothing.
    """
    if channels in ("RGB", "BGR"):
        return ()
    if not re.fullmatch(r"[1-9]\d{0,3}( *, *[1-9]\d{0,3})* *,?", channels, re.ASCII):
        raise ValueError(channels)
    numbers = tuple(int(text) for text in channels.split(",") if text.strip())
    bands = tuple(range(1, numbers[0] + 1)) if "," not in channels else numbers
    if max(*bands, len(bands)) > MAX_BANDS:
        raise ValueError(channels)
    return bands


def suffixes(bands: Bands) -> tuple[str, ...]:
    """The suffixes that files of images have."""
    return (*IMAGE_SUFFIXES, ARRAY_SUFFIX) if bands else IMAGE_SUFFIXES


def marks(bands: Bands) -> list[str]:
    """What tells a folder's survey of these bands from one of its photographs."""
    return [f"bands {bands}"] if bands else []


def decode(data: bytes, name: str, bands: Bands, *, white: int = 0, turned: bool = True) -> np.ndarray:
    """Decodes an image.

    Args:
      data: the bytes of a file: TIFF, NumPy's .npy, or a format of photographs.
      name: of the file, for messages.
      bands: which ones, in this order; (): RGB, as `images.decode_image` reads it.
      white: of photographs, see there; bands are never scaled.
      turned: whether an image is turned upright by its orientation.

    Returns:
      [H, W, bands], uint8 or uint16 if the file holds these, otherwise float32.

    Raises:
      UserError: if the file is unreadable, too large, or has not all of the bands.
    """
    if not bands:
        return images.decode_image(data, name, white=white, turned=turned)
    if len(data) > MAX_BYTES:
        raise UserError(f"{name}: {len(data):,} bytes are more than the limit of {MAX_BYTES:,}")
    pixels = _reader(data)(data, name)
    pixels = _chosen(pixels, bands, name)
    return turn(pixels, orientation(data, name, bands)) if turned else pixels


def orientation(data: bytes, name: str, bands: Bands) -> int:
    """Reads an image's EXIF orientation, 1 to 8, as `images.orientation` does."""
    if bands and data.startswith(_NUMPY):
        return 1
    if bands and data.startswith(TIFF):
        with errors_named(name, "damaged or truncated image file"), _open_tiff(data, name) as file:
            tag = file.pages[0].tags.get(_ORIENTATION)
            return tag.value if tag and tag.value in range(1, 9) else 1
    return images.orientation(data, name)


def read(path: pathlib.Path, bands: Bands, white: int = 0) -> tuple[np.ndarray, int]:
    """Reads an image as `decode` does; also the value of white that an RGB image was scaled by, see `read_image`."""
    if not bands:
        return images.read_image(path, white)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes are more than the limit of {MAX_BYTES:,}")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return decode(data, str(path), bands), 0


def check_kind(image: np.ndarray, kind: str, name: str) -> None:
    """Raises `UserError` unless an image's values are of the kind that a model was trained on."""
    if kind and image.dtype != kind:
        raise UserError(f"{name}: its values are {image.dtype}, but the model's {kind} (config.data.depth); convert it")


def _reader(data: bytes) -> Callable[[bytes, str], np.ndarray]:
    return _read_tiff if data.startswith(TIFF) else _read_array if data.startswith(_NUMPY) else _read_photograph


def _chosen(pixels: np.ndarray, bands: Bands, name: str) -> np.ndarray:
    """The bands of pixels, [H, W] or [H, W, C], as one of `KINDS`."""
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    count = pixels.shape[2]
    if max(bands) > count:
        has = f"{count} band{'s' if count > 1 else ''}"
        raise UserError(f"{name}: has {has}, but config.data.channels takes band {max(bands)}; use a file that has it")
    if bands != tuple(range(1, count + 1)):
        pixels = pixels[..., [band - 1 for band in bands]]
    return as_kind(pixels, name)


def as_kind(pixels: np.ndarray, name: str) -> np.ndarray:
    """Pixels of any type as one of `KINDS`, contiguous; raises `UserError` if that is not possible."""
    if pixels.dtype.kind not in "buif":
        raise UserError(f"{name}: holds values of type {pixels.dtype}; convert them to 8 or 16 bits or floats")
    kind = np.dtype("uint8") if pixels.dtype == bool else pixels.dtype.newbyteorder("=")
    with np.errstate(over="ignore", invalid="ignore"):  # what is beyond float32 is infinite
        return np.ascontiguousarray(pixels, kind if kind in KINDS else np.float32)


def _check_size(shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    """Raises `UserError` for an image of [H, W] or [H, W, C] that holds nothing or too much."""
    if min(shape) == 0:
        raise UserError(f"{name}: holds no pixel; its shape is {shape}")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise UserError(f"{name}: {shape[1]}x{shape[0]} pixels are more than the limit of {MAX_PIXELS}")
    if (size := math.prod(shape) * dtype.itemsize) > MAX_BYTES:
        raise UserError(f"{name}: its values take {size:,} bytes, more than the limit of {MAX_BYTES:,}")


def _read_photograph(data: bytes, name: str) -> np.ndarray:
    """The samples of a file that Pillow reads, colours of a palette as RGB: uint8 or uint16."""
    image = open_image(data, name)
    _check_size((image.height, image.width, len(image.getbands())), np.dtype("uint16"), name)
    with errors_named(name, "damaged or truncated image file"):
        if is_deep(image, data):
            return read_all_samples(data, name)[0]
        image = load_pixels(image, name, turned=False)
        mode = _MODES.get(image.mode, image.mode)
        return np.asarray(image.convert("RGBA" if mode == "RGB" and "transparency" in image.info else mode))


def _read_array(data: bytes, name: str) -> np.ndarray:
    """An array of NumPy's format, [H, W] or [H, W, C]; its header alone is read before it is checked."""
    file = io.BytesIO(data)
    with errors_named(name, "damaged NumPy file"):
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_transposed, dtype = header(file)
    if dtype.kind not in "buif":  # an object could run code
        raise UserError(f"{name}: holds values of type {dtype}; convert them to 8 or 16 bits or floats")
    if len(shape) not in (2, 3):
        raise UserError(f"{name}: its shape is {shape}; it must be [H, W] or [H, W, bands]")
    _check_size(shape, dtype, name)
    if len(shape) == 3 and shape[0] < min(_LEAST_HEIGHT, *shape[1:]):
        raise UserError(f"{name}: its shape {shape} looks like [bands, H, W]; save it as [H, W, bands], by np.moveaxis")
    if len(data) - file.tell() < math.prod(shape) * dtype.itemsize:
        raise UserError(f"{name}: truncated; its values need {math.prod(shape) * dtype.itemsize:,} bytes")
    values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return values.reshape(shape[::-1]).T if is_transposed else values.reshape(shape)


@functools.cache
def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError:
        return None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it tells of odd files
    return tifffile


def _open_tiff(data: bytes, name: str) -> Any:
    if not (library := _tifffile()):
        raise UserError(
            f'{name}: the bands of a TIFF need a library: pip install -c requirements.txt ".[bands]"; or convert it to '
            f"PNG or .npy"
        )
    return library.TiffFile(io.BytesIO(data))


def _read_tiff(data: bytes, name: str) -> np.ndarray:
    """The first image of a TIFF as it is stored, [H, W] or [H, W, C]; pages of one size are bands."""
    fault = "damaged or truncated image file, or of a kind that tifffile does not read"
    with errors_named(name, fault), _open_tiff(data, name) as file:
        page, series = file.pages[0], file.series[0]
        if page.photometric not in _PHOTOMETRIC and (page.photometric, page.compression) != _JPEG:
            kind = getattr(page.photometric, "name", page.photometric)
            raise UserError(f"{name}: its values are {kind}, no bands; save it as RGB")
        kept = [i for i, axis in enumerate(series.axes) if axis in "YXS" or series.shape[i] > 1]
        shape, axes = tuple(series.shape[i] for i in kept), "".join(series.axes[i] for i in kept)
        place = _band_axis(shape, axes, name)
        rows_first = shape if place is None else (*np.delete(shape, place), shape[place])
        _check_size(rows_first, series.dtype, name)
        pixels = series.asarray(maxworkers=1).reshape(shape)
    return pixels if place is None else np.moveaxis(pixels, place, -1)


def _band_axis(shape: tuple[int, ...], axes: str, name: str) -> int | None:
    """Which axis of a TIFF is its bands: its samples, or in a stack of pages the shortest, first or last."""
    if len(shape) == 2:
        return None
    if len(shape) == 3 and "S" in axes:
        return axes.index("S")
    if len(shape) == 3 and shape[0] != shape[2] and min(shape[0], shape[2]) < shape[1]:
        return 0 if shape[0] < shape[2] else 2
    raise UserError(f"{name}: which axis of its shape {shape} are the bands? Save it as one page of [H, W, bands]")
