"""Segmentation scores, all from one confusion matrix of pixel counts."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from gcn_jax.data.specs import VOID


@flax.struct.dataclass
class ConfusionMatrix(metrics.Metric):
    """Pixel counts by class, [C, C]: row = truth, column = prediction; void is not counted.

    A batch's counts are int32, on the device, where 2**31 pixels a batch are far away; `merge` adds on the host, in
    int64, so that any number of batches is exact.
    """

    counts: Any

    @classmethod
    def empty(cls, num_classes: int) -> "ConfusionMatrix":
        return cls(counts=np.zeros((num_classes, num_classes), np.int64))

    @classmethod
    def from_model_output(
        cls, *, label: jax.Array, prediction: jax.Array, valid: jax.Array, num_classes: int, **_: Any
    ) -> "ConfusionMatrix":
        """Counts a batch, under jit: label and prediction uint8 [B, H, W], valid bool [B]."""
        is_counted = (label != VOID) & valid[:, None, None]
        cell = label.astype(jnp.int32) * num_classes + prediction
        cell = jnp.where(is_counted, cell, num_classes**2)  # past the end: dropped
        counts = jnp.zeros(num_classes**2, jnp.int32).at[cell.reshape(-1)].add(1, mode="drop")
        return cls(counts=counts.reshape(num_classes, num_classes))

    def merge(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        return ConfusionMatrix(counts=np.asarray(self.counts, np.int64) + np.asarray(other.counts, np.int64))

    def compute(self) -> dict[str, Any]:
        """The scores, as fractions in 0..1.

        Returns:
          ``miou``, over the classes that occur in truth or prediction; ``pixel_accuracy``; and ``iou``, float64 [C],
          NaN where a class occurs in neither. NaN all if nothing was counted.
        """
        counts = np.asarray(self.counts, np.int64)
        intersection = np.diagonal(counts)
        union = counts.sum(0) + counts.sum(1) - intersection
        iou = np.divide(intersection, union, out=np.full(len(counts), np.nan), where=union > 0)
        total = counts.sum()
        return {
            "miou": float(np.nanmean(iou)) if total else float("nan"),
            "pixel_accuracy": float(intersection.sum() / total) if total else float("nan"),
            "iou": iou,
        }
