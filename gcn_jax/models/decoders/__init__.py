"""Networks that turn feature maps into scores: one table, a file for each paper.

A decoder is called as ``(features, size, train)`` with the features of `ResNet`, "stem" and "res2" to "res5", and the
size of the image; it returns scores [B, *size, num_classes]. One with ``takes_inside`` also finds "inside" among the
features where images are padded: int32 [B, 4], the part of res-5 that an image takes up, as in `ops.sampling`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from flax import linen as nn

from ..backbones.resnet import OUTPUT_STRIDES, STRIDE
from .deeplab import ASPP, DeepLabV3Plus
from .dilated import LARGE, DilatedNet
from .fcn import FCN, FCNHead
from .gcn import GCN
from .lrr import LRR
from .parsenet import ParseNet
from .pspnet import PSPNet
from .refinenet import RefineNet
from .segnet import SegNet
from .zoomout import Zoomout


class Decoder(NamedTuple):
    """What `build_model` makes a decoder of.

    Attributes:
      module: its class; it gets those options of `build_model` that it has a field for.
      output_stride: of the backbone, as published.
      fixed: the values of its other fields.
      output_strides: of the backbone, that it can do with.
      any_size: whether it makes scores of any size, not only of that of the images that its features are of.
      has_means: whether it normalises one value an image and channel, whose variance a batch of one does not have.
    """

    module: type[nn.Module]
    output_stride: int = STRIDE
    fixed: Mapping[str, Any] = MappingProxyType({})
    output_strides: tuple[int, ...] = OUTPUT_STRIDES
    has_means: bool = False
    any_size: bool = True


DECODERS = {
    "gcn": Decoder(GCN, output_strides=(STRIDE,), any_size=False),
    "fcn32s": Decoder(FCN, fixed={"stages": ("res5",)}),
    "fcn16s": Decoder(FCN, fixed={"stages": ("res5", "res4")}),
    "fcn8s": Decoder(FCN, fixed={"stages": ("res5", "res4", "res3")}),
    "fcn": Decoder(FCNHead, 8),
    "segnet": Decoder(SegNet, output_strides=(STRIDE,)),
    "deconvnet": Decoder(SegNet, fixed={"deconvnet": True}, output_strides=(STRIDE,)),
    "lrr": Decoder(LRR, output_strides=(STRIDE,), any_size=False),
    "dilated": Decoder(DilatedNet, 8),
    "dilated_large": Decoder(DilatedNet, 8, {"widths": LARGE}),
    "aspp": Decoder(ASPP, 8),
    "aspp_s": Decoder(ASPP, 8, {"rates": (2, 4, 8, 12)}),
    "parsenet": Decoder(ParseNet, 8),
    "zoomout": Decoder(Zoomout, has_means=True),
    "pspnet": Decoder(PSPNet, 8, has_means=True),
    "refinenet": Decoder(RefineNet),
    "deeplabv3plus": Decoder(DeepLabV3Plus, 16, has_means=True),
}
