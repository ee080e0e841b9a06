"""The pyramid scene parsing network (Zhao et al., CVPR 2017), figure 3."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..layers import Conv, ConvNormRelu
from ..ops.convolution import Dtype
from ..ops.sampling import pool_to_bins, resize

BINS = (1, 2, 3, 6)


class PSPNet(nn.Module):
    """The means of 1, 4, 9 and 36 parts of res-5, each reduced, enlarged, and joined with res-5 itself.

    Widths are a fourth of res-5's, the paper's 512 on ResNet-50. Our choices: the bins are those of the map at hand, as
    in the authors' later code, overlapping where its sides do not divide; enlargement as everywhere here (not with
    aligned corners); the common stem of one 7x7, which published weights have; no dropout, since our step draws no
    random numbers. What is divided is the image, without its padding.
    """

    takes_inside = True

    num_classes: int
    norm: str = "frozen"
    momentum: float = 0.9
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""
        x, inside = features["res5"], features.get("inside")
        width = max(x.shape[-1] // len(BINS), 1)
        layer = functools.partial(ConvNormRelu, width, norm=self.norm, momentum=self.momentum, dtype=self.dtype)
        levels = [x]
        for bins in BINS:
            level = layer((1, 1), name=f"level{bins}")(pool_to_bins(x, bins, inside), train)
            levels.append(resize(level, x.shape[1:3], inside))
        x = layer((3, 3), name="join")(jnp.concatenate(levels, axis=-1), train)
        x = Conv(self.num_classes, (1, 1), use_bias=True, dtype=self.dtype, gain=1.0, name="score")(x)
        return resize(x, size)
