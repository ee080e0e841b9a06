"""Multi-scale context aggregation by dilated convolutions (Yu and Koltun, ICLR 2016), table 1."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..layers import Conv, IdentityConv
from ..ops.convolution import Dtype
from ..ops.sampling import resize

DILATIONS = (1, 1, 2, 4, 8, 16, 1)
BASIC = (1, 1, 1, 1, 1, 1, 1)
LARGE = (2, 2, 4, 8, 16, 32, 32)


class ContextModule(nn.Module):
    """Seven 3x3 convolutions with ReLU, ever farther apart, and one 1x1: each score sees 67 x 67 others.

    It starts as the identity of each class, see `IdentityConv`; because of the ReLUs it starts by passing the positive
    part of the scores, as in the paper.

    Attributes:
      widths: of the 3x3 convolutions, in channels a class: `BASIC` or `LARGE`.
    """

    num_classes: int
    widths: tuple[int, ...] = BASIC
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores [B, H, W, num_classes] -> scores."""
        classes = self.num_classes
        for i, (width, dilation) in enumerate(zip(self.widths, DILATIONS, strict=True), 1):
            x = nn.relu(IdentityConv(width * classes, (3, 3), classes, dilation, self.dtype, name=f"conv{i}")(x))
        return IdentityConv(classes, (1, 1), classes, dtype=self.dtype, name="score")(x)


class DilatedNet(nn.Module):
    """The scores of res-5, and the context module on them, at stride 8.

    Our choices: res-5 takes the place of VGG's fc7; no convolution pads its input by reflection, all of them by zeros;
    no dropout; all is trained at once, where the paper trains in three steps.
    """

    num_classes: int
    widths: tuple[int, ...] = BASIC
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""
        front = Conv(self.num_classes, (1, 1), use_bias=True, dtype=self.dtype, gain=1.0, name="front")
        context = ContextModule(self.num_classes, self.widths, self.dtype, name="score_context")
        return resize(context(front(features["res5"])), size)
