"""What turns a stage's features into scores: the four blocks that the paper's figure 4 compares, and two of later work.

Of the four none has a non-linearity or a norm, so their convolutions start with gain 1 (our choice; the paper gives no
initialisation).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from .layers import Conv, DepthwiseConv
from .ops.convolution import Dtype

HEADS = ("gcn", "conv1x1", "conv", "stack3x3", "strips", "strip_attention")
SQUARE = 5  # the other side of SLaK's strips
STRIPS = (7, 11, 21)  # SegNeXt's
BRANCHES = ("sum", "concat")


class GlobalConv(nn.Module):
    """Global Convolutional Network block (figures 2B and 4D): a k x k receptive field at the cost of 4 k taps.

    (k x 1 then 1 x k) beside (1 x k then k x 1).

    Attributes:
      features: channels of the scores.
      kernel_size: k, odd.
      branches: how the two are joined: by their "sum" (the paper) or by "concat" and a 1x1 convolution.
      dtype: of the computation.
    """

    features: int
    kernel_size: int
    branches: str = "sum"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, features]."""
        column, row = (self.kernel_size, 1), (1, self.kernel_size)

        def conv(x, kernel_size, name):
            return _conv(self.features, kernel_size, self.dtype, name)(x)

        left = conv(conv(x, column, "left_column"), row, "left_row")
        right = conv(conv(x, row, "right_row"), column, "right_column")
        if self.branches == "sum":
            return left + right
        return conv(jnp.concatenate([left, right], axis=-1), (1, 1), "projection")


class ConvStack(nn.Module):
    """A stack of 3x3 convolutions without non-linearity (figure 4C): (k - 1) / 2 of them see k x k pixels.

    Attributes:
      features: channels of the scores, which the last one makes.
      kernel_size: k, odd, at least 3.
      width: channels between the convolutions, m in the paper's table 4; the same for each stage (our reading).
      dtype: of the computation.
    """

    features: int
    kernel_size: int
    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, features]."""
        count = self.kernel_size // 2
        for i in range(1, count + 1):
            x = _conv(self.width if i < count else self.features, (3, 3), self.dtype, f"conv{i}")(x)
        return x


class ParallelStrips(nn.Module):
    """Strips of k x 5 and 5 x k beside 5 x 5, summed: the large kernel of SLaK (Liu et al., ICLR 2023), k = 51 there.

    Our choice: a 1x1 convolution makes scores first, and the strips then mix all of them, where SLaK's convolve each
    feature alone, which no kind of device computes fast; no norms, as in the other heads.

    Attributes:
      features: channels of the scores.
      kernel_size: k, odd, at least 5.
      dtype: of the computation.
    """

    features: int
    kernel_size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, features]."""
        k, x = self.kernel_size, _conv(self.features, (1, 1), self.dtype, "reduce")(x)
        shapes = {"column": (k, SQUARE), "row": (SQUARE, k), "square": (SQUARE, SQUARE)}
        column, row, square = (_conv(self.features, shape, self.dtype, name)(x) for name, shape in shapes.items())
        return column + row + square


class StripAttention(nn.Module):
    """Multi-scale convolutional attention of SegNeXt (Guo et al., NeurIPS 2022), figure 2b, and a 1x1 to scores.

    Each feature alone is convolved by 5 x 5, then by pairs of strips of 7, 11 and 21 pixels; the sum of all, mixed by a
    1x1 convolution, multiplies the features.

    Attributes:
      features: channels of the scores.
      dtype: of the computation.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, features]."""

        def alone(x, kernel_size, name):
            return DepthwiseConv(kernel_size, self.dtype, name=name)(x)

        total = near = alone(x, (SQUARE, SQUARE), "square")
        for k in STRIPS:
            total = total + alone(alone(near, (1, k), f"row{k}"), (k, 1), f"column{k}")
        return _conv(self.features, (1, 1), self.dtype, "score")(
            _conv(x.shape[-1], (1, 1), self.dtype, "mix")(total) * x
        )


def score_head(
    head: str, features: int, kernel_size: int, width: int, branches: str, dtype: Dtype, name: str
) -> nn.Module:
    """The module that scores a stage, [B, H, W, C] -> [B, H, W, features].

    Args:
      head: "gcn", `GlobalConv`; "conv1x1", the baseline (figure 4A); "conv", a k x k convolution (figure 4B);
        "stack3x3", `ConvStack`; "strips", `ParallelStrips`; "strip_attention", `StripAttention`.
      features: channels of the scores.
      kernel_size: k; the baseline and `StripAttention` have none.
      width: of a `ConvStack`.
      branches: of a `GlobalConv`.
      dtype: of the computation.
      name: of the module.
    """
    match head:
        case "gcn":
            return GlobalConv(features, kernel_size, branches, dtype, name=name)
        case "conv1x1":
            return _conv(features, (1, 1), dtype, name)
        case "conv":
            return _conv(features, (kernel_size, kernel_size), dtype, name)
        case "stack3x3":
            return ConvStack(features, kernel_size, width, dtype, name=name)
        case "strips":
            return ParallelStrips(features, kernel_size, dtype, name=name)
        case "strip_attention":
            return StripAttention(features, dtype, name=name)
    raise AssertionError(head)


def _conv(features: int, kernel_size: tuple[int, int], dtype: Dtype, name: str) -> Conv:
    return Conv(features, kernel_size, use_bias=True, dtype=dtype, gain=1.0, name=name)
