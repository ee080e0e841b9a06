"""ParseNet (Liu, Rabinovich and Berg, 2015), figure 2: each pixel's features beside the mean of all."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..layers import Conv, L2Norm
from ..ops.convolution import Dtype
from ..ops.sampling import pool_to_bins, resize


class ParseNet(nn.Module):
    """res-5 and its mean, each divided by its length and scaled, joined (the paper's early fusion) and scored.

    Our choices: res-5, after its ReLU, takes the place of fc7; scales start at 10 and decay like all else; padding is
    left out of the mean.
    """

    takes_inside = True

    num_classes: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""
        x = features["res5"]
        whole = L2Norm(name="scale_whole")(pool_to_bins(x, 1, features.get("inside")))
        x = jnp.concatenate([L2Norm(name="scale_local")(x), jnp.broadcast_to(whole, x.shape)], axis=-1)
        x = Conv(self.num_classes, (1, 1), use_bias=True, dtype=self.dtype, gain=1.0, name="score")(x)
        return resize(x, size)
