"""A trained model as one file of StableHLO, which needs jax alone to run on a CPU, a CUDA machine and a TPU."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from gcn_jax.inference.maps import Maps, measured, measured_of_each
from gcn_jax.inference.segmenter import Segmenter
from gcn_jax.models.backbones.resnet import STRIDE
from gcn_jax.models.ops.convolution import Dtype
from gcn_jax.models.preprocessing import normalize

PLATFORMS = ("cpu", "cuda", "tpu")


def to_bytes(segmenter: Segmenter, metadata: Mapping[str, str]) -> bytes:
    """What `jax.export.deserialize` takes: a function of images, [B, H, W, channels], any B and any H, W >= 32.

    It returns ``{"labels": uint8 [B, H, W], "probabilities": float32 [B, H, W, num_classes]}``; where a pixel may have
    several classes the labels are uint8 [B, H, W, num_classes], 1 where a class is. Images are taken as
    they are, where `Segmenter` pads them to one of a few shapes.

    Args:
      segmenter: the model.
      metadata: not kept: the format has no place for it.

    Raises:
      ValueError: if the model needs to know the size.
    """
    del metadata
    if segmenter.model.fused_scales:
        raise ValueError("the program takes images of any size, and config.model.fused_scales needs to know it")
    least = [f"h >= {STRIDE}", f"w >= {STRIDE}"]
    shape = jax.export.symbolic_shape(f"b, h, w, {segmenter.model.channels}", constraints=least)
    return bytes(exported(segmenter, shape, PLATFORMS, segmenter.model.dtype).serialize())


def exported(segmenter: Segmenter, shape: Any, platforms: tuple[str, ...], dtype: Dtype) -> jax.export.Exported:
    """The program for images of a shape, computed in a dtype, by XLA's own convolutions.

    These are the same on every platform, and take sides that are not known yet.
    """
    form: dict[str, Any] = {"convolutions": "plain", "dtype": dtype}
    network = segmenter.model
    backbone, decoder = network.backbone.clone(**form, parent=None), network.decoder.clone(dtype=dtype, parent=None)
    model = network.clone(backbone=backbone, decoder=decoder, **form)
    temperature = segmenter.protocol.temperature or 1.0
    is_multi = segmenter.spec.multi_label
    activation, measure = (jax.nn.sigmoid, measured_of_each) if is_multi else (jax.nn.softmax, measured)

    def program(images: jax.Array) -> Maps:
        scores: Any = model.apply(segmenter.variables, normalize(images, segmenter.preprocessing), train=False)
        probabilities = activation(scores / temperature)
        maps = measure(jnp, scores, probabilities, ("labels", "probabilities"))
        return {**maps, "labels": maps["labels"].astype(jnp.uint8)}

    images = jax.ShapeDtypeStruct(shape, segmenter.preprocessing.dtype)
    return jax.export.export(jax.jit(program), platforms=platforms)(images)
