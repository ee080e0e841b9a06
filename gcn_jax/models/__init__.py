"""The network, in pure Flax; imports nothing else of this package."""

import jax.numpy as jnp

from gcn_jax.models.gcn import GCN
from gcn_jax.models.initial import init_variables
from gcn_jax.models.resnet import NORMS, STAGE_SIZES, STRIDES, ResNet

__all__ = ["DTYPES", "GCN", "build_model", "init_variables"]

DTYPES = ("float32", "bfloat16")


def build_model(
    num_classes: int = 21,
    backbone: str = "resnet152",
    kernel_size: int = 15,
    *,
    boundary_refine: bool = True,
    width: int = 64,
    strides_in: str = "v1.5",
    norm: str = "frozen",
    remat: bool = False,
    dtype: str = "float32",
) -> GCN:
    """Builds the segmenter of the paper's figure 2.

    Args:
      num_classes: channels of the logits, at least 2.
      backbone: "resnet152" (the paper), "resnet101", "resnet50", or the small "resnet26" and "resnet14".
      kernel_size: k of every `GlobalConv`, odd; the paper takes 15 on VOC and 25 on Cityscapes.
      boundary_refine: whether to use the 9 `BoundaryRefine` blocks.
      width: channels of the backbone's stem; 64 in every published ResNet.
      strides_in: "v1.5" (torchvision) or "v1" (original Caffe models), see `ResNet`.
      norm: "frozen" statistics or those of the batch, "train", see `Norm`.
      remat: recompute the backbone's activations in the backward pass: less memory, a third more time.
      dtype: "float32" or "bfloat16", of the computation; parameters and logits stay float32.

    Returns:
      A `flax.linen.Module`: ``variables = model.init(key, images, train=False)``, ``model.apply(variables, images)``.

    Raises:
      ValueError: naming the argument and its value.
    """
    choices = {"backbone": tuple(STAGE_SIZES), "strides_in": STRIDES, "norm": NORMS, "dtype": DTYPES}
    given = {"backbone": backbone, "strides_in": strides_in, "norm": norm, "dtype": dtype}
    for name, value in given.items():
        if value not in choices[name]:
            raise ValueError(f"{name} must be one of {', '.join(choices[name])}. Got {value!r}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive. Got {kernel_size}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2. Got {num_classes}")
    if width < 1:
        raise ValueError(f"width must be positive. Got {width}")
    resnet = ResNet(STAGE_SIZES[backbone], width, strides_in, norm, remat, jnp.dtype(dtype))
    return GCN(num_classes, resnet, kernel_size, boundary_refine, jnp.dtype(dtype))
