"""Label maps as colours, for people."""

import numpy as np
from PIL import Image

from gcn_jax.data.specs import VOID

_LEAST_HEIGHT = 192  # pixels of a picture


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Blends the classes' colours half and half over an image; class 0 and void stay as they are.

    Args:
      image: uint8 [H, W, 3].
      label: uint8 [H, W].
      palette: uint8 [256, 3].

    Returns:
      uint8 [H, W, 3].
    """
    is_tinted = (label != 0) & (label != VOID)
    blended = (image.astype(np.uint16) + palette[label]) // 2
    return np.where(is_tinted[..., None], blended, image).astype(np.uint8)


def triptych(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Image, truth and prediction side by side, uint8 [H, W, 3]; enlarged if small; void shows in both maps."""
    prediction = np.where(label == VOID, VOID, prediction)
    picture = np.concatenate([image, palette[label], palette[prediction]], axis=1)
    factor = -(-_LEAST_HEIGHT // len(picture))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def stack(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures one below the other, white beside the narrower ones: uint8 [H, W, 3]."""
    width = max(picture.shape[1] for picture in pictures)
    widths = [((0, 4), (0, width - picture.shape[1]), (0, 0)) for picture in pictures]
    return np.concatenate([np.pad(p, w, constant_values=255) for p, w in zip(pictures, widths, strict=True)])


def save_picture(picture: np.ndarray, path, **options) -> None:
    """Writes uint8 [H, W, 3] to a file; its ending says the format."""
    Image.fromarray(picture).save(path, **options)
