"""ResNet feature extractor (He et al., CVPR 2016), bottleneck blocks, no dilation."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gcn_jax.models.conv import Conv, Dtype, materialize, max_pool

# Blocks in res-2, res-3, res-4, res-5. The paper uses ResNet-152; 14 and 26 are for small data and tests.
STAGE_SIZES = {
    "resnet14": (1, 1, 1, 1),
    "resnet26": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
STRIDE = 32  # of the last stage
STAGES = ("res2", "res3", "res4", "res5")
NORMS = ("frozen", "train")
STRIDES = ("v1.5", "v1")


class Norm(nn.Module):
    """Batch normalisation with fixed statistics ("frozen") or those of the global batch ("train").

    Scale and bias are learnt in both. Frozen is the default, since the statistics of one image are poor (our choice;
    the paper does not say). In "train" the running statistics follow with momentum 0.9; under jit with a sharded
    batch they are those of the whole batch, over all devices.

    Attributes:
      initial_scale: where the scale starts.
    """

    mode: str = "frozen"
    initial_scale: float = 1.0

    @nn.compact
    def __call__(self, features: int, x: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The scale and the shift that normalise, float32 [features].

        Args:
          features: channels.
          x: [B, H, W, features], to take the statistics of, which the running ones then follow; None: take those.
        """
        scale = self.param("scale", nn.initializers.constant(self.initial_scale), (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        mean, var = running_mean.value, running_var.value
        if x is not None:
            mean = jnp.mean(x, axis=(0, 1, 2), dtype=jnp.float32)
            var = jnp.mean(jnp.square(x.astype(jnp.float32) - mean[None, None, None]), axis=(0, 1, 2))
            if not self.is_initializing():
                running_mean.value = 0.9 * running_mean.value + 0.1 * mean
                running_var.value = 0.9 * running_var.value + 0.1 * var
        scale = scale * jax.lax.rsqrt(var + 1e-5)
        return scale, bias - mean * scale


def normalized(conv: Conv, norm: Norm, x: jax.Array, train: bool) -> jax.Array:
    """Convolves and normalises: fixed statistics are folded into the convolution."""
    if not (train and norm.mode == "train"):
        return conv(x, *norm(conv.features, None))
    y = conv(x)
    scale, shift = norm(conv.features, y)
    return y * scale.astype(y.dtype)[None, None, None] + shift.astype(y.dtype)[None, None, None]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions, each normalised, beside the identity (or a 1x1 projection); then ReLU.

    The last scale starts at 0, so that an untrained block is the identity (Goyal et al., 2017).
    """

    width: int
    stride: int
    project: bool
    strides_in: str
    norm: str
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def conv_norm(x, i, features, kernel_size, stride=1, initial_scale=1.0):
            conv = Conv(features, (kernel_size, kernel_size), stride, dtype=self.dtype, name=f"conv{i}")
            return normalized(conv, Norm(self.norm, initial_scale, name=f"norm{i}"), x, train)

        first, second = (self.stride, 1) if self.strides_in == "v1" else (1, self.stride)
        y = nn.relu(conv_norm(x, 1, self.width, 1, first))
        y = nn.relu(conv_norm(y, 2, self.width, 3, second))
        y = conv_norm(y, 3, 4 * self.width, 1, initial_scale=0.0)
        if self.project:
            x = conv_norm(x, "_proj", 4 * self.width, 1, self.stride)
        return materialize(nn.relu(x + y))


class ResNet(nn.Module):
    """Features of the four residual stages.

    Attributes:
      stage_sizes: blocks a stage, one of `STAGE_SIZES`.
      width: channels of the stem; 64 in every published model.
      strides_in: where a stage halves the resolution: in its first 3x3 convolution ("v1.5": torchvision, timm)
        or in its first 1x1 ("v1": the original Caffe models).
      norm: "frozen" or "train", see `Norm`.
      remat: recompute each block's activations in the backward pass instead of keeping them.
      dtype: of the computation; parameters are float32.
    """

    stage_sizes: tuple[int, ...]
    width: int = 64
    strides_in: str = "v1.5"
    norm: str = "frozen"
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Images [B, H, W, 3] -> "res2": [B, ceil(H/4), ceil(W/4), 4 width], ..., "res5": [B, ceil(H/32), ...]."""
        conv = Conv(self.width, (7, 7), 2, dtype=self.dtype, name="conv1")
        x = max_pool(nn.relu(normalized(conv, Norm(self.norm, name="norm1"), images, train)))
        block = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        features = {}
        for i, (stage, size) in enumerate(zip(STAGES, self.stage_sizes, strict=True)):
            for j in range(size):
                x = block(
                    width=self.width * 2**i,
                    stride=2 if j == 0 and i > 0 else 1,
                    project=j == 0,
                    strides_in=self.strides_in,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"{stage}_block{j + 1}",
                )(x, train)
            features[stage] = x
        return features
