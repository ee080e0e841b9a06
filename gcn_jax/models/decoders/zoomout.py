"""Zoom-out features (Mostajabi et al., CVPR 2015), in the dense form of the authors' release."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..layers import Conv, Norm
from ..ops.convolution import Dtype
from ..ops.sampling import max_of_all, resize

LEVELS = ("stem", "res2", "res3", "res4", "res5", "whole")


class Zoomout(nn.Module):
    """Each pixel's features of all stages, and the maxima of res-5 over the whole map, classified by three 1x1 layers.

    Features are standardised by `Norm`: with fixed statistics by those of ``config.reestimate``, of training images, as
    the release has it, and then learnt scales and shifts, which the first layer could do as well. That layer is applied
    to each stage at its own resolution, and the results are enlarged and added up: the same as one layer on all of them
    enlarged, since it is linear. The hidden width is half of res-5's channels, 1024. Our choices: pixels of stride 4 in
    place of superpixels, and bilinear enlargement, also at the end; no dropout; padding is left out of the maxima.
    """

    takes_inside = True

    num_classes: int
    norm: str = "frozen"
    momentum: float = 0.9
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""
        whole = max_of_all(features["res5"], features.get("inside"))
        grid, hidden = features["stem"].shape[1:3], max(whole.shape[-1] // 2, 1)

        def conv(x, features, name, use_bias=True, gain=2.0):
            return Conv(features, (1, 1), use_bias=use_bias, dtype=self.dtype, gain=gain, name=name)(x)

        def standardised(x, level):
            norm = Norm(self.norm, momentum=self.momentum, name=f"norm_{level}")
            scale, shift = norm(x.shape[-1], x if train and self.norm == "train" else None)
            return (x * scale[None, None, None] + shift[None, None, None]).astype(self.dtype)

        x: Any = 0
        for level in LEVELS:
            own = standardised(whole if level == "whole" else features[level], level)
            is_first = level == LEVELS[0]
            x += resize(conv(own, hidden, f"hidden1_{level}", use_bias=is_first, gain=2 / len(LEVELS)), grid)
        x = nn.relu(conv(nn.relu(x), hidden, "hidden2"))
        return resize(conv(x, self.num_classes, "score", gain=1.0), size)
