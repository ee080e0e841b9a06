"""What scores beside the last are compared with: the truth at their resolution, and its classes dilated and eroded."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gcn_jax.data.specs import VOID

RADIUS = 32  # pixels, of LRR's dilated and eroded classes


def stride_of(size: Sequence[int], coarse: Sequence[int]) -> int:
    """How many pixels of an image lie along a side of one of a coarser map, which was rounded up: a power of two."""
    return next(s for s in (2**i for i in range(8)) if all(-(-n // s) == m for n, m in zip(size, coarse, strict=True)))


def sampled(label: jax.Array, coarse: Sequence[int]) -> jax.Array:
    """The labels in the middle of the pixels of a coarser map; void where that is outside the image.

    Args:
      label: uint8 [B, H, W], or [B, H, W, C].
      coarse: the map's height and width, ``ceil(H / s)`` and ``ceil(W / s)`` for a power of two s.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gcn_jax.training.levels import sampled
      >>> label = jnp.arange(25, dtype=jnp.uint8).reshape(1, 5, 5)
      >>> sampled(label, (3, 3))[0].tolist()
      [[6, 8, 255], [16, 18, 255], [255, 255, 255]]
    """
    stride = stride_of(label.shape[1:3], coarse)
    if stride == 1:
        return label
    return _cells(label, coarse, stride)[:, :, stride // 2, :, stride // 2]


def region_loss(scores: jax.Array, label: jax.Array, kind: str) -> jax.Array:
    """The binary cross-entropy of each class, dilated or eroded by a disc of `RADIUS` pixels.

    Our choice: both are made at the scores' resolution. A class is dilated to where a pixel of the map within the disc
    holds it, and eroded to where it is held and nothing else is within the disc; void is nothing else. The mean is over
    all classes of pixels whose middle is not void; 0 if there is none.

    Args:
      scores: float32 [B, h, w, C].
      label: uint8 [B, H, W], 255 is void; h and w as `sampled` takes them.
      kind: "dilated" or "eroded".
    """
    coarse = scores.shape[1:3]
    stride = stride_of(label.shape[1:3], coarse)
    cells = _cells(label, coarse, stride)[..., None]
    is_class = cells == jnp.arange(scores.shape[-1], dtype=label.dtype)[None, None, None, None, None]
    held = is_class.any((2, 4))
    if kind == "dilated":
        truth = _around(held, RADIUS // stride)
    else:
        others = (~is_class & (cells != VOID)).any((2, 4))
        truth = held & ~_around(others, RADIUS // stride)
    is_counted = (sampled(label, coarse) != VOID)[..., None]
    losses = -jax.nn.log_sigmoid(jnp.where(truth, scores, -scores))
    count = scores.shape[-1] * jnp.maximum(is_counted.sum(), 1)
    return jnp.where(is_counted, losses, 0.0).sum() / count


def _cells(label: jax.Array, coarse: Sequence[int], stride: int) -> jax.Array:
    """[B, H, W, ...] -> [B, h, stride, w, stride, ...], void beyond the image."""
    height, width = (side * stride for side in coarse)
    padding = [(0, 0), (0, height - label.shape[1]), (0, width - label.shape[2])] + [(0, 0)] * (label.ndim - 3)
    label = jnp.pad(label, padding, constant_values=VOID)
    return label.reshape(label.shape[0], coarse[0], stride, coarse[1], stride, *label.shape[3:])


def _around(x: jax.Array, radius: int) -> jax.Array:
    """Whether any pixel within a disc is true: bool [B, h, w, C] -> the same."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)))
    places = [(i, j) for i in range(2 * radius + 1) for j in range(2 * radius + 1)]
    inside = [(i, j) for i, j in places if (i - radius) ** 2 + (j - radius) ** 2 <= radius**2]
    return functools.reduce(jnp.logical_or, (padded[:, i : i + height, j : j + width] for i, j in inside))
