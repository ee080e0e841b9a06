"""Image and label files, decoded with every failure named."""

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
# Labels are bytes: ids below 254, 254 among the labels of colours for a colour that no class has, 255 for void.
MAX_CLASSES = 254
NO_CLASS = 254
# Those of Pillow's formats that are read: each by its decoder alone (for EPS, Pillow would run Ghostscript).
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
    """Decodes the pixels."""
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{name}: damaged or truncated image file ({error})") from error
    return image


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes a photograph, turned upright by its EXIF orientation; of 16-bit channels the high bytes are taken.

    Args:
      data: a file's bytes, of any usual format and any colour mode but 32-bit channels.
      name: of the file, for messages.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      UserError: if the file is unreadable, truncated, of 32-bit channels or larger than `MAX_PIXELS`.
    """
    image = _open(data, name)
    is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    if image.format == "JPEG" and image.mode == "RGB" and is_upright:
        with contextlib.suppress(ValueError):  # whatever is odd about a file is for Pillow to forgive or to name
            return simplejpeg.decode_jpeg(data)  # the same pixels in 0.6 of the time
    image = _load(image, name)
    if image.mode in ("I", "F"):
        raise UserError(f"{name}: has 32-bit channels; convert it to 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def decode_label(data: bytes, name: str, num_classes: int, colors: np.ndarray | None = None) -> np.ndarray:
    """Decodes a label mask: class ids as grey values of 8 or 16 bits or as palette indices, or classes as colours.

    Args:
      data: a file's bytes.
      name: of the file, for messages.
      num_classes: ids are below it, but for void: 255, or 65535 in 16 bits.
      colors: uint8 [2**24], the label of each colour 65536 R + 256 G + B, `NO_CLASS` where it is none; for RGB masks.

    Returns:
      uint8 [H, W].

    Raises:
      UserError: if the file is unreadable, is RGB without colours, or holds a value or a colour that is no class.
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
    """Decodes what `encode_label` wrote, in 0.6 of Pillow's time: uint8 [H, W].

    Such a PNG (ISO/IEC 15948) has 8 bits a pixel, no interlacing and filter type 0 before each row.

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
    """Raises `UserError` naming the smallest value of a label, of any integer type, that is no class id nor void."""
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
    """A palette PNG: uint8 [H, W] class ids with uint8 [256, 3] colours."""
    image = Image.fromarray(label)
    image.putpalette(palette.tobytes())  # turns mode "L" into "P"
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def read_image(path: pathlib.Path) -> np.ndarray:
    """`decode_image` of a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_image(data, str(path))
