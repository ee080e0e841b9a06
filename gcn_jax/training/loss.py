"""The training loss."""

import functools

import jax
import jax.numpy as jnp

from gcn_jax.data.specs import VOID

REDUCTIONS = ("mean", "sum")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def cross_entropy(logits: jax.Array, label: jax.Array, reduction: str = "mean") -> jax.Array:
    """Softmax cross-entropy over the pixels that are not void.

    Args:
      logits: float32 [B, H, W, C].
      label: uint8 [B, H, W]: class ids, 255 = void.
      reduction: "mean" over the batch's non-void pixels, 0 if there is none; or their "sum", FCN's un-normalised loss.

    Returns:
      float32 scalar.
    """
    return _loss_and_gradient(logits, label, reduction)[0]


def _loss_and_gradient(logits: jax.Array, label: jax.Array, reduction: str) -> tuple[jax.Array, jax.Array]:
    """The gradient by logits is ``softmax - one_hot``: computed beside the loss, they share what they read."""
    is_counted = label != VOID
    # A sum over a one-hot mask beats a gather (slow on TPU) and its gradient, a scatter (slow everywhere). It also
    # takes void, which is no class, to 0 instead of optax's NaN.
    one_hot = label[..., None] == jnp.arange(logits.shape[-1], dtype=label.dtype)[None, None, None]
    true_logit = jnp.sum(jnp.where(one_hot, logits, 0.0), axis=-1)
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    count = 1 if reduction == "sum" else jnp.maximum(jnp.sum(is_counted), 1)
    loss = jnp.sum(jnp.where(is_counted, log_sum - true_logit, 0.0)) / count
    log_sum = jnp.where(is_counted, log_sum, jnp.inf)  # a softmax of zeros where void
    return loss, (jnp.exp(logits - log_sum[..., None]) - one_hot) / count


cross_entropy.defvjp(_loss_and_gradient, lambda _, gradient, scale: (gradient * scale, None))
