"""The network, in pure Flax. It needs jax, flax and numpy alone: the folder can be copied into another project."""

from typing import Any

import jax.numpy as jnp

from .backbones.resnet import FREEZE, NORMS, STAGE_SIZES, STRIDES, ResNet
from .decoders.gcn import GCN
from .heads import BRANCHES, HEADS
from .initial import init_variables, variable_shapes
from .ops.xla import CONVOLUTIONS

__all__ = ["CONVOLUTIONS", "DTYPES", "GCN", "ResNet", "build_model", "init_variables", "variable_shapes"]

DTYPES = ("float32", "bfloat16")
_CHOICES: dict[str, tuple[str, ...]] = {
    "backbone": tuple(STAGE_SIZES),
    "strides_in": STRIDES,
    "norm": NORMS,
    "freeze": FREEZE,
    "head": HEADS,
    "branches": BRANCHES,
    "dtype": DTYPES,
    "convolutions": CONVOLUTIONS,
}


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
    stem_width: int = 0,
    strides_in: str = "v1.5",
    norm: str = "frozen",
    freeze: str = "",
    remat: bool = False,
    dtype: str = "float32",
    convolutions: str = "fast",
    channels: int = 3,
) -> GCN:
    """Builds the segmenter of the paper's figure 2, or of its ablations.

    Args:
      num_classes: channels of the logits, at least 2.
      backbone: "resnet152" (the paper), "resnet101", "resnet50", "resnet50_gcn" (figure 5), "resnet26" or "resnet14".
      kernel_size: k of every head, odd; the paper takes 15 on VOC and 25 on Cityscapes.
      boundary_refine: whether to use the 9 `BoundaryRefine` blocks.
      head: "gcn" (the paper) or what figure 4 compares it with: "conv1x1", "conv" (k x k) or "stack3x3".
      head_width: m, channels between the convolutions of a "stack3x3".
      branches: how a GCN's two branches are joined: by their "sum" (the paper) or by "concat" and a 1x1 convolution.
      width: of the backbone: channels of the first convolutions in res-2; 64 in the paper.
      stem_width: channels of the backbone's stem; 0: as many as width, as in every published ResNet.
      strides_in: "v1.5" (torchvision) or "v1" (original Caffe models), see `ResNet`.
      norm: normalise by "frozen" statistics or, in training, by those of the batch, "train"; see `Norm`.
      freeze: "stem", "res2", ..., "res5": the backbone up to there is not trained; "": all of it is.
      remat: recompute the backbone's activations in the backward pass: less memory, a third more time.
      dtype: "float32" or "bfloat16", of the computation; parameters and logits stay float32.
      convolutions: "fast", in each device's fastest form, or "plain", XLA's own: the same up to rounding, but slower.
      channels: of the images; 3 for RGB.

    Returns:
      A `flax.linen.Module`: ``variables = model.init(key, images, train=False)``, ``model.apply(variables, images)``.

    Raises:
      ValueError: naming the argument and its value.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gcn_jax.models import build_model, init_variables
      >>> model = build_model(num_classes=3, backbone="resnet14", width=4, kernel_size=3)
      >>> variables = init_variables(model, seed=0)
      >>> jax.jit(model.apply)(variables, jnp.zeros((1, 64, 48, 3))).shape
      (1, 64, 48, 3)
    """
    _check_choices(backbone=backbone, strides_in=strides_in, norm=norm, freeze=freeze)
    _check_choices(head=head, branches=branches, dtype=dtype, convolutions=convolutions)
    _check_numbers(num_classes, width, stem_width, kernel_size, head, head_width, channels)
    shared: dict[str, Any] = {"dtype": jnp.dtype(dtype), "convolutions": convolutions}
    resnet = ResNet(backbone, width, strides_in, norm, freeze=freeze, remat=remat, stem_width=stem_width, **shared)
    decoder = (kernel_size, boundary_refine, head, head_width, branches)
    return GCN(num_classes, resnet, *decoder, **shared, channels=channels)


def _check_choices(**given: str) -> None:
    for name, value in given.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(filter(None, _CHOICES[name]))}. Got {value!r}")


def _check_numbers(
    num_classes: int, width: int, stem_width: int, kernel_size: int, head: str, head_width: int, channels: int
) -> None:
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
    if stem_width < 0:
        raise ValueError(f"stem_width must be positive, or 0 for width. Got {stem_width}")
    if channels < 1:
        raise ValueError(f"channels must be positive. Got {channels}")
