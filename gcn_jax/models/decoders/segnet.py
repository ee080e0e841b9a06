"""Unpooling to the places of maxima: SegNet (Badrinarayanan et al., TPAMI 2017), DeconvNet (Noh et al., ICCV 2015)."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..layers import Conv, ConvNormRelu
from ..ops.convolution import Dtype
from ..ops.sampling import resize, unpool

# Channels before each unpooling and after the last, as fractions of res-5's 2048: 512, 512, 256; 256, 256, 128; ...
WIDTHS = {"res4": (4, 4, 8), "res3": (8, 8, 16), "res2": (16, 16, 32)}


class SegNet(nn.Module):
    """Convolutions from res-5 back to the image, doubled where the finer stage has the largest of each 2 x 2 pixels.

    A ResNet has no 2x2 pooling whose places could be kept. Of the two ways to give it them we keep the network as it is
    (so that published weights fit), and take for places those of the largest of 2 x 2 pixels in the output of the stage
    that is twice as large: of the maxima over four neighbouring channels, since it has four times as many as the
    decoder. Beyond stride 4 there is no stage, and scores are enlarged bilinearly (our choice).

    The last convolution makes scores, without norm and ReLU, as in the authors' code. DeconvNet has one more before it,
    and scores by 1x1; its bottleneck of 7 x 7 features and its object proposals exist at a fixed size alone, and are
    left out: the paper does not evaluate what remains.

    Attributes:
      deconvnet: whether to be DeconvNet.
    """

    num_classes: int
    deconvnet: bool = False
    norm: str = "frozen"
    momentum: float = 0.9
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""
        layer = functools.partial(ConvNormRelu, norm=self.norm, momentum=self.momentum, dtype=self.dtype)
        x = features["res5"]
        channels = x.shape[-1]
        for stage, widths in WIDTHS.items():
            for i, part in enumerate(widths, 1):
                x = layer(max(channels // part, 1), (3, 3), name=f"{stage}_conv{i}")(x, train)
            finer = features[stage]
            x = unpool(x, jnp.max(finer.reshape(*finer.shape[:3], x.shape[-1], -1), axis=-1))
        for i in range(1, 3 if self.deconvnet else 2):
            x = layer(max(channels // 32, 1), (3, 3), name=f"last_conv{i}")(x, train)
        taps = (1, 1) if self.deconvnet else (3, 3)
        x = Conv(self.num_classes, taps, use_bias=True, dtype=self.dtype, gain=1.0, name="score")(x)
        return resize(x, size)
