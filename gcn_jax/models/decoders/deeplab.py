"""DeepLab-v2 (Chen et al., TPAMI 2018), figure 7, and DeepLabv3+ (Chen et al., ECCV 2018), figure 2."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..layers import Conv, ConvNormRelu
from ..ops.convolution import Dtype
from ..ops.sampling import pool_to_bins, resize

RATES = (6, 12, 18)  # of DeepLabv3+ at stride 16


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling of DeepLab-v2 on ResNet: the sum of four 3x3 convolutions that make scores.

    They start with variance 2 / (9 C), which is the paper's N(0, 0.01) at 2048 channels. The paper also trains on
    three scales of the image, fused by their maximum: `fused_scales` of `build_model`.

    Attributes:
      rates: how far taps are apart, at stride 8: 6, 12, 18, 24 for ASPP-L, 2, 4, 8, 12 for ASPP-S.
    """

    num_classes: int
    rates: tuple[int, ...] = (6, 12, 18, 24)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""

        def score(rate):
            conv = Conv(self.num_classes, (3, 3), use_bias=True, dilation=rate, dtype=self.dtype, name=f"score_{rate}")
            return conv(features["res5"])

        return resize(sum(score(rate) for rate in self.rates), size)


class DeepLabV3Plus(nn.Module):
    """ASPP of DeepLabv3, whose last level is the mean of the whole map; then joined with res-2 and refined.

    Widths are those of the paper on ResNet-50: an eighth of res-5's channels, 256, and 48 of res-2. Convolutions are
    not separable, as in torchvision. Our choices: no dropout, since our step draws no random numbers; padding is left
    out of the mean.

    Attributes:
      output_stride: of res-5, which scales the rates: 6, 12 and 18 at 16.
    """

    takes_inside = True

    num_classes: int
    output_stride: int = 16
    norm: str = "frozen"
    momentum: float = 0.9
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""
        x, fine = features["res5"], features["res2"]
        width = max(x.shape[-1] // 8, 1)
        layer = functools.partial(ConvNormRelu, norm=self.norm, momentum=self.momentum, dtype=self.dtype)
        levels = [layer(width, (1, 1), name="level1")(x, train)]
        for rate in RATES:
            dilation = rate * 16 // self.output_stride
            levels.append(layer(width, (3, 3), dilation=dilation, name=f"level{rate}")(x, train))
        mean = layer(width, (1, 1), name="mean")(pool_to_bins(x, 1, features.get("inside")), train)
        levels.append(resize(mean, x.shape[1:3]))
        x = layer(width, (1, 1), name="join")(jnp.concatenate(levels, axis=-1), train)
        fine = layer(max(3 * width // 16, 1), (1, 1), name="reduce_res2")(fine, train)
        x = jnp.concatenate([fine, resize(x, fine.shape[1:3])], axis=-1)
        for name in ("refine1", "refine2"):
            x = layer(width, (3, 3), name=name)(x, train)
        x = Conv(self.num_classes, (1, 1), use_bias=True, dtype=self.dtype, gain=1.0, name="score")(x)
        return resize(x, size)
