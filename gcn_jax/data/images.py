"""Decodes photographs; every failure becomes a `UserError` that names the file."""

import contextlib
import pathlib

import numpy as np
import simplejpeg
from PIL import Image

from gcn_jax.data.deep_images import is_deep, read_samples, scale, white_of_samples
from gcn_jax.data.image_files import errors_named, load_pixels, open_image, orientation_of, turn
from gcn_jax.errors import UserError


def decode_image(data: bytes, name: str, *, white: int = 0, turned: bool = True) -> np.ndarray:
    """Decodes a photograph and turns it upright by its EXIF orientation.

    Args:
      data: the bytes of a file in any common format and colour mode.
      name: of the file, for messages.
      white: of an image of more than 8 bits a channel, the value that becomes 255; 0 becomes 0, and what is between is
        scaled linearly. If it is 0, the file's own: see `white_of`. Images of 8 bits or fewer are as they are.
      turned: False leaves the pixels as they are stored, whatever the orientation.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      UserError: if the file is unreadable, truncated, has samples beyond 16 bits or more than `MAX_PIXELS` pixels.
    """
    return _decode(data, name, white, turned)[0]


def _decode(data: bytes, name: str, white: int, turned: bool) -> tuple[np.ndarray, int]:
    """What `decode_image` and `white_of` return; the given white, if there is one."""
    image = open_image(data, name)
    way = orientation_of(image, data) if turned else 1
    if image.format == "JPEG" and image.mode == "RGB":
        with contextlib.suppress(Exception):  # Pillow decides below whether an odd file is readable
            return turn(simplejpeg.decode_jpeg(data), way), 0  # the same pixels in 0.6 of the time
    with errors_named(name, "damaged or truncated image file"):
        if is_deep(image, data):
            samples, mode, stated = read_samples(data, name)
            white = white or white_of_samples(samples, stated)
            pixels = scale(samples, white)
            image = Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
        else:
            image, white = load_pixels(image, name, turned=False), 255
    with errors_named(name, f"its colours ({image.mode}) cannot be converted to RGB"):
        return turn(np.asarray(image.convert("RGB")), way), white if white != 255 else 0


def orientation(data: bytes, name: str) -> int:
    """Reads a photograph's EXIF orientation, 1 to 8, from its header; 1, upright, if there is none or it is damaged.

    Raises:
      UserError: if the header is that of no readable image.
    """
    return orientation_of(open_image(data, name), data)


def white_of(data: bytes, name: str) -> int:
    """The value of white in an image of more than 8 bits a channel; 0 for all others.

    It is what the file states (PNG: sBIT; TIFF: BitsPerSample, MaxSampleValue) if none of its values is above that;
    else the smallest 2**bits - 1 that none is above. An image of 16 bits whose values are all below 256 has 8 bits.

    Raises:
      UserError: as `decode_image` does.
    """
    image = open_image(data, name)
    with errors_named(name, "damaged or truncated image file"):
        if not is_deep(image, data):
            return 0
        samples, _, stated = read_samples(data, name)
        white = white_of_samples(samples, stated)
        return white if white != 255 else 0


def read_image(path: pathlib.Path, white: int = 0) -> tuple[np.ndarray, int]:
    """Reads a photograph as `decode_image` does.

    Returns:
      uint8 [H, W, 3]; and the value of white that its values were scaled by, 0 if it has 8 bits or fewer.

    Raises:
      UserError: if the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return _decode(data, str(path), white, turned=True)
