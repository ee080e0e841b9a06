"""Images of more than 8 bits a sample: all bits of their samples, and the value of white.

Of colours with 16 bits Pillow keeps the high bytes. Read a second time, with the bytes of each sample exchanged, it
keeps the low ones.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from gcn_jax.data.image_files import load_pixels, open_image, png_chunks
from gcn_jax.errors import UserError

_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE_VALUE, _PLANAR = 258, 262, 281, 284  # TIFF's tags
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def is_deep(image: Any, data: bytes) -> bool:
    """Whether an opened image of these bytes has more than 8 bits a sample."""
    match image.format:
        case "PNG":
            return ";16" in _rawmodes(image)[0]
        case "TIFF":
            return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))) > 8
        case "PPM":
            return image.mode == "F" or _white_of_ppm(image) > 255
        case "JPEG2000":
            return _bits_of_jpeg2000(data) > 8
    return False


def read_samples(data: bytes, name: str) -> tuple[np.ndarray, str, int]:
    """Reads all bits of an image that is deep.

    Returns:
      The samples as they are stored, unturned and without transparency, uint16 [H, W], [H, W, 3] or [H, W, 4]; what
      they are: "L", "RGB" or "CMYK"; and the value of white that the file states, 0 if it states none.

    Raises:
      UserError: as `read_all_samples` does.
    """
    samples, mode, stated = read_all_samples(data, name)
    if samples.ndim == 2 or samples.shape[2] == 2:
        return samples.reshape(*samples.shape[:2], -1)[..., 0], "L", stated
    return (samples, "CMYK", stated) if mode == "CMYK" else (samples[..., :3], "RGB", stated)


def read_all_samples(data: bytes, name: str) -> tuple[np.ndarray, str, int]:
    """Reads all bits of an image that is deep, transparency included.

    Returns:
      The samples as they are stored, unturned, uint16 [H, W] or [H, W, bands]; Pillow's mode of the image; and the
      value of white that the file states, 0 if it states none.

    Raises:
      UserError: if the file is damaged, or has samples beyond 16 bits or of a kind that is not read in full.
    """
    image: Any = open_image(data, name)
    stated = _stated_white(image, data)
    if image.mode == "F":
        raise UserError(
            f"{name}: has 32-bit channels; convert it to 8 or 16 bits, or read a TIFF's with config.data.channels=1"
        )
    if image.format == "PPM" and image.tile[0].codec_name != "ppm_plain":
        shape = (image.height, image.width, len(image.getbands()))[: 2 if image.mode == "I" else 3]
        samples = np.frombuffer(data, ">u2", math.prod(shape), image.tile[0].offset).reshape(shape)
    elif image.mode.startswith("I") and (image.format != "JPEG2000" or _bits_of_jpeg2000(data) == 16):
        samples = _grey(image, name, data, stated)
    elif image.format == "PNG" or (image.format == "TIFF" and not _has_compressed_planes(image)):
        samples = _colors(image, data, name)
    else:
        raise UserError(
            f"{name}: {image.format} of more than 8 bits a channel, of a kind that is not read: save it as PNG"
        )
    return samples, image.mode, stated


def white_of_samples(samples: np.ndarray, stated: int) -> int:
    """The stated value of white if no sample is above it; else the smallest 2**bits - 1, bits 8 to 16, that none is."""
    largest = int(samples.max())
    return stated if stated > 0 and largest <= stated else 2 ** max(8, largest.bit_length()) - 1


def scale(samples: np.ndarray, white: int) -> np.ndarray:
    """Scales samples of any shape, uint16, to uint8: 0 to 0, white and what is above it to 255; rounded."""
    table = np.minimum((np.arange(2**16) * 255 + white // 2) // white, 255).astype(np.uint8)
    return table[samples]


def _rawmodes(image: Any) -> list[str]:
    """Pillow's names for how samples lie in each part of a file, such as "RGB;16B"."""
    return [tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile]


def _stated_white(image: Any, data: bytes) -> int:
    if image.format == "PPM" and image.mode != "F":
        return _white_of_ppm(image)
    bits, values = [], []
    if image.format == "PNG":
        body = next((data[place][8:-4] for kind, place in png_chunks(data) if kind == b"sBIT"), b"")
        bits = list(body[: 3 if "RGB" in _rawmodes(image)[0] else 1])  # of the colours; that of transparency follows
    if image.format == "TIFF":
        bits = [number for number in image.tag_v2.get(_BITS_PER_SAMPLE) if number < 16]
        values = np.atleast_1d(image.tag_v2.get(_MAX_SAMPLE_VALUE, ())).tolist()[:3]
    values += [2**number - 1 for number in bits if 0 < number <= 16]
    return max((value for value in values if isinstance(value, int) and 0 < value < 2**16), default=0)


def _white_of_ppm(image: Any) -> int:
    args = image.tile[0].args  # a name and the value of white; a name alone for the commonest
    return args[1] if isinstance(args, tuple) else 65535 if args == "I;16B" else 255


def _bits_of_jpeg2000(data: bytes) -> int:
    """The most bits of a component: the codestream begins with SOC and SIZ (ISO/IEC 15444-1, A.5.1)."""
    start = data.index(b"\xff\x4f\xff\x51")
    count = int.from_bytes(data[start + 40 : start + 42], "big")
    return max((byte & 127) + 1 for byte in data[start + 42 : start + 42 + 3 * count : 3])


def _has_compressed_planes(image: Any) -> bool:
    """Whether the colours of a TIFF are stored one after the other, and compressed: Pillow fixes the order of bytes."""
    return image.tile[0].codec_name == "libtiff" and image.tag_v2.get(_PLANAR) == 2


def _grey(image: Any, name: str, data: bytes, stated: int) -> np.ndarray:
    """The samples of an image with one band, uint16 [H, W]."""
    samples = np.asarray(load_pixels(open_image(data, name), name, turned=False))
    low, high = samples.min(), samples.max()
    if low < 0 or high > 65535:
        raise UserError(f"{name}: has 32-bit channels, with values from {low} to {high}; convert it to 8 or 16 bits")
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # white is 0
        samples = np.maximum((stated or 65535) - samples.astype(np.int32), 0)
    return samples.astype(np.uint16)


def _colors(image: Any, data: bytes, name: str) -> np.ndarray:
    """The samples of an image with several bands, uint16 [H, W, bands]."""
    found = _rawmodes(image)
    if found == ["LA;16B"]:  # of which Pillow would keep the high bytes; as RGBA these are two bytes of each
        return _read_as(lambda text: "RGBA", data, name).view(">u2").astype(np.uint16)
    file_order = "L" if image.format == "TIFF" and image.tag_v2.prefix == b"II" else "B"

    def one_byte(is_low: bool) -> np.ndarray:
        def rawmode(text: str) -> str:
            bands, _, kind = text.partition(";16")
            order = kind or file_order  # which Pillow drops for separate planes
            return f"{bands.upper()};16{_OTHER_ORDER[order] if is_low else order}"

        return _read_as(rawmode, data, name)

    samples = one_byte(is_low=False).astype(np.uint16) << 8 | one_byte(is_low=True)
    if any("a" in text for text in found):  # colours that were multiplied by the opacity
        alpha = np.maximum(samples[..., 3:], 1).astype(np.uint32)
        return np.minimum(samples.astype(np.uint32) * 65535 // alpha, 65535).astype(np.uint16)
    return samples


def _read_as(rawmode: Callable[[str], str], data: bytes, name: str) -> np.ndarray:
    """Decodes an image with another description of its bytes, made of Pillow's own one, such as "RGB;16B"."""
    image: Any = open_image(data, name)
    for i, tile in enumerate(image.tile):
        args = rawmode(tile.args) if isinstance(tile.args, str) else (rawmode(tile.args[0]), *tile.args[1:])
        image.tile[i] = tile._replace(args=args)
    return np.asarray(load_pixels(image, name, turned=False))
