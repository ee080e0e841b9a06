"""Losses beyond the paper's: weighted sums of cross-entropy, focal, Dice and Lovász-softmax losses.

Void pixels count in none of them.
"""

import functools
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gcn_jax.data.specs import VOID
from gcn_jax.training.levels import region_loss, sampled
from gcn_jax.training.loss import cross_entropy

WEIGHTS = ("median_frequency", "inverse", "effective_number")
FORM = "a sum of cross_entropy, focal, dice and lovasz, each with a factor if you like: cross_entropy+0.5*lovasz"


@dataclass(frozen=True)
class Loss:
    """What training minimises; ``config.loss``.

    Attributes:
      name: as `parse` takes it.
      reduction: "mean" over the batch's pixels that are not void, or their "sum"; of cross_entropy and focal alone.
      weights: of the classes, in cross_entropy and focal; empty: all 1. The mean is over the pixels' weights, as
        PyTorch's is.
      label_smoothing: this share of each pixel's truth is spread over all classes, in cross_entropy.
      hardest: the share of pixels that cross_entropy and focal count: those with the largest loss (OHEM).
      hardest_min: so many pixels are counted at least.
      focal_gamma: the exponent of focal.
      auxiliary: the weight of the losses of other scores than the last, such as those of a second head.
    """

    name: str = "cross_entropy"
    reduction: str = "mean"
    weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    hardest: float = 1.0
    hardest_min: int = 0
    focal_gamma: float = 2.0
    auxiliary: float = 0.4
    multi_label: ClassVar[bool] = False

    def __call__(
        self, logits: jax.Array, label: jax.Array, others: Mapping[str, Sequence[jax.Array]] = MappingProxyType({})
    ) -> jax.Array:
        """The loss, float32 scalar, of logits float32 [B, H, W, C] and label uint8 [B, H, W], where 255 is void.

        It is differentiable with respect to the logits. Without a pixel that is not void it is 0. Others are what a
        network keeps in the collection "auxiliary", whose losses are added, each times `auxiliary`: under "logits" the
        same loss, by the truth at their resolution, see `levels.sampled`; under "dilated" and "eroded" `region_loss`.
        """
        loss = self._of(logits, label)
        for other in others.get("logits", ()):
            loss = loss + self.auxiliary * self._of(other, sampled(label, other.shape[1:3]))
        for kind in ("dilated", "eroded"):
            for scores in others.get(kind, ()):
                loss = loss + self.auxiliary * region_loss(scores, label, kind)
        return loss

    def _of(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        values = [(factor, self._terms[term](logits, label)) for factor, term in parse(self.name)]
        return functools.reduce(operator.add, (value if factor == 1 else factor * value for factor, value in values))

    @property
    def _terms(self) -> dict[str, Callable[[jax.Array, jax.Array], jax.Array]]:
        return {"cross_entropy": self._cross_entropy, "focal": self._focal, "dice": dice, "lovasz": lovasz}

    def _cross_entropy(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        if not self.weights and not self.label_smoothing and self.hardest == 1:
            return cross_entropy(logits, label, self.reduction)
        logs = jax.nn.log_softmax(logits)
        weights, true_weight = self._weights(logits, label)
        losses = -true_weight * _of_truth(logs, label)
        if self.label_smoothing:
            spread = -(logs * weights[None, None, None]).mean(-1)
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * spread
        return self._reduced(losses, true_weight, label)

    def _focal(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        logs = _of_truth(jax.nn.log_softmax(logits), label)
        _, weight = self._weights(logits, label)
        return self._reduced(-weight * (-jnp.expm1(logs)) ** self.focal_gamma * logs, weight, label)

    def _weights(self, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The weights of the classes [C], and of each pixel's class [B, H, W]."""
        weights = jnp.asarray(self.weights or (1.0,) * logits.shape[-1], jnp.float32)
        return weights, _of_truth(jnp.broadcast_to(weights, logits.shape), label)

    def _reduced(self, losses: jax.Array, weights: jax.Array, label: jax.Array) -> jax.Array:
        """The mean or sum of the pixels' losses, or of the hardest, those with the largest losses."""
        is_counted = (label != VOID).reshape(-1)
        losses, weights = (jnp.where(is_counted, x.reshape(-1), 0.0) for x in (losses, weights))
        if self.hardest < 1:
            count = is_counted.sum()
            kept = jnp.maximum(jnp.ceil(self.hardest * count), jnp.minimum(self.hardest_min, count))
            order = jnp.argsort(jnp.where(is_counted, -jax.lax.stop_gradient(losses), jnp.inf))
            is_kept = jnp.arange(losses.size) < kept
            losses, weights = (jnp.where(is_kept, x[order], 0.0) for x in (losses, weights))
        total = weights.sum()
        return losses.sum() / (1.0 if self.reduction == "sum" else jnp.where(total > 0, total, 1.0))


def parse(name: str) -> list[tuple[float, str]]:
    """The terms of a loss and their factors; raises `ValueError` naming the term that is wrong.

    Examples:
      >>> from gcn_jax.training.losses import parse
      >>> parse("cross_entropy + 0.5*lovasz")
      [(1.0, 'cross_entropy'), (0.5, 'lovasz')]
    """
    terms: list[tuple[float, str]] = []
    for term in name.replace(" ", "").split("+"):
        match = re.fullmatch(r"(?:(\d+\.?\d*|\.\d+)\*)?(cross_entropy|focal|dice|lovasz)", term)
        if not match or match[2] in (known for _, known in terms):
            raise ValueError(f"{term!r} is unknown or repeated; the loss is {FORM}")
        terms.append((float(match[1] or 1), match[2]))
    return terms


def parse_weights(text: str) -> tuple[float, ...] | str:
    """The numbers, or the rule, that ``config.loss.class_weights`` states; raises `ValueError` if it is neither."""
    if text in ("", *WEIGHTS):
        return text or ()
    weights = tuple(map(float, text.split(",")))
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise ValueError(f"{text!r}: weights are at least 0, and one is more")
    return weights


def class_weights(rule: str, pixels: np.ndarray) -> tuple[float, ...]:
    """Weights of classes by how often they occur; 0 for a class that does not. Their mean over the others is 1.

    Args:
      rule: "inverse": of the number of pixels. "median_frequency" (Eigen and Fergus, ICCV 2015): the same but for their
        scale, with the median of the frequencies over that of the class; the frequencies are over all pixels, our
        choice, and the weights stay on the paper's scale. "effective_number" (Cui et al., CVPR 2019):
        ``(1 - b) / (1 - b ** n)`` for n pixels, with b = (N - 1) / N for N pixels in all.
      pixels: the number of pixels of each class, int64 [C].

    Returns:
      A weight for each class.
    """
    counts = np.asarray(pixels, np.float64)
    occurs = counts > 0
    known, total = counts[occurs], counts.sum()
    match rule:
        case "median_frequency":
            found = np.median(known) / known
        case "inverse":
            found = 1 / known
        case _:
            found = 1 / -np.expm1(known * np.log1p(-1 / total))
    weights = np.zeros(len(counts))
    weights[occurs] = found if rule == "median_frequency" else found / found.mean()
    return tuple(weights.tolist())


def _of_truth(values: jax.Array, label: jax.Array) -> jax.Array:
    """Of values [B, H, W, C] those of each pixel's class [B, H, W]; 0 for void."""
    return jnp.where(_one_hot(values, label), values, 0.0).sum(-1)


def _one_hot(values: jax.Array, label: jax.Array) -> jax.Array:
    return label[..., None] == jnp.arange(values.shape[-1], dtype=label.dtype)[None, None, None]


def dice(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The mean of 1 - Dice over the classes that occur in the batch (Milletari et al., 3DV 2016, without squares).

    A class's Dice is ``2 sum(p g) / (sum(p) + sum(g))`` over the batch's pixels that are not void, with its
    probabilities p and its truth g, 0 or 1.
    """
    is_counted = (label != VOID)[..., None]
    return dice_of(jnp.where(is_counted, jax.nn.softmax(logits), 0.0), _one_hot(logits, label))


def dice_of(probabilities: jax.Array, truth: jax.Array) -> jax.Array:
    """The Dice loss of probabilities, 0 where the label is void, and of the truth, bool, both [B, H, W, C]."""
    shared = jnp.where(truth, probabilities, 0.0).sum((0, 1, 2))
    sizes = truth.sum((0, 1, 2))
    scores = 2 * shared / jnp.maximum(probabilities.sum((0, 1, 2)) + sizes, 1e-7)
    return mean_where(1 - scores, sizes > 0)


def mean_where(losses: jax.Array, occurs: jax.Array) -> jax.Array:
    """The mean of the losses [C] of the classes that occur, bool [C]; 0 if none does."""
    return jnp.where(occurs, losses, 0.0).sum() / jnp.maximum(occurs.sum(), 1)


def lovasz(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The Lovász-softmax loss of the whole batch, over the classes that occur in it (Berman et al., CVPR 2018).

    A class's loss is the Lovász extension of 1 - IoU at the errors of its probabilities.
    """
    is_counted = (label != VOID).reshape(-1)
    probabilities = jax.nn.softmax(logits).reshape(-1, logits.shape[-1])
    truth = _one_hot(logits, label).reshape(probabilities.shape)
    errors = jnp.where(is_counted[:, None], jnp.abs(truth - probabilities), 0.0)
    return mean_where(lovasz_extension(errors, truth), truth.any(0))


def lovasz_extension(errors: jax.Array, truth: jax.Array) -> jax.Array:
    """The Lovász extension of 1 - IoU at the errors of each class, [pixels, C], 0 for void: [C]."""

    def of_class(errors: jax.Array, truth: jax.Array) -> jax.Array:
        order = jnp.argsort(-jax.lax.stop_gradient(errors))
        hits = truth[order].astype(jnp.float32)
        size = hits.sum()
        iou_loss = 1 - (size - hits.cumsum()) / (size + (1 - hits).cumsum())
        growth = jnp.diff(iou_loss, prepend=0.0)
        return jnp.vdot(errors[order], growth, precision=jax.lax.Precision.HIGHEST)

    return jax.vmap(of_class, in_axes=1)(errors, truth)  # at once: one sort over all devices
