"""Losses where a pixel may have none, one or several classes: each class is a decision of its own, by a sigmoid.

A label is uint8 [B, H, W, C]: 1 where a class is, 0 where it is not, 255 where it is void, which counts nowhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from gcn_jax.data.specs import VOID
from gcn_jax.training.losses import Loss, dice_of, lovasz_extension, mean_where


@dataclass(frozen=True)
class MultiLabelLoss(Loss):
    """What training minimises; ``config.loss``, as `Loss`, but for overlapping classes.

    cross_entropy is the binary cross-entropy with logits, as PyTorch's ``BCEWithLogitsLoss``, over all decisions (a
    pixel and a class) that are not void; weights are its ``pos_weight``, of each class where it is; in focal, too.
    label_smoothing changes the truth from 0 and 1 by half of this towards 1/2. hardest counts decisions. dice and
    lovasz, the Lovász hinge, are means over the classes that occur in the batch.
    """

    multi_label: ClassVar[bool] = True

    @property
    def _terms(self) -> dict[str, Callable[[jax.Array, jax.Array], jax.Array]]:
        return {"cross_entropy": self._cross_entropy, "focal": self._focal, "dice": _dice, "lovasz": _hinge}

    def _cross_entropy(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        truth = (label == 1) * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = -self._positive(truth * jax.nn.log_sigmoid(logits)) - (1 - truth) * jax.nn.log_sigmoid(-logits)
        return self._reduced(losses, jnp.ones_like(losses), label)

    def _focal(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        truth = label == 1
        logs = jax.nn.log_sigmoid(jnp.where(truth, logits, -logits))
        losses = -((-jnp.expm1(logs)) ** self.focal_gamma) * logs
        return self._reduced(jnp.where(truth, self._positive(losses), losses), jnp.ones_like(losses), label)

    def _positive(self, values: jax.Array) -> jax.Array:
        """Values of each class where it is, [B, H, W, C], times its weight."""
        return values * jnp.asarray(self.weights, jnp.float32)[None, None, None] if self.weights else values


def _dice(logits: jax.Array, label: jax.Array) -> jax.Array:
    return dice_of(jnp.where(label != VOID, jax.nn.sigmoid(logits), 0.0), label == 1)


def _hinge(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The Lovász hinge of the whole batch: the extension of 1 - IoU at the hinge losses (Berman et al., CVPR 2018)."""
    truth, classes = label == 1, logits.shape[-1]
    errors = jnp.where(label != VOID, jax.nn.relu(1 - jnp.where(truth, logits, -logits)), 0.0)
    losses = lovasz_extension(errors.reshape(-1, classes), truth.reshape(-1, classes))
    return mean_where(losses, truth.any((0, 1, 2)))
