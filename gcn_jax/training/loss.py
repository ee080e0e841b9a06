"""The training loss."""

import functools

import jax
import jax.numpy as jnp

from gcn_jax.data.specs import VOID

REDUCTIONS = ("mean", "sum")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def cross_entropy(logits: jax.Array, label: jax.Array, reduction: str = "mean") -> jax.Array:
    """Softmax cross-entropy over the pixels that are not void.

    It is differentiable with respect to the logits.

    Args:
      logits: float32 [B, H, W, C].
      label: uint8 [B, H, W], class ids; 255 is void.
      reduction: "mean" over the batch's pixels that are not void, 0 if there are none; or their "sum", which is FCN's
        un-normalised loss (Long, Shelhamer and Darrell, CVPR 2015).

    Returns:
      float32 scalar, in nats.

    Examples:
      >>> import jax.numpy as jnp
      >>> from gcn_jax.training.loss import cross_entropy
      >>> logits = jnp.zeros((1, 2, 2, 4))  # four classes, all as likely
      >>> label = jnp.array([[[0, 1], [3, 255]]], jnp.uint8)
      >>> print(f"{cross_entropy(logits, label):.4f}")  # log(4)
      1.3863
      >>> print(f"{cross_entropy(logits, label, 'sum'):.4f}")  # of three pixels: one is void
      4.1589
    """
    return _loss_and_gradient(logits, label, reduction)[0]


def _loss_and_gradient(logits: jax.Array, label: jax.Array, reduction: str) -> tuple[jax.Array, jax.Array]:
    """The loss and its gradient by the logits, ``softmax - one_hot``; together, since both read the same arrays."""
    is_counted = label != VOID
    # A sum over a one-hot mask is faster than a gather (slow on TPU) and its gradient, a scatter (slow everywhere). It
    # also gives 0 for void, which is no class; optax gives NaN.
    one_hot = label[..., None] == jnp.arange(logits.shape[-1], dtype=label.dtype)[None, None, None]
    true_logit = jnp.sum(jnp.where(one_hot, logits, 0.0), axis=-1)
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    count = 1 if reduction == "sum" else jnp.maximum(jnp.sum(is_counted), 1)
    loss = jnp.sum(jnp.where(is_counted, log_sum - true_logit, 0.0)) / count
    log_sum = jnp.where(is_counted, log_sum, jnp.inf)  # makes the softmax 0 where the label is void
    return loss, (jnp.exp(logits - log_sum[..., None]) - one_hot) / count


cross_entropy.defvjp(_loss_and_gradient, lambda _, gradient, scale: (gradient * scale, None))
