"""The network, in pure Flax. It needs jax, flax and numpy alone: the folder can be copied into another project."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from .backbones.resnet import FREEZE, GLOBAL_CONVS, NORMS, OUTPUT_STRIDES, STAGE_SIZES, STRIDE, STRIDES, ResNet
from .decoders import DECODERS
from .decoders.fcn import FCNHead
from .heads import BRANCHES, HEADS, SQUARE
from .initial import init_variables, variable_shapes
from .network import Network
from .ops.xla import CONVOLUTIONS

__all__ = [
    "CONVOLUTIONS",
    "DECODERS",
    "DTYPES",
    "Network",
    "ResNet",
    "build_model",
    "init_variables",
    "variable_shapes",
]

DTYPES = ("float32", "bfloat16")
_CHOICES: dict[str, tuple[str, ...]] = {
    "decoder": tuple(DECODERS),
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
    decoder: str = "gcn",
    output_stride: int = 0,
    auxiliary: bool = False,
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
) -> Network:
    """Builds the segmenter of the paper's figure 2, of its ablations, or of related work.

    Args:
      num_classes: channels of the logits, at least 2.
      backbone: "resnet152" (the paper), "resnet101", "resnet50", "resnet50_gcn" (figure 5), "resnet26" or "resnet14";
        "resnet34" or "resnet18", of basic blocks.
      kernel_size: k of every head of the decoder "gcn", odd; the paper takes 15 on VOC and 25 on Cityscapes.
      decoder: what makes scores of the backbone's features: "gcn" (the paper) or another of `DECODERS`.
      output_stride: of the backbone, 8, 16 or 32, see `ResNet`; 0: the decoder's own, as published.
      auxiliary: whether training has a second head, on res-4, see `Network`.
      boundary_refine: whether "gcn" uses its 9 `BoundaryRefine` blocks.
      head: of "gcn": itself (the paper), what figure 4 compares it with, or a later one; see `score_head`.
      head_width: m, channels between the convolutions of the head "stack3x3".
      branches: how a GCN's two branches are joined: by their "sum" (the paper) or by "concat" and a 1x1 convolution.
      width: of the backbone: channels of the first convolutions in res-2; 64 in the paper.
      stem_width: channels of the backbone's stem; 0: as many as width, as in every published ResNet.
      strides_in: "v1.5" (torchvision) or "v1" (original Caffe models), see `ResNet`.
      norm: normalise by "frozen" statistics or, in training, by those of the batch, "train"; see `Norm`.
      freeze: "stem", "res2", ..., "res5": the backbone up to there is not trained; "": all of it is.
      remat: recompute the backbone's activations in the backward pass: less memory, a third more time.
      dtype: "float32" or "bfloat16", of the computation; parameters and logits stay float32.
      convolutions: "fast", in each device's fastest form, or "plain", XLA's own: the same but for rounding, and slower.
      channels: of the images; 3 for RGB.

    Returns:
      ``variables = model.init(key, images, train=False)``, ``model.apply(variables, images)``; `Network` has both. A
      wrong argument raises `ValueError` that names it and its value.
    """
    _check_choices(decoder=decoder, backbone=backbone, strides_in=strides_in, norm=norm, freeze=freeze)
    _check_choices(head=head, branches=branches, dtype=dtype, convolutions=convolutions)
    _check_numbers(num_classes, width, stem_width, kernel_size, head, head_width, channels)
    stride, how = _output_stride(output_stride, decoder, backbone), (jnp.dtype(dtype), convolutions)
    resnet = ResNet(backbone, width, strides_in, norm, 0.9, stem_width, freeze, remat, *how, stride)
    gcn = {"kernel_size": kernel_size, "boundary_refine": boundary_refine, "head": head, "head_width": head_width}
    options = {**gcn, "branches": branches, "norm": norm, "dtype": how[0], "output_stride": stride}
    second = FCNHead(num_classes, "res4", norm, dtype=how[0]) if auxiliary else None
    return Network(resnet, _decoder(decoder, num_classes, options), second, *how, channels)


def _decoder(name: str, num_classes: int, options: dict[str, Any]) -> Any:
    """A decoder with those of the options that it has a field for."""
    if name != "gcn" and (options["head"], options["branches"]) != ("gcn", "sum"):
        given = f"{options['head']!r} and {options['branches']!r}"
        raise ValueError(f"head and branches are of decoder='gcn', not of {name!r}: leave them out. Got {given}")
    module, fixed = DECODERS[name].module, DECODERS[name].fixed
    names = {field.name for field in dataclasses.fields(module)}
    taken = {option: value for option, value in options.items() if option in names}
    return module(num_classes=num_classes, **taken, **fixed)


def _output_stride(output_stride: int, decoder: str, backbone: str) -> int:
    """The backbone's stride; raises `ValueError` if the decoder or the backbone cannot have it."""
    if output_stride not in (0, *OUTPUT_STRIDES):
        raise ValueError(f"output_stride must be 8, 16 or 32, or 0 for the decoder's own. Got {output_stride}")
    stride = output_stride or DECODERS[decoder].output_stride
    if stride not in DECODERS[decoder].output_strides:
        raise ValueError(f"output_stride must be 32 or 0 with decoder={decoder!r}, which doubles maps. Got {stride}")
    if stride != STRIDE and backbone in GLOBAL_CONVS:
        raise ValueError(f"output_stride must be 32 with backbone={backbone!r}, and decoder one for it. Got {stride}")
    return stride


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
    if head == "strips" and kernel_size < SQUARE:
        raise ValueError(f"kernel_size must be at least {SQUARE} with head='strips'. Got {kernel_size}")
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
