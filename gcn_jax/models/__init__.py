"""The network, in pure Flax; imports nothing else of this package."""

import jax.numpy as jnp

from gcn_jax.models.backbones.resnet import FREEZE, NORMS, STAGE_SIZES, STRIDES, ResNet
from gcn_jax.models.decoders.gcn import GCN
from gcn_jax.models.heads import BRANCHES, HEADS
from gcn_jax.models.initial import init_variables, variable_shapes

__all__ = ["DTYPES", "GCN", "build_model", "init_variables", "variable_shapes"]

DTYPES = ("float32", "bfloat16")


def build_model(
    num_classes: int = 21,
    backbone: str = "resnet152",
    kernel_size: int = 15,
    *,
    boundary_refine: bool = True,
    head: str = "gcn",
    head_width: int = 1024,
    branches: str = "sum",
    width: int = 64,
    strides_in: str = "v1.5",
    norm: str = "frozen",
    freeze: str = "",
    remat: bool = False,
    dtype: str = "float32",
) -> GCN:
    """Builds the segmenter of the paper's figure 2, or of its ablations.

    Args:
      num_classes: channels of the logits, at least 2.
      backbone: "resnet152" (the paper), "resnet101", "resnet50", "resnet50_gcn" (figure 5), or the small "resnet26" and
        "resnet14".
      kernel_size: k of every head, odd; the paper takes 15 on VOC and 25 on Cityscapes.
      boundary_refine: whether to use the 9 `BoundaryRefine` blocks.
      head: "gcn" (the paper) or what figure 4 compares it with: "conv1x1", "conv" (k x k) or "stack3x3".
      head_width: m, channels between the convolutions of a "stack3x3".
      branches: what becomes of a GCN's two branches: their "sum" (the paper) or "concat", then projected.
      width: channels of the backbone's stem; 64 in every published ResNet.
      strides_in: "v1.5" (torchvision) or "v1" (original Caffe models), see `ResNet`.
      norm: "frozen" statistics or those of the batch, "train", see `Norm`.
      freeze: "stem", "res2", ..., "res5": the backbone up to there is not trained; "": all of it is.
      remat: recompute the backbone's activations in the backward pass: less memory, a third more time.
      dtype: "float32" or "bfloat16", of the computation; parameters and logits stay float32.

    Returns:
      A `flax.linen.Module`: ``variables = model.init(key, images, train=False)``, ``model.apply(variables, images)``.

    Raises:
      ValueError: naming the argument and its value.
    """
    choices = {
        "backbone": (backbone, tuple(STAGE_SIZES)),
        "strides_in": (strides_in, STRIDES),
        "norm": (norm, NORMS),
        "freeze": (freeze, FREEZE),
        "head": (head, HEADS),
        "branches": (branches, BRANCHES),
        "dtype": (dtype, DTYPES),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(filter(None, known))}. Got {value!r}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive. Got {kernel_size}")
    if head == "stack3x3" and kernel_size == 1:
        raise ValueError(f"kernel_size must be at least 3 with head='stack3x3'. Got {kernel_size}")
    if head_width < 1:
        raise ValueError(f"head_width must be positive. Got {head_width}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2. Got {num_classes}")
    if width < 1:
        raise ValueError(f"width must be positive. Got {width}")
    compute = jnp.dtype(dtype)
    resnet = ResNet(backbone, width, strides_in, norm, freeze=freeze, remat=remat, dtype=compute)
    return GCN(num_classes, resnet, kernel_size, boundary_refine, head, head_width, branches, compute)
