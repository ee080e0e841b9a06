"""Image and label files, decoded with every failure named."""

import io
import pathlib

import numpy as np
from PIL import Image, ImageOps

from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError

# Refused before any pixel is decoded: 16384 x 8192 pixels, 400 MB as RGB.
MAX_PIXELS = 2**27
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def _open(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{name}: not a readable image file") from error
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{name}: {image.width}x{image.height} pixels are more than the limit of {MAX_PIXELS}")
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{name}: damaged or truncated image file ({error})") from error
    return image


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes a photograph, turned upright by its EXIF orientation.

    Args:
      data: a file's bytes, of any format and colour mode that Pillow reads.
      name: of the file, for messages.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      UserError: if the file is unreadable, truncated or larger than `MAX_PIXELS`.
    """
    return np.asarray(ImageOps.exif_transpose(_open(data, name)).convert("RGB"))


def decode_label(data: bytes, name: str, num_classes: int) -> np.ndarray:
    """Decodes a label mask: a grey or palette PNG whose pixels are class ids, or 255 for void.

    Returns:
      uint8 [H, W].

    Raises:
      UserError: if the file is unreadable, is neither grey nor palette, or holds a value that is no class.
    """
    image = _open(data, name)
    if image.mode not in ("L", "P"):
        raise UserError(f"{name}: a mask must be a grey or palette PNG of class ids, but its mode is {image.mode}")
    label = np.asarray(image)
    check_label_values(label, name, num_classes)
    return label


def check_label_values(label: np.ndarray, name: str, num_classes: int) -> None:
    """Raises `UserError` naming the first value of the uint8 label that is neither a class id nor void."""
    counts = np.bincount(label.reshape(-1), minlength=256)
    wrong = [value for value in np.flatnonzero(counts) if value >= num_classes and value != VOID]
    if wrong:
        row, column = np.argwhere(label == wrong[0])[0]
        raise UserError(
            f"{name}: value {wrong[0]} (first at row {row}, column {column}) is neither a class id "
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
