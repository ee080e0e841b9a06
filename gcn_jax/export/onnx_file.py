"""A trained model as one file of ONNX, from an image's bytes to labels and probabilities."""

import importlib.metadata
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from gcn_jax.data.transforms import pad
from gcn_jax.export.onnx_graph import OPSET, Graph
from gcn_jax.export.onnx_network import Network
from gcn_jax.inference.labeller import WHOLE
from gcn_jax.inference.segmenter import Segmenter
from gcn_jax.models.backbones.resnet import STRIDE
from gcn_jax.models.preprocessing import Preprocessing


def to_bytes(segmenter: Segmenter, metadata: Mapping[str, str]) -> bytes:
    """The file's contents.

    The graph takes ``images``, uint8 [B, H, W, 3], RGB, of any size, or bands as the model takes them. It gives
    ``labels``, uint8 [B, H, W], and ``probabilities``, float32 [B, H, W, num_classes]: to rounding those of
    `Segmenter.predict` and `Segmenter.probabilities` at one scale, of an image of up to `WHOLE` pixels a side; a larger
    one is taken whole. Where a pixel may have several classes the labels are uint8 [B, H, W, num_classes], 1 where a
    class is. It computes in float32, whatever the model's dtype.

    Args:
      segmenter: the model.
      metadata: kept in the file.

    Raises:
      ValueError: if the model has a layer that this exporter lacks, or the file would be larger than 2 GB.
    """
    graph, model, preprocessing = Graph(), segmenter.model, segmenter.preprocessing
    size = graph.add("Shape", "images", start=1, end=3)
    padded = canvas(graph, size, segmenter.protocol.size)
    network = Network(graph, model, segmenter.variables)
    scores = network.logits(_input(graph, size, padded, preprocessing), preprocessing.channels == "BGR", size)
    scores = graph.add("Slice", scores, graph.integers(0, 0), size, graph.integers(2, 3))
    scores = graph.add("Transpose", scores, perm=[0, 2, 3, 1])
    _outputs(graph, scores, segmenter)
    sides = ("batch", "height", "width")
    of_labels = (*sides, model.num_classes) if segmenter.spec.multi_label else sides
    kind = helper.np_dtype_to_tensor_dtype(preprocessing.dtype)
    data = graph.to_bytes(
        helper.make_tensor_value_info("images", kind, (*sides, model.channels)),
        [
            helper.make_tensor_value_info("labels", TensorProto.UINT8, of_labels),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, (*sides, model.num_classes)),
        ],
        {**metadata, "opset": str(OPSET)},
        importlib.metadata.version("gcn_jax"),
    )
    onnx.checker.check_model(data)
    return data


def _outputs(graph: Graph, scores: str, segmenter: Segmenter) -> None:
    """Labels and probabilities of scores, float32 [B, H, W, num_classes]."""
    temperature = segmenter.protocol.temperature or 1.0
    scaled = scores if temperature == 1 else graph.add("Div", scores, graph.constant(np.float32(temperature)))
    if segmenter.spec.multi_label:
        graph.add("Sigmoid", scaled, name="probabilities")
        labels = graph.add("Greater", "probabilities", graph.constant(np.float32(0.5)))
    else:
        graph.add("Softmax", scaled, name="probabilities", axis=-1)
        labels = graph.add("ArgMax", scores, axis=-1, keepdims=0)
    graph.add("Cast", labels, name="labels", to=TensorProto.UINT8)


def canvas(graph: Graph, size: str, training_size: int) -> str:
    """Height and width, int64 [2], to which an image of a size is padded: `Labeller.canvas`.

    Args:
      graph: that the nodes are added to.
      size: height and width of the image.
      training_size: of training's images.
    """

    def where(longest: int, then: str, otherwise: str) -> str:
        return graph.add("Where", graph.add("LessOrEqual", side, graph.integers(longest)), then, otherwise)

    side = graph.add("ReduceMax", size, axes=[0], keepdims=1)
    below = graph.integers(STRIDE - 1)
    multiple = graph.integers(STRIDE)
    own = graph.add("Mul", graph.add("Div", graph.add("Add", size, below), multiple), multiple)
    training = -(-training_size // STRIDE) * STRIDE
    long = where(512, graph.integers(512), where(WHOLE // 2, graph.integers(WHOLE // 2), graph.integers(WHOLE)))
    half = where(WHOLE // 2, graph.integers(512), graph.integers(WHOLE // 2))
    few = graph.add("Where", graph.add("LessOrEqual", size, half), half, long)
    return where(training_size, graph.integers(training, training), where(WHOLE, few, own))


def _input(graph: Graph, size: str, padded: str, preprocessing: Preprocessing) -> str:
    """The network's input, float32 [B, C, H, W]: padded with the mean colour as `pad` does it, and normalised."""

    def of_channels(values: np.ndarray) -> str:
        return graph.constant(values.astype(np.float32).reshape(1, -1, 1, 1))

    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    no_image = np.empty((0, 0, len(mean)), preprocessing.dtype)
    filler = pad(no_image, 1, 1, preprocessing.mean)[0, 0].astype(np.float32)
    x = graph.add("Transpose", "images", perm=[0, 3, 1, 2])
    x = graph.add("Sub", graph.add("Cast", x, to=TensorProto.FLOAT), of_channels(filler))
    ends = graph.add("Concat", graph.integers(*[0] * 6), graph.add("Sub", padded, size), axis=0)
    x = graph.add("Add", graph.add("Pad", x, ends), of_channels(filler - mean))
    x = graph.add("Div", x, of_channels(std))
    if preprocessing.dtype.kind == "f":
        wrong = graph.add("Or", graph.add("IsNaN", x), graph.add("IsInf", x))
        x = graph.add("Where", wrong, graph.constant(np.float32(0)), x)
    return x
