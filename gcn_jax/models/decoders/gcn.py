"""The segmenter of "Large Kernel Matters" (Peng et al., CVPR 2017), figure 2."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..backbones.resnet import STAGES, STRIDE, ResNet
from ..heads import score_head
from ..layers import Conv, ConvTranspose
from ..ops.convolution import Dtype
from ..ops.packed import refine
from ..ops.xla import convolutions


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
    """ResNet features, a `GlobalConv` on each stage, and a decoder of learnt x2 deconvolutions and `BoundaryRefine`.

    Sides that are not multiples of 32 work: each up-sampled map is cut, at the bottom and right, to the size of
    the map that it meets (our choice). `head`, `head_width` and `branches` choose another block than `GlobalConv`,
    as in figure 4: see `score_head`; `convolutions` is described at `build_model`.
    """

    num_classes: int
    backbone: ResNet
    kernel_size: int = 15
    boundary_refine: bool = True
    head: str = "gcn"
    head_width: int = 1024
    branches: str = "sum"
    dtype: Dtype = jnp.float32
    convolutions: str = "fast"
    channels: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Scores every pixel.

        Args:
          images: float [B, H, W, channels], normalised; H and W at least 32.
          train: use (and update, if mutable) the batch's statistics where the backbone's norm is "train".

        Returns:
          Logits, float32 [B, H, W, num_classes].

        Raises:
          ValueError: if the images are not [B, H, W, channels] or a side is below 32.
        """
        if images.ndim != 4 or images.shape[-1] != self.channels:
            raise ValueError(f"images must be [B, H, W, {self.channels}]. Got {images.shape=}")
        if any(side < STRIDE for side in images.shape[1:3]):  # each by itself: symbolic sides have no least
            raise ValueError(f"images must be at least {STRIDE} pixels high and wide. Got {images.shape=}")
        with convolutions(self.convolutions):
            return self._logits(images, train)

    def _logits(self, images: jax.Array, train: bool) -> jax.Array:
        height, width = images.shape[1:3]

        def score(features, stage):
            name, options = f"{self.head}_{stage}", (self.head_width, self.branches, self.dtype)
            return score_head(self.head, self.num_classes, self.kernel_size, *options, name)(features)

        def refined(scores, name):
            return BoundaryRefine(self.dtype, name=f"refine_{name}")(scores) if self.boundary_refine else scores

        def upsample(scores, size, name):
            return ConvTranspose(self.dtype, name=f"up_{name}")(scores)[:, : size[0], : size[1]]

        features = self.backbone(images, train)
        scores = None
        for stage in reversed(STAGES):
            stage_scores = refined(score(features[stage], stage), stage)
            if scores is None:
                scores = stage_scores
            else:
                scores = upsample(scores, stage_scores.shape[1:3], stage) + stage_scores
                scores = refined(scores, f"{stage}_sum")
        scores = refined(upsample(scores, (-(-height // 2), -(-width // 2)), "half"), "half")
        scores = refined(upsample(scores, (height, width), "full"), "full")
        return scores.astype(jnp.float32)
