"""What turns a stage's features into scores: the four blocks that the paper compares in figure 4.

None has a non-linearity or a norm, so their convolutions start with gain 1 (our choice; the paper gives no
initialisation).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from .layers import Conv
from .ops.convolution import Dtype

HEADS = ("gcn", "conv1x1", "conv", "stack3x3")
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


def score_head(
    head: str, features: int, kernel_size: int, width: int, branches: str, dtype: Dtype, name: str
) -> nn.Module:
    """The module that scores a stage, [B, H, W, C] -> [B, H, W, features].

    Args:
      head: "gcn", `GlobalConv`; "conv1x1", the baseline (figure 4A); "conv", a k x k convolution (figure 4B);
        "stack3x3", `ConvStack`.
      features: channels of the scores.
      kernel_size: k; the baseline has none.
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
    raise AssertionError(head)


def _conv(features: int, kernel_size: tuple[int, int], dtype: Dtype, name: str) -> Conv:
    return Conv(features, kernel_size, use_bias=True, dtype=dtype, gain=1.0, name=name)
