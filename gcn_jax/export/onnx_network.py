"""The network as a graph of ONNX: channels first, each norm folded into its convolution.

It follows `gcn_jax.models` from its parameters; images have sides that are multiples of 32, so that no map is cut.
"""

from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from gcn_jax import models
from gcn_jax.export.onnx_graph import Graph
from gcn_jax.models.backbones.resnet import BASIC, GLOBAL_CONVS, STAGE_SIZES, STAGES
from gcn_jax.models.decoders.gcn import GCN


class Network:
    """Adds a model's layers to a graph.

    Attributes:
      unused: the names of the arrays that no layer has taken yet.

    Args:
      graph: that the layers are added to.
      model: the network.
      variables: its weights, ``{"params": ..., "batch_stats": ...}``.
    """

    def __init__(self, graph: Graph, model: models.Network, variables: Mapping[str, Any]):
        self._graph, self._backbone, self._decoder = graph, model.backbone, model.decoder
        self._fused_scales = model.fused_scales
        self._arrays = flax.traverse_util.flatten_dict(dict(variables), sep="/")
        self.unused = set(self._arrays)

    def logits(self, x: str, reverse: bool) -> str:
        """Scores of images, float32 [B, C, H, W], normalised -> [B, num_classes, H, W].

        Args:
          x: the images.
          reverse: whether the network takes their channels in the reverse order.

        Raises:
          ValueError: if the model has a layer that this exporter lacks.
        """
        if self._fused_scales:
            raise ValueError("the exporter to ONNX lacks config.model.fused_scales")
        if not isinstance(self._decoder, GCN):
            raise ValueError(f"the exporter to ONNX lacks the decoder {type(self._decoder).__name__}")
        features = self._features(x, reverse)
        scores = ""
        for stage in reversed(STAGES):
            own = self._refined(self._head(features[stage], stage), stage)
            if scores:
                scores = self._graph.add("Add", self._upsampled(scores, stage), own)
                scores = self._refined(scores, f"{stage}_sum")
            else:
                scores = own
        for name in ("half", "full"):
            scores = self._refined(self._upsampled(scores, name), name)
        if self.unused:
            raise ValueError(f"the exporter to ONNX lacks the layer of {min(self.unused)}")
        return scores

    def _features(self, x: str, reverse: bool) -> dict[str, str]:
        backbone, x = self._backbone, self._relu(self._normed(x, "backbone", "1", 2, reverse=reverse))
        for name in ("2", "3") if backbone.stem == "deep" else ():
            x = self._relu(self._normed(x, "backbone", name))
        x = self._graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        features, same = {}, backbone.backbone in BASIC and backbone.stem_width in (0, backbone.width)
        for i, (stage, size) in enumerate(zip(STAGES, STAGE_SIZES[backbone.backbone], strict=True)):
            is_global = stage in GLOBAL_CONVS.get(backbone.backbone, {})
            for j in range(size):
                project = j == 0 and not (same and i == 0)  # what has the same size and channels is not projected
                x = self._block(x, f"backbone/{stage}_block{j + 1}", 2 if j == 0 and i > 0 else 1, project, is_global)
            features[stage] = x
        return features

    def _block(self, x: str, path: str, stride: int, project: bool, is_global: bool) -> str:
        def branch(name: str, first: tuple[int, int], second: tuple[int, int]) -> str:
            y = self._relu(self._normed(x, path, f"_{name}1", first))
            return self._relu(self._normed(y, path, f"_{name}2", second))

        if is_global:
            rows, columns = (stride, 1), (1, stride)
            y = self._graph.add("Concat", branch("left", rows, columns), branch("right", columns, rows), axis=1)
        elif self._backbone.backbone in BASIC:
            y = self._relu(self._normed(x, path, "1", stride))
        else:
            first, second = (stride, 1) if self._backbone.strides_in == "v1" else (1, stride)
            y = self._relu(self._normed(x, path, "1", first))
            y = self._relu(self._normed(y, path, "2", second))
        y = self._normed(y, path, "2" if self._backbone.backbone in BASIC else "3")
        if project:
            x = self._normed(x, path, "_proj", stride)
        return self._relu(self._graph.add("Add", x, y))

    def _head(self, x: str, stage: str) -> str:
        model, path = self._decoder, f"params/{self._decoder.head}_{stage}"
        match model.head:
            case "conv1x1" | "conv":
                return self._biased(x, path)
            case "stack3x3":
                for i in range(1, model.kernel_size // 2 + 1):
                    x = self._biased(x, f"{path}/conv{i}")
                return x
            case "gcn":
                left = self._biased(self._biased(x, f"{path}/left_column"), f"{path}/left_row")
                right = self._biased(self._biased(x, f"{path}/right_row"), f"{path}/right_column")
                if model.branches == "sum":
                    return self._graph.add("Add", left, right)
                return self._biased(self._graph.add("Concat", left, right, axis=1), f"{path}/projection")
        raise ValueError(f"the exporter to ONNX lacks config.model.head={model.head!r}")

    def _refined(self, x: str, name: str) -> str:
        if not self._decoder.boundary_refine:
            return x
        path = f"params/refine_{name}"
        y = self._biased(self._relu(self._biased(x, f"{path}/conv1")), f"{path}/conv2")
        return self._graph.add("Add", x, y)

    def _upsampled(self, x: str, name: str) -> str:
        kernel = self._take(f"params/up_{name}/kernel").transpose(2, 3, 0, 1)
        return self._graph.add("ConvTranspose", x, self._graph.constant(kernel), strides=[2, 2], pads=[1] * 4)

    def _biased(self, x: str, path: str) -> str:
        return self._conv(x, self._take(f"{path}/kernel"), self._take(f"{path}/bias"))

    def _normed(self, x: str, path: str, name: str, stride: int | tuple[int, int] = 1, reverse: bool = False) -> str:
        """A convolution and its norm: the norm scales the kernel, and what it adds is the bias."""
        kernel = self._take(f"params/{path}/conv{name}/kernel")
        if reverse:
            kernel = kernel[:, :, ::-1]
        scale, bias = (self._take(f"params/{path}/norm{name}/{part}") for part in ("scale", "bias"))
        mean, variance = (self._take(f"batch_stats/{path}/norm{name}/{part}") for part in ("mean", "var"))
        scale = scale / np.sqrt(variance + np.float32(1e-5))
        return self._conv(x, kernel * scale, bias - mean * scale, stride)

    def _conv(self, x: str, kernel: np.ndarray, bias: np.ndarray, stride: int | tuple[int, int] = 1) -> str:
        rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
        strides = [stride, stride] if isinstance(stride, int) else list(stride)
        weights = self._graph.constant(kernel.transpose(3, 2, 0, 1)), self._graph.constant(bias)
        return self._graph.add("Conv", x, *weights, strides=strides, pads=[rows, columns, rows, columns])

    def _relu(self, x: str) -> str:
        return self._graph.add("Relu", x)

    def _take(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise ValueError(f"the exporter to ONNX expects {name}, which the model lacks")
        self.unused.discard(name)
        return np.asarray(self._arrays[name], np.float32)
