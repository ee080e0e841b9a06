"""A trained model as one file of LiteRT (TFLite), for telephones and small computers, of one size of image."""

import os
from collections.abc import Mapping

import jax.numpy as jnp

from gcn_jax.export.stablehlo import exported
from gcn_jax.inference.segmenter import Segmenter
from gcn_jax.models.backbones.resnet import STRIDE


def to_bytes(segmenter: Segmenter, metadata: Mapping[str, str]) -> bytes:
    """The file's contents: a function of one image, [1, S, S, channels], S the size of training's images.

    S is rounded up to a multiple of 32; a smaller image is padded to it by the caller. It gives ``labels``, uint8
    [1, S, S], and ``probabilities``, float32 [1, S, S, num_classes], computed in float32 whatever the model's dtype.

    Args:
      segmenter: the model.
      metadata: not kept: the converter has no place for it.

    Raises:
      ValueError: if the converter lacks an operation of the model, which the message names.
    """
    del metadata
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else importing the converter writes two lines to stderr
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir._mlir_libs import converter_api_ext as converter

    side = -(-segmenter.protocol.size // STRIDE) * STRIDE
    program = exported(segmenter, (1, side, side, segmenter.model.channels), ("cpu",), jnp.float32)
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(program.mlir_module())
        names = {"input_names": ["images"], "output_names": ["labels", "probabilities"]}
        converter.set_signature(module.operation, signature_name="serving_default", **names)
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), converter.ConvertToTFLConfig())
        return converter.export_flatbuffer_to_bytes(module.operation)
