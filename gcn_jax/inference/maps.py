"""What a model says of each pixel: maps, by their names."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gcn_jax.data.specs import VOID

# What is computed for an image, by name: "labels", uint8 [H, W]; "probabilities", float32 [H, W, C]; "confidence", the
# largest of them, and "entropy", theirs divided by log(C), both float32 [H, W], 0-1; "loss", float32 [H, W], minus the
# logarithm of the true class's probability, 0 where the truth is void.
# Where a pixel may have several classes, "labels" are bool [H, W, C], whether a class's probability is above 1/2;
# "levels" are the probabilities in steps of 1 / LEVELS, rounded up, from 1 on, uint16 [H, W, C]; and "loss" is the sum
# over the classes of minus the logarithm of the probability of what is true, but at least 2**-24: float32 has nothing
# nearer to 1.
Maps = dict[str, Any]
LEVELS = 1024


def measured(xp: Any, scores: Any, probabilities: Any, wanted: tuple[str, ...], truth: Any = None) -> Maps:
    """The wanted maps, by `numpy` or `jax.numpy`.

    Args:
      xp: either.
      scores: what decides the labels, float32 [..., C].
      probabilities: float32 [..., C].
      wanted: names of `Maps`.
      truth: the true labels, uint8 [...], for the loss.
    """
    measures: dict[str, Callable[[], Any]] = {
        "labels": lambda: xp.argmax(scores, -1).astype(xp.uint8),
        "confidence": lambda: xp.max(probabilities, -1),
        "entropy": lambda: _entropy(xp, probabilities),
        "probabilities": lambda: probabilities,
        "loss": lambda: _loss(xp, probabilities, truth),
    }
    return {name: measures[name]() for name in wanted}


def measured_of_each(xp: Any, scores: Any, probabilities: Any, wanted: tuple[str, ...], truth: Any = None) -> Maps:
    """As `measured`, where a pixel may have several classes; truth is uint8 [..., C]."""
    del scores
    measures: dict[str, Callable[[], Any]] = {
        "labels": lambda: probabilities > 0.5,
        "levels": lambda: xp.clip(xp.ceil(probabilities * LEVELS), 1, LEVELS).astype(xp.uint16),
        "probabilities": lambda: probabilities,
        "loss": lambda: _logs(xp, xp.where(truth == 1, probabilities, 1 - probabilities), truth, 2.0**-24).sum(-1),
    }
    return {name: measures[name]() for name in wanted}


def _logs(xp: Any, of_truth: Any, truth: Any, least: Any) -> Any:
    return xp.where(truth == VOID, 0, -xp.log(xp.maximum(of_truth, least)))


def _entropy(xp: Any, p: Any) -> Any:
    return -(p * xp.log(xp.where(p > 0, p, 1))).sum(-1) / math.log(p.shape[-1])


def _loss(xp: Any, p: Any, truth: Any) -> Any:
    ids = np.arange(p.shape[-1], dtype=np.uint8).reshape(*[1] * truth.ndim, -1)
    least = np.finfo(np.float32).tiny  # what has underflowed to 0 counts as that
    return _logs(xp, xp.where(truth[..., None] == ids, p, 0).sum(-1), truth, least)


def cut(maps: Maps, height: int, width: int) -> Maps:
    """Arrays of an image's size, from the device."""
    return {name: np.asarray(values)[:height, :width] for name, values in maps.items()}


def stacked(parts: list[Maps]) -> Maps:
    """The maps of an image of those of its parts, from top to bottom."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
