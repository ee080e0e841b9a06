"""The training loss."""

import jax
import jax.numpy as jnp

from gcn_jax.data.specs import VOID

REDUCTIONS = ("mean", "sum")


def cross_entropy(logits: jax.Array, label: jax.Array, reduction: str = "mean") -> jax.Array:
    """Softmax cross-entropy over the pixels that are not void.

    Args:
      logits: float32 [B, H, W, C].
      label: uint8 [B, H, W]: class ids, 255 = void.
      reduction: "mean" over the batch's non-void pixels, 0 if there is none; or their "sum", FCN's un-normalised loss.

    Returns:
      float32 scalar.
    """
    is_counted = label != VOID
    # A sum over a one-hot mask beats a gather (slow on TPU) and its gradient, a scatter (slow everywhere). It also
    # takes void, which is no class, to 0 instead of optax's NaN.
    one_hot = label[..., None] == jnp.arange(logits.shape[-1], dtype=label.dtype)[None, None, None]
    true_logit = jnp.sum(jnp.where(one_hot, logits, 0.0), axis=-1)
    losses = jnp.where(is_counted, jax.nn.logsumexp(logits, axis=-1) - true_logit, 0.0)
    total = jnp.sum(losses)
    return total if reduction == "sum" else total / jnp.maximum(jnp.sum(is_counted), 1)
