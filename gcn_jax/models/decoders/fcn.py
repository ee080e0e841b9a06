"""Fully convolutional networks (Long et al., CVPR 2015; Shelhamer et al., TPAMI 2017), and what is called FCN now."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..layers import Conv, ConvNormRelu
from ..ops.convolution import Dtype
from ..ops.sampling import resize


class FCN(nn.Module):
    """FCN-32s, -16s or -8s: a 1x1 convolution scores each stage; coarse scores are enlarged and added to finer ones.

    As in the authors' code the enlargement is fixed and bilinear, and scores start at 0, so that each of the three nets
    starts as the one before it, if its weights are given. Our choice: res-5 takes the place of VGG's fc7, nothing that
    of fc6; no dropout, since our step draws no random numbers.

    Attributes:
      stages: that are scored, the coarsest first.
    """

    num_classes: int
    stages: tuple[str, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""
        scores: Any = None
        for stage in self.stages:
            score = Conv(self.num_classes, (1, 1), use_bias=True, dtype=self.dtype, gain=0.0, name=f"score_{stage}")
            own = score(features[stage])
            scores = own if scores is None else resize(scores, own.shape[1:3]) + own
        return resize(scores, size)


class FCNHead(nn.Module):
    """What torchvision calls FCN: one 3x3 convolution to a fourth of the channels, and the scores.

    The same on res-4 is the second head that PSPNet and others are trained with, `auxiliary` of `build_model`. Without
    dropout, our choice.
    """

    num_classes: int
    stage: str = "res5"
    norm: str = "frozen"
    momentum: float = 0.9
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""
        x = features[self.stage]
        norm = {"norm": self.norm, "momentum": self.momentum, "dtype": self.dtype}
        x = ConvNormRelu(max(x.shape[-1] // 4, 1), (3, 3), **norm, name="reduce")(x, train)
        x = Conv(self.num_classes, (1, 1), use_bias=True, dtype=self.dtype, gain=1.0, name="score")(x)
        return resize(x, size)
