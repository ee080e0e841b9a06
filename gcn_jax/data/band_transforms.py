"""What random changes do to bands that are not RGB: [H, W, C] of uint8, uint16 or float32."""

from collections.abc import Callable

import numpy as np
import scipy.ndimage
from PIL import Image


def is_rgb(image: np.ndarray) -> bool:
    """Whether an image [..., C] can be taken for RGB: it has three channels of uint8."""
    return image.dtype == np.uint8 and image.shape[-1] == 3


def each_band(image: np.ndarray, change: Callable[[Image.Image, int], Image.Image]) -> np.ndarray:
    """Changes each band as a picture of floats, given its place; bands of whole numbers are rounded again."""
    bands = (np.ascontiguousarray(image[..., band], np.float32) for band in range(image.shape[2]))
    changed = [np.asarray(change(Image.fromarray(values), band)) for band, values in enumerate(bands)]
    return _like(np.stack(changed, axis=-1), image.dtype)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs each band by a Gaussian, of a sigma in pixels; the border is mirrored."""
    return _like(scipy.ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0)), image.dtype)


def jittered(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """Multiplies the values by a factor, and then the differences from the mean of each band by another."""
    values = image.astype(np.float32) * np.float32(brightness)
    is_finite = np.isfinite(values)
    means = np.where(is_finite, values, 0).sum((0, 1), np.float64) / np.maximum(is_finite.sum((0, 1)), 1)
    return _like(values * np.float32(contrast) + (means * (1 - contrast)).astype(np.float32), image.dtype)


def _like(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats as a type of values: rounded and clipped to its range if it is one of whole numbers."""
    if dtype.kind == "f":
        return values
    return np.rint(values).clip(0, np.iinfo(dtype).max).astype(dtype)
