"""ResNet feature extractor (He et al., CVPR 2016)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ..layers import Conv, Norm, normalized
from ..ops.convolution import Dtype, Stride, max_pool
from ..ops.xla import convolutions, relu_once

# Blocks in res-2, res-3, res-4, res-5. The paper uses ResNet-152; 14 and 26 are for small data and tests.
STAGE_SIZES = {
    "resnet14": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet26": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet50_gcn": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
# ResNet50-GCN (figure 5, table 11): k and width of the blocks of these stages, at a stem of 64 channels.
GLOBAL_CONVS = {"resnet50_gcn": {"res4": (5, 85), "res5": (7, 128)}}
BASIC = ("resnet18", "resnet34")  # of `BasicBlock`, all others of `Bottleneck`
STRIDE = 32  # of the last stage, at most
OUTPUT_STRIDES = (8, 16, STRIDE)
STAGES = ("res2", "res3", "res4", "res5")
NORMS = ("frozen", "train")
STRIDES = ("v1.5", "v1")
STEMS = ("mean", "repeat", "copy")  # how RGB kernels become those of bands
STEM_LAYERS = ("conv7x7", "deep")  # see `ResNet`
FREEZE = ("", "stem", *STAGES)  # up to where the backbone can be fixed


def is_fixed(name: str, freeze: str) -> bool:
    """Whether a backbone's layer or block, such as "conv1" or "res2_block1", is part of what `freeze` fixes."""
    part = name.partition("_")[0]
    return FREEZE.index(part if part in STAGES else "stem") <= FREEZE.index(freeze)


def stem_of_bands(kernel: np.ndarray, channels: int, how: str) -> np.ndarray:
    """The stem's kernel for any number of bands, from that for RGB.

    Args:
      kernel: [kh, kw, 3, features].
      channels: the number of bands, c.
      how: "mean": each band gets the mean of the three kernels times 3/c, so that grey in c equal bands gives what it
        gives in RGB, whatever the bands' order; "repeat": R, G, B, R, ... times 3/c; "copy": the first three bands get
        R, G and B as they are, all others 0.

    Returns:
      [kh, kw, channels, features].
    """
    if how == "copy":
        return np.pad(kernel, ((0, 0), (0, 0), (0, max(channels - 3, 0)), (0, 0)))[:, :, :channels]
    if how == "mean":
        kernel = kernel.mean(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % kernel.shape[2]] * np.float32(3 / channels)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions, each normalised, beside the identity (or a 1x1 projection); then ReLU.

    The last scale starts at 0, so that an untrained block is the identity (Goyal et al., 2017).

    Attributes:
      width: channels of the first two convolutions; the third has four times as many.
      stride: of the block.
      project: whether a 1x1 convolution replaces the identity.
      dilation: of the 3x3 convolution.
      strides_in: see `ResNet`.
      global_conv: k and width of a Global Convolutional Network in place of the first two convolutions (figure 5:
        each of its convolutions is normalised, its branches are concatenated, each strides along its own axis, our
        choice); None: the ordinary block.
      norm: makes a `Norm`.
      dtype: of the computation.
    """

    width: int
    stride: int
    project: bool
    strides_in: str
    global_conv: tuple[int, int] | None
    norm: Callable[..., Norm]
    dtype: Dtype
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def conv_norm(x, name, features, kernel_size, stride: Stride = 1, initial_scale=1.0, dilation=1):
            conv = Conv(features, kernel_size, stride, dilation=dilation, dtype=self.dtype, name=f"conv{name}")
            return normalized(conv, self.norm(initial_scale=initial_scale, name=f"norm{name}"), x, train)

        if self.global_conv:
            k, width = self.global_conv
            column, row = ((k, 1), (self.stride, 1)), ((1, k), (1, self.stride))

            def branch(name, first, second):
                y = relu_once(conv_norm(x, f"_{name}1", width, *first))
                return relu_once(conv_norm(y, f"_{name}2", width, *second))

            y = jnp.concatenate([branch("left", column, row), branch("right", row, column)], axis=-1)
        else:
            first, second = (self.stride, 1) if self.strides_in == "v1" else (1, self.stride)
            y = relu_once(conv_norm(x, 1, self.width, (1, 1), first))
            y = relu_once(conv_norm(y, 2, self.width, (3, 3), second, dilation=self.dilation))
        y = conv_norm(y, 3, 4 * self.width, (1, 1), initial_scale=0.0)
        if self.project:
            x = conv_norm(x, "_proj", 4 * self.width, (1, 1), self.stride)
        return relu_once(x + y)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions of one width, each normalised, beside the identity (or a 1x1 projection); then ReLU.

    Its attributes and its start are those of `Bottleneck`; the first convolution strides.
    """

    width: int
    stride: int
    project: bool
    norm: Callable[..., Norm]
    dtype: Dtype
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def conv_norm(x, name, kernel_size=(3, 3), stride=1, initial_scale=1.0):
            dilation = self.dilation if kernel_size == (3, 3) else 1
            conv = Conv(self.width, kernel_size, stride, dilation=dilation, dtype=self.dtype, name=f"conv{name}")
            return normalized(conv, self.norm(initial_scale=initial_scale, name=f"norm{name}"), x, train)

        y = relu_once(conv_norm(x, 1, stride=self.stride))
        y = conv_norm(y, 2, initial_scale=0.0)
        if self.project:
            x = conv_norm(x, "_proj", (1, 1), self.stride)
        return relu_once(x + y)


class ResNet(nn.Module):
    """Features of the stem and of the four residual stages.

    Attributes:
      backbone: one of `STAGE_SIZES`.
      width: channels of the first two convolutions of a block of res-2; 64 in every model of figure 2.
      stem_width: channels of the stem; 0: as many as `width`, which is so in every published ResNet.
      strides_in: where a stage halves the resolution: in its first 3x3 convolution ("v1.5": torchvision, timm)
        or in its first 1x1 ("v1": the original Caffe models). Basic blocks have no 1x1.
      output_stride: of res-5. With 16 res-5 does not halve the resolution, with 8 res-4 does not, either. The taps of
        its 3x3 convolutions, and of those that follow, are then twice as far apart, except that a stage's first block
        still has the distance of the stage before, which is torchvision's convention.
      stem: its layers, each normalised: "conv7x7" (He et al.), or "deep": three 3x3 convolutions, the first two of half
        the channels (PSPNet's Caffe model and semseg with a stem_width of 128, "v1c" elsewhere with 64).
      norm: "frozen" or "train", see `Norm`.
      momentum: see `Norm`.
      freeze: one of `FREEZE`: everything up to and including it is fixed. Its statistics stay as they are, and no
        gradient passes through it.
      remat: recompute each block's activations in the backward pass instead of keeping them.
      convolutions: "fast" or "plain", see `build_model`.
      dtype: of the computation; parameters are float32.
    """

    backbone: str = "resnet152"
    width: int = 64
    strides_in: str = "v1.5"
    norm: str = "frozen"
    momentum: float = 0.9
    stem_width: int = 0
    freeze: str = ""
    remat: bool = False
    dtype: Dtype = jnp.float32
    convolutions: str = "fast"
    output_stride: int = STRIDE
    stem: str = "conv7x7"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Images [B, H, W, C] -> "stem", "res2": [B, ceil(H/4), ceil(W/4), ...], ..., "res5": [B, ceil(H/32), ...].

        They have `stem_width`, 4 width, ..., 32 width channels; with basic blocks a fourth of it.
        """
        with convolutions(self.convolutions):
            return self._features(images, train)

    def _features(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        norm = functools.partial(Norm, self.norm, momentum=self.momentum)
        blocks = BasicBlock if self.backbone in BASIC else Bottleneck
        block = nn.remat(blocks, static_argnums=(2,)) if self.remat else blocks

        def end(x, name):
            return jax.lax.stop_gradient(x) if is_fixed(name, self.freeze) else x

        x = images
        for i, layer in enumerate(self._stem_layers(), 1):
            conv = Conv(*layer, dtype=self.dtype, name=f"conv{i}")
            x = nn.relu(normalized(conv, norm(name=f"norm{i}"), x, train and not is_fixed("conv1", self.freeze)))
        x = end(max_pool(x), "conv1")
        features = {"stem": x}
        for i, (stage, size) in enumerate(zip(STAGES, STAGE_SIZES[self.backbone], strict=True)):
            halves, first, dilation = self.sampling(i)
            for j in range(size):
                x = block(
                    width=self.width * 2**i,
                    stride=2 if j == 0 and halves else 1,
                    dilation=first if j == 0 else dilation,
                    norm=norm,
                    dtype=self.dtype,
                    name=f"{stage}_block{j + 1}",
                    **self._kind(stage, j == 0, x.shape[-1]),
                )(x, train and not is_fixed(stage, self.freeze))
            features[stage] = x = end(x, stage)
        return features

    def sampling(self, i: int) -> tuple[bool, int, int]:
        """Whether stage i, from 0, halves the resolution; how far taps are apart in its first block and in others."""
        dilations = [max(2 ** (2 + k) // self.output_stride, 1) for k in (max(i - 1, 0), i)]
        return i > 0 and dilations[1] == 1, *dilations

    def _stem_layers(self) -> list[tuple[int, tuple[int, int], int]]:
        """Features, kernel size and stride of each convolution."""
        width = self.stem_width or self.width
        if self.stem == "conv7x7":
            return [(width, (7, 7), 2)]
        half = max(width // 2, 1)
        return [(half, (3, 3), 2), (half, (3, 3), 1), (width, (3, 3), 1)]

    def _kind(self, stage: str, is_first: bool, channels: int) -> dict[str, Any]:
        """The attributes of a stage's block, from this many channels, that not both kinds of blocks have alike."""
        if self.backbone in BASIC:
            return {"project": is_first and (stage != "res2" or channels != self.width)}
        k, width = GLOBAL_CONVS.get(self.backbone, {}).get(stage, (0, 0))
        global_conv = (k, width * self.width // 64) if k else None
        return {"project": is_first, "strides_in": self.strides_in, "global_conv": global_conv}
