"""Scores where a pixel may have none, one or several classes, all of them computed from exact counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gcn_jax.data.specs import VOID
from gcn_jax.evaluation.boundary import erosions, survives_erosion
from gcn_jax.evaluation.calibration import Calibration
from gcn_jax.evaluation.counts import mean, ratio
from gcn_jax.inference.maps import LEVELS

# The scores that are one number for a whole evaluation, and their names in tables.
SCORES = {
    "miou": "mean IoU",
    "mean_f1": "mean F1 (Dice)",
    "mean_precision": "mean precision",
    "mean_recall": "mean recall",
    "mean_average_precision": "mean average precision",
    "exact_match": "exact match",
    "boundary_iou": "Boundary IoU",
}


@dataclass(frozen=True)
class MultiLabelCounts:
    """Counts of one image or of many; where a class is void (255) its decision is not counted.

    Attributes:
      levels: int64 [C, 2, LEVELS], decisions by three indices: the class, whether it is there in truth, and its
        probability, in steps of 1 / LEVELS: (0, 1/1024], (1/1024, 2/1024], ... A class is predicted above 1/2.
      exact: int64 [2], the pixels whose classes are all right, and all pixels that have a class which is not void.
      boundary: int64 [3, C], pixels of each class in the boundary region of its true mask, in that of the predicted
        one, and in both.
    """

    levels: np.ndarray
    exact: np.ndarray
    boundary: np.ndarray

    @classmethod
    def empty(cls, num_classes: int) -> "MultiLabelCounts":
        """The counts of no image, to which others are merged."""
        levels = np.zeros((num_classes, 2, LEVELS), np.int64)
        return cls(levels, np.zeros(2, np.int64), np.zeros((3, num_classes), np.int64))

    @classmethod
    def of_image(cls, *, label: np.ndarray, levels: np.ndarray) -> "MultiLabelCounts":
        """Counts the pixels of one image.

        Args:
          label: uint8 [H, W, C]: 1 where a class is, 0 where it is not, 255 where it is void.
          levels: uint16 [H, W, C], the probabilities, see `gcn_jax.inference.maps.Maps`.

        Raises:
          ValueError: if the arrays differ in size.
        """
        if label.shape != levels.shape or label.ndim != 3:
            raise ValueError(f"label and levels must be [H, W, C] of one size. Got {label.shape}, {levels.shape}")
        found, times = cls.empty(label.shape[2]), erosions(*label.shape[:2])
        for i in range(label.shape[2]):
            truth, level = np.ascontiguousarray(label[..., i]), levels[..., i].astype(np.int64) - 1
            predicted, is_counted = (level >= LEVELS // 2).astype(np.uint8), truth != VOID
            cells = (truth.astype(np.int64) * LEVELS + level)[is_counted]
            found.levels[i] = np.bincount(cells, minlength=2 * LEVELS).reshape(2, LEVELS)
            rims = [(mask == 1) & ~survives_erosion(mask, times) & is_counted for mask in (truth, predicted)]
            found.boundary[:, i] = rims[0].sum(), rims[1].sum(), (rims[0] & rims[1]).sum()
        is_void, is_right = label == VOID, (label == 1) == (levels > LEVELS // 2)
        counted = ~is_void.all(-1)
        found.exact[:] = ((is_right | is_void).all(-1) & counted).sum(), counted.sum()
        return found

    def merge(self, other: "MultiLabelCounts") -> "MultiLabelCounts":
        """The counts of both's images together."""
        return MultiLabelCounts(self.levels + other.levels, self.exact + other.exact, self.boundary + other.boundary)

    def decisions(self) -> int:
        """The number of decisions: pixels and classes that are not void."""
        return int(self.levels.sum())

    def miou(self) -> float:
        """The mean IoU, 0-1, over the classes that occur in truth or prediction; NaN if there are none."""
        right, predicted, true = self._sizes()
        return mean(ratio(right, predicted + true - right))

    def _sizes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The decisions of each class that are rightly positive, all positive ones, and those that should be, [C]."""
        positive = self.levels[..., LEVELS // 2 :].sum(-1)
        return positive[:, 1], positive.sum(1), self.levels[:, 1].sum(1)

    def compute(self) -> dict[str, Any]:
        """Computes the scores; all are fractions in 0..1, NaN where nothing was counted.

        Returns:
          All of `SCORES`, one float each: ``exact_match`` is the share of pixels whose classes are all right, the
          others are means over the classes that have a value. ``iou``, ``f1``, ``precision``, ``recall``,
          ``average_precision`` and ``boundary_iou_per_class``, float64 [C], have a value for each class. The average
          precision is the sum of the precisions at all probabilities, weighted by the gains in recall.
        """
        right, predicted, true = self._sizes()
        from_top = self.levels[..., ::-1].cumsum(-1)
        gains = self.levels[:, 1, ::-1] * np.nan_to_num(ratio(from_top[:, 1], from_top.sum(1)))
        rims = self.boundary
        by_class = {
            "iou": ratio(right, predicted + true - right),
            "f1": ratio(2 * right, predicted + true),
            "precision": ratio(right, predicted),
            "recall": ratio(right, true),
            "average_precision": ratio(gains.sum(-1), true),
            "boundary_iou_per_class": ratio(rims[2], rims[0] + rims[1] - rims[2]),
        }
        means = {f"mean_{key}": mean(by_class[key]) for key in ("f1", "precision", "recall", "average_precision")}
        others = {"miou": mean(by_class["iou"]), "boundary_iou": mean(by_class["boundary_iou_per_class"])}
        return {**by_class, **means, **others, "exact_match": float(ratio(*self.exact))}

    def calibration(self) -> Calibration:
        """The counts of decisions by confidence: the probability of what was decided, in the middle of its step."""
        probability = (np.arange(LEVELS) + 0.5) / LEVELS
        pixels, is_positive = self.levels.sum((0, 1)), probability > 0.5
        right = self.levels.sum(0)[is_positive.astype(int), np.arange(LEVELS)]
        return Calibration.of_levels(np.maximum(probability, 1 - probability), pixels, right)
