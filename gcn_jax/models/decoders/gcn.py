"""The decoder of "Large Kernel Matters" (Peng et al., CVPR 2017), figure 2."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..backbones.resnet import STAGES
from ..heads import score_head
from ..layers import Conv, ConvTranspose
from ..ops.convolution import Dtype
from ..ops.packed import refine


class BoundaryRefine(nn.Module):
    """Boundary refinement (figure 2C): ``S + conv3x3(relu(conv3x3(S)))``, as many channels as S; no norm.

    The second convolution starts at 0, so that an untrained refinement is the identity (our choice).
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, scores: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        features = scores.shape[-1]
        conv1 = Conv(features, (3, 3), use_bias=True, dtype=self.dtype, name="conv1").with_weights(features)
        conv2 = Conv(features, (3, 3), use_bias=True, dtype=self.dtype, gain=0.0, name="conv2").with_weights(features)
        return refine(scores.astype(self.dtype), conv1, conv2)  # scores + conv2(nn.relu(conv1(scores)))


class GCN(nn.Module):
    """A `GlobalConv` on each stage, learnt x2 deconvolutions and `BoundaryRefine`.

    Sides that are not multiples of 32 work: each up-sampled map is cut, at the bottom and right, to the size of
    the map that it meets (our choice).

    Attributes:
      kernel_size: k of every head, odd; the paper takes 15 on VOC and 25 on Cityscapes.
      boundary_refine: whether to use the 9 `BoundaryRefine` blocks.
      head: "gcn" (the paper) or what figure 4 compares it with: "conv1x1", "conv" (k x k) or "stack3x3";
        or "strips" or "strip_attention", of later work; see `score_head`.
      head_width: m, channels between the convolutions of a "stack3x3".
      branches: how a GCN's two branches are joined: by their "sum" (the paper) or by "concat" and a 1x1 convolution.
    """

    num_classes: int
    kernel_size: int = 15
    boundary_refine: bool = True
    head: str = "gcn"
    head_width: int = 1024
    branches: str = "sum"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features, at strides 4 to 32 -> scores [B, *size, num_classes]."""
        height, width = size

        def score(features, stage):
            name, options = f"{self.head}_{stage}", (self.head_width, self.branches, self.dtype)
            return score_head(self.head, self.num_classes, self.kernel_size, *options, name)(features)

        def refined(scores, name):
            return BoundaryRefine(self.dtype, name=f"refine_{name}")(scores) if self.boundary_refine else scores

        def upsample(scores, size, name):
            return ConvTranspose(self.dtype, name=f"up_{name}")(scores)[:, : size[0], : size[1]]

        scores = None
        for stage in reversed(STAGES):
            stage_scores = refined(score(features[stage], stage), stage)
            if scores is None:
                scores = stage_scores
            else:
                scores = upsample(scores, stage_scores.shape[1:3], stage) + stage_scores
                scores = refined(scores, f"{stage}_sum")
        scores = refined(upsample(scores, (-(-height // 2), -(-width // 2)), "half"), "half")
        return refined(upsample(scores, (height, width), "full"), "full")
