"""Segmentation scores, all of them computed from exact counts of pixels."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcn_jax.data.specs import VOID
from gcn_jax.evaluation.boundary import BOUNDARY_WIDTH, WIDTHS, distance_band, erosions, survives_erosion

_PIXELS = 2**17  # handled at a time, in the processor's cache
# The scores that are one number for a whole evaluation, and their names in tables.
SCORES = {
    "miou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean class accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "boundary_accuracy": "boundary accuracy",
    "internal_accuracy": "internal accuracy",
    "boundary_iou": "Boundary IoU",
}


@dataclass(frozen=True)
class Counts:
    """Pixel counts of one image or of many; pixels whose true label is void (255) are not counted.

    The scores of many images come from the sum of their counts, so each pixel weighs the same, whatever its image.

    Attributes:
      confusion: int64 [D, C, C + 1], numbers of pixels by three indices: the narrowest trimap that holds the pixel (an
        index of `gcn_jax.evaluation.boundary.WIDTHS`; the last, D - 1, is for pixels outside the widest), its true
        class, and its predicted class. The last column counts predictions that are no class.
      boundary: int64 [3, C], pixels of each class in the boundary region of the truth, in that of the prediction, and
        in both.

    Examples:
      >>> import numpy as np
      >>> from gcn_jax.evaluation.counts import Counts
      >>> label = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
      >>> prediction = np.array([[0, 0, 0, 1], [0, 0, 1, 1]], np.uint8)
      >>> counts = Counts.of_image(label=label, prediction=prediction, num_classes=2)
      >>> counts.compute()["confusion"]  # row: true class, column: predicted class
      array([[4, 0],
             [1, 2]])
      >>> round(counts.miou(), 4)  # the mean of 4/5 and 2/3
      0.7333
      >>> total = Counts.empty(num_classes=2).merge(counts).merge(counts)  # of two images
      >>> int(total.confusion.sum())
      14
    """

    confusion: np.ndarray
    boundary: np.ndarray

    @classmethod
    def empty(cls, num_classes: int) -> "Counts":
        """The counts of no image, to which others are merged."""
        confusion = np.zeros((len(WIDTHS) + 1, num_classes, num_classes + 1), np.int64)
        return cls(confusion, np.zeros((3, num_classes), np.int64))

    @classmethod
    def of_image(cls, *, label: np.ndarray, prediction: np.ndarray, num_classes: int) -> "Counts":
        """Counts the pixels of one image.

        Args:
          label: uint8 [H, W], the true class ids; 255 is void.
          prediction: uint8 [H, W], the predicted class ids; a value of num_classes or more is no class, and wrong.
          num_classes: C.

        Raises:
          ValueError: if the maps differ in size.
        """
        if label.shape != prediction.shape or label.ndim != 2:
            raise ValueError(f"label and prediction must be [H, W] of one size. Got {label.shape}, {prediction.shape}")
        times = erosions(*label.shape)
        counts = histogram(
            label != VOID,
            (distance_band(label), len(WIDTHS) + 1),
            (~survives_erosion(label, times), 2),
            (~survives_erosion(prediction, times), 2),
            (label, num_classes),
            (np.minimum(prediction, num_classes), num_classes + 1),
        )
        truth = counts[:, 1].sum((0, 1, 3))
        predicted = counts[:, :, 1].sum((0, 1, 2))[:num_classes]
        both = np.diagonal(counts[:, 1, 1].sum(0))
        return cls(counts.sum((1, 2)), np.stack([truth, predicted, both]))

    def merge(self, other: "Counts") -> "Counts":
        """The counts of both's images together."""
        return Counts(self.confusion + other.confusion, self.boundary + other.boundary)

    def miou(self) -> float:
        """The mean IoU, 0-1, over the classes that occur in truth or prediction; NaN if nothing was counted."""
        return mean(class_iou(self.confusion.sum(0)))

    def accuracies(self) -> tuple[float, float]:
        """The pixel accuracy, 0-1, up to `BOUNDARY_WIDTH` pixels from a boundary, and that of all other pixels.

        The paper's table 5; NaN where there are no such pixels.
        """
        near = WIDTHS.index(BOUNDARY_WIDTH) + 1
        return pixel_accuracy(self.confusion[:near].sum(0)), pixel_accuracy(self.confusion[near:].sum(0))

    def compute(self) -> dict[str, Any]:
        """Computes the scores; all are fractions in 0..1, NaN where nothing was counted.

        Returns:
          All of `SCORES`, one float each. ``miou`` and ``boundary_iou`` are means over the classes that occur in truth
          or prediction, ``mean_accuracy`` is the mean over those that occur in the truth. ``boundary_accuracy`` and
          ``internal_accuracy`` are `accuracies`.

          ``iou``, ``accuracy`` and ``boundary_iou_per_class``, float64 [C], have a value for each class.
          ``trimap_miou``, float64 [D - 1], is the mean IoU within each of `WIDTHS` of a boundary. ``confusion``,
          int64 [C, C], has a row for each true class and a column for each predicted one.
        """
        within = self.confusion.cumsum(0)
        total = within[-1]
        iou, frequency = class_iou(total), total.sum(1)
        truth, predicted, both = self.boundary
        boundary_iou = ratio(both, truth + predicted - both)
        accuracy = ratio(np.diagonal(total), frequency)
        boundary_accuracy, internal_accuracy = self.accuracies()
        return {
            "miou": self.miou(),
            "pixel_accuracy": pixel_accuracy(total),
            "mean_accuracy": mean(accuracy),
            "frequency_weighted_iou": float(ratio(np.nansum(frequency * iou), frequency.sum())),
            "boundary_accuracy": boundary_accuracy,
            "internal_accuracy": internal_accuracy,
            "boundary_iou": mean(boundary_iou),
            "iou": iou,
            "accuracy": accuracy,
            "boundary_iou_per_class": boundary_iou,
            "trimap_miou": np.array([mean(class_iou(confusion)) for confusion in within[:-1]]),
            "confusion": total[:, :-1],
        }


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """The intersection over union of each class, NaN if it does not occur.

    Args:
      confusion: int64 [C, C + 1], pixels by true class and predicted class; the last column is for predictions that are
        no class.

    Returns:
      float64 [C], 0-1.
    """
    both = np.diagonal(confusion)
    return ratio(both, confusion.sum(1) + confusion.sum(0)[:-1] - both)


def pixel_accuracy(confusion: np.ndarray) -> float:
    """The share of pixels whose prediction is right, 0-1; NaN if there are no pixels.

    Args:
      confusion: int64 [C, C + 1], as in `class_iou`.
    """
    return float(ratio(np.trace(confusion), confusion.sum()))


def histogram(is_counted: np.ndarray, *variables: tuple[np.ndarray, int]) -> np.ndarray:
    """Counts how often each combination of the values of several variables occurs.

    Args:
      is_counted: bool [H, W], which pixels count.
      *variables: for each variable an integer or bool array [H, W], and the number n of its values, which are 0..n - 1.

    Returns:
      int64, with one axis per variable, of its number of values.
    """
    shape = [size for _, size in variables]
    number = math.prod(shape)
    counted, flat = is_counted.reshape(-1), [values.reshape(-1) for values, _ in variables]
    runs, lengths = [], []
    for start in range(0, counted.size, _PIXELS):
        some = slice(start, start + _PIXELS)
        cell = flat[0][some].astype(np.uint16 if number < 2**16 else np.uint32)
        for values, size in zip(flat[1:], shape[1:], strict=True):
            np.multiply(cell, size, out=cell)
            np.add(cell, values[some], out=cell)
        np.copyto(cell, number, where=~counted[some])
        # Label maps consist of runs of equal cells, so we count whole runs.
        starts = np.concatenate([[0], np.flatnonzero(cell[1:] != cell[:-1]) + 1])
        runs.append(cell[starts])
        lengths.append(np.diff(starts, append=cell.size))
    counts = np.bincount(np.concatenate(runs), np.concatenate(lengths), number + 1)  # float64: exact up to 2**53
    return counts[:-1].astype(np.int64).reshape(shape)


def ratio(part: Any, whole: Any) -> np.ndarray:
    """Each part of its whole, float64; NaN where that is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
