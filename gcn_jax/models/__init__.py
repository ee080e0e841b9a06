"""The network, in pure Flax. It needs jax, flax and numpy alone: the folder can be copied into another project."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from .backbones.resnet import (
    FREEZE,
    GLOBAL_CONVS,
    NORMS,
    OUTPUT_STRIDES,
    STAGE_SIZES,
    STEM_LAYERS,
    STRIDE,
    STRIDES,
    ResNet,
)
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
    "stem": STEM_LAYERS,
    "strides_in": STRIDES,
    "norm": NORMS,
    "decoder_norm": ("", *NORMS),
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
    fused_scales: tuple[float, ...] = (),
    boundary_refine: bool = True,
    head: str = "gcn",
    head_width: int = 1024,
    branches: str = "sum",
    width: int = 64,
    stem: str = "conv7x7",
    stem_width: int = 0,
    strides_in: str = "v1.5",
    norm: str = "frozen",
    decoder_norm: str = "",
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
      fused_scales: other scales of the images, whose scores are fused by their maxima, see `Network`.
      boundary_refine: whether "gcn" uses its 9 `BoundaryRefine` blocks.
      head: of "gcn": itself (the paper), what figure 4 compares it with, or a later one; see `score_head`.
      head_width: m, channels between the convolutions of the head "stack3x3".
      branches: how a GCN's two branches are joined: by their "sum" (the paper) or by "concat" and a 1x1 convolution.
      width: of the backbone: channels of the first convolutions in res-2; 64 in the paper.
      stem: of the backbone, "conv7x7" or "deep", three 3x3 convolutions, see `ResNet`.
      stem_width: channels of the backbone's stem; 0: as many as width, as in every published ResNet with "conv7x7".
      strides_in: "v1.5" (torchvision) or "v1" (original Caffe models), see `ResNet`.
      norm: normalise by "frozen" statistics or, in training, by those of the batch, "train"; see `Norm`.
      decoder_norm: the same of the decoder and the second head, new norms beside trained ones, say; "": as norm.
      freeze: "stem", "res2", ..., "res5": the backbone up to there is not trained; "": all of it is.
      remat: recompute the backbone's activations in the backward pass: less memory, a third more time.
      dtype: "float32" or "bfloat16", of the computation; parameters and logits stay float32.
      convolutions: "fast", in each device's fastest form, or "plain", XLA's own: the same but for rounding, and slower.
      channels: of the images; 3 for RGB.

    Returns:
      A `Network`: ``model.init(key, images)``, ``model.apply(variables, images)``. A wrong argument: `ValueError`.
    """
    _check(given := dict(locals()))
    stride, how = _output_stride(output_stride, decoder, backbone), (jnp.dtype(dtype), convolutions)
    resnet = ResNet(backbone, width, strides_in, norm, 0.9, stem_width, freeze, remat, *how, stride, stem)
    options = {**given, "norm": decoder_norm or norm, "dtype": how[0], "output_stride": stride}
    return Network(resnet, *_decoders(decoder, auxiliary, options), *how, channels, tuple(fused_scales))


def _decoders(name: str, auxiliary: bool, options: dict[str, Any]) -> tuple[Any, FCNHead | None]:
    """A decoder with those of the options that it has a field for, and the second head if there is to be one."""
    if name != "gcn" and (options["head"], options["branches"]) != ("gcn", "sum"):
        given = f"{options['head']!r} and {options['branches']!r}"
        raise ValueError(f"head and branches are of decoder='gcn', not of {name!r}: leave them out. Got {given}")
    module, fixed = DECODERS[name].module, DECODERS[name].fixed
    names = {field.name for field in dataclasses.fields(module)}
    taken = {option: value for option, value in options.items() if option in names}
    second = FCNHead(options["num_classes"], "res4", options["norm"], dtype=options["dtype"])
    return module(**taken, **fixed), second if auxiliary else None


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


def _check(given: dict[str, Any]) -> None:
    """Raises `ValueError` for the first argument of `build_model` that cannot be."""
    for name, known in _CHOICES.items():
        if given[name] not in known:
            raise ValueError(f"{name} must be one of {', '.join(filter(None, known))}. Got {given[name]!r}")
    kernel_size, head, decoder, scales = (given[name] for name in ("kernel_size", "head", "decoder", "fused_scales"))
    for name, is_right, requirement in (
        ("kernel_size", kernel_size > 0 and kernel_size % 2, "odd and positive"),
        ("kernel_size", head != "stack3x3" or kernel_size > 1, "at least 3 with head='stack3x3'"),
        ("kernel_size", head != "strips" or kernel_size >= SQUARE, f"at least {SQUARE} with head='strips'"),
        ("head_width", given["head_width"] > 0, "positive"),
        ("num_classes", given["num_classes"] > 1, "at least 2"),
        ("width", given["width"] > 0, "positive"),
        ("stem_width", given["stem_width"] >= 0, "positive, or 0 for width"),
        ("channels", given["channels"] > 0, "positive"),
        ("fused_scales", all(_is_scale(scale) for scale in scales), "numbers between 0 and 2"),
        ("fused_scales", not scales or DECODERS[decoder].any_size, f"empty with decoder={decoder!r}"),
    ):
        if not is_right:
            raise ValueError(f"{name} must be {requirement}. Got {given[name]}")


def _is_scale(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < 2
