"""The network as a graph of ONNX: its backbone, and one of `DECODERS` on the features of its stages.

It follows `gcn_jax.models` from its parameters; images have sides that are multiples of 32, so that no map is cut.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from gcn_jax import models
from gcn_jax.export.onnx_decoders import DECODERS, Features
from gcn_jax.export.onnx_graph import Graph
from gcn_jax.export.onnx_layers import Layers
from gcn_jax.models.backbones.resnet import BASIC, GLOBAL_CONVS, STAGE_SIZES, STAGES, STRIDE


class Network:
    """Adds a model's layers to a graph.

    Args:
      graph: that the layers are added to.
      model: the network.
      variables: its weights, ``{"params": ..., "batch_stats": ...}``.
    """

    def __init__(self, graph: Graph, model: models.Network, variables: Mapping[str, Any]):
        self._layers, self._model, self._backbone = Layers(graph, variables), model, model.backbone

    def logits(self, images: str, reverse: bool, inside: str) -> str:
        """Scores of images, float32 [B, C, H, W], normalised -> [B, num_classes, H, W].

        Args:
          images: see above.
          reverse: whether the network takes their channels in the reverse order.
          inside: height and width of their part that is no padding, int64 [2].

        Raises:
          ValueError: if the model has a layer that this exporter lacks.
        """
        layers, size = self._layers, self._layers.size(images)
        if type(self._model.decoder) not in DECODERS:
            raise ValueError(f"the exporter to ONNX lacks the decoder {type(self._model.decoder).__name__}")
        scores = [self._scores(self._features(images, reverse), size, inside)]
        for scale in self._model.fused_scales:
            new = self._scaled(size, scale)
            own = self._divided(layers.graph.add("Mul", inside, new), size)
            scores.append(self._scores(self._features(layers.resized(images, new), reverse), size, own))
        unused = {name for name in layers.unused if not name.split("/")[1].startswith("auxiliary")}  # of training alone
        if unused:
            raise ValueError(f"the exporter to ONNX lacks the layer of {min(unused)}")
        return layers.graph.add("Max", *scores)

    def _scores(self, maps: dict[str, str], size: str, inside: str) -> str:
        """The decoder's, for images of a size; inside is the part of the images that the features are of."""
        stride = self._layers.graph.integers(self._backbone.output_stride)
        decoder = self._model.decoder
        return DECODERS[type(decoder)](self._layers, decoder, Features(maps, size, self._divided(inside, stride)))

    def _scaled(self, size: str, scale: float) -> str:
        """Height and width of smaller or larger images, as `models.Network` takes them."""
        graph = self._layers.graph
        sides = graph.add("Mul", graph.add("Cast", size, to=TensorProto.DOUBLE), graph.constant(np.float64(scale)))
        rounded = graph.add("Cast", graph.add("Round", sides), to=TensorProto.INT64)
        return graph.add("Max", rounded, graph.integers(STRIDE))

    def _divided(self, sides: str, by: str) -> str:
        """Quotients, rounded up, of int64 [2]."""
        graph = self._layers.graph
        return graph.add("Div", graph.add("Sub", graph.add("Add", sides, by), graph.integers(1)), by)

    def _features(self, x: str, reverse: bool) -> dict[str, str]:
        backbone = self._backbone
        x = self._layers.relu(self._normed(x, "1", stride=2, reverse=reverse))
        for name in ("2", "3") if backbone.stem == "deep" else ():
            x = self._layers.relu(self._normed(x, name))
        x = self._layers.graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        features, same = {"stem": x}, backbone.backbone in BASIC and backbone.stem_width in (0, backbone.width)
        for i, (stage, size) in enumerate(zip(STAGES, STAGE_SIZES[backbone.backbone], strict=True)):
            halves, first, dilation = backbone.sampling(i)
            is_global = stage in GLOBAL_CONVS.get(backbone.backbone, {})
            for j in range(size):
                project = j == 0 and not (same and i == 0)  # what has the same size and channels is not projected
                steps = 2 if j == 0 and halves else 1, dilation if j else first
                x = self._block(x, f"{stage}_block{j + 1}", *steps, project, is_global)
            features[stage] = x
        return features

    def _block(self, x: str, block: str, stride: int, dilation: int, project: bool, is_global: bool) -> str:
        layers = self._layers

        def conv(x: str, name: str, stride: int | tuple[int, int] = 1, dilation: int = 1) -> str:
            return self._normed(x, name, f"{block}/", stride, dilation)

        def branch(name: str, first: tuple[int, int], second: tuple[int, int]) -> str:
            return layers.relu(conv(layers.relu(conv(x, f"_{name}1", first)), f"_{name}2", second))

        if is_global:
            rows, columns = (stride, 1), (1, stride)
            y = conv(layers.joined(branch("left", rows, columns), branch("right", columns, rows)), "3")
        elif self._backbone.backbone in BASIC:
            y = conv(layers.relu(conv(x, "1", stride, dilation)), "2", dilation=dilation)
        else:
            first, second = (stride, 1) if self._backbone.strides_in == "v1" else (1, stride)
            y = layers.relu(conv(x, "1", first))
            y = conv(layers.relu(conv(y, "2", second, dilation)), "3")
        return layers.relu(layers.sum(conv(x, "_proj", stride) if project else x, y))

    def _normed(
        self,
        x: str,
        name: str,
        block: str = "",
        stride: int | tuple[int, int] = 1,
        dilation: int = 1,
        reverse: bool = False,
    ) -> str:
        path = f"backbone/{block}"
        return self._layers.normed(x, f"{path}conv{name}", f"{path}norm{name}", stride, dilation, reverse)
