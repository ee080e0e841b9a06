"""How well the confidence of predictions says how often they are right (Guo et al., ICML 2017)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gcn_jax.data.specs import VOID

BINS = 15  # of equal widths; Guo et al.'s number
_LEVELS = 2**16 - 1  # confidences are rounded to multiples of 1 / this, of which 15 is a divisor


@dataclass(frozen=True)
class Calibration:
    """Exact counts of pixels by their confidence; void is not counted.

    Attributes:
      counts: int64 [BINS, 3], of the bins (0, 1/15], (1/15, 2/15], ...: the number of pixels, how many of them are
        right, and the sum of their confidences in units of 1/65535.
    """

    counts: np.ndarray

    @classmethod
    def empty(cls) -> "Calibration":
        """The counts of no image, to which others are merged."""
        return cls(np.zeros((BINS, 3), np.int64))

    @classmethod
    def of_image(cls, *, label: np.ndarray, prediction: np.ndarray, confidence: np.ndarray) -> "Calibration":
        """Counts the pixels of one image: true and predicted class ids, uint8 [H, W]; confidence, float32 [H, W]."""
        levels = np.rint(np.minimum(confidence, 1) * _LEVELS).astype(np.uint32)
        np.add(levels, _LEVELS + 1, out=levels, where=label == prediction)
        levels[label == VOID] = 2 * (_LEVELS + 1)
        found = np.bincount(levels.reshape(-1), minlength=3 * (_LEVELS + 1)).reshape(3, -1)[:2]
        pixels, steps = found.sum(0), np.arange(_LEVELS + 1)
        by_level = np.stack([pixels, found[1], pixels * steps])
        starts = np.arange(BINS) * (_LEVELS // BINS) + 1
        starts[0] = 0
        return cls(np.add.reduceat(by_level, starts, axis=1).T)

    @classmethod
    def of_levels(cls, confidence: np.ndarray, pixels: np.ndarray, right: np.ndarray) -> "Calibration":
        """The counts of some confidences, each of so many pixels, of which so many are right; all are [N]."""
        found = cls.empty()
        rows = np.stack([pixels, right, pixels * np.rint(confidence * _LEVELS).astype(np.int64)], axis=1)
        np.add.at(found.counts, np.ceil(confidence * BINS).astype(int) - 1, rows)
        return found

    def merge(self, other: "Calibration") -> "Calibration":
        """The counts of both's images together."""
        return Calibration(self.counts + other.counts)

    def compute(self) -> dict[str, Any]:
        """The content of ``calibration`` in ``eval.json``, of types that JSON has.

        Returns:
          ``ece``, the expected calibration error: the mean over all pixels of how far the accuracy of a bin is from its
          mean confidence; None if nothing was counted. ``bins``: of each bin ``count``, and ``confidence`` and
          ``accuracy``, the means over its pixels, 0..1; None if it has none.
        """
        counts, right, steps = self.counts.T
        confidence, accuracy = (part / np.maximum(counts, 1) for part in (steps / _LEVELS, right))
        ece = float((counts * np.abs(confidence - accuracy)).sum() / max(counts.sum(), 1))
        return {
            "ece": ece if counts.any() else None,
            "bins": [
                {"count": int(n), "confidence": float(c) if n else None, "accuracy": float(a) if n else None}
                for n, c, a in zip(counts, confidence, accuracy, strict=True)
            ],
        }
