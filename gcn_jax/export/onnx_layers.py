"""Layers of a network as nodes of ONNX: channels first, each norm folded into its convolution."""

from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from gcn_jax.export.onnx_graph import Graph


class Layers:
    """Adds layers to a graph, with a model's weights.

    Maps are float32 [B, C, H, W]; each method returns the name of its result.

    Attributes:
      graph: that the layers are added to.
      unused: the names of the arrays that no layer has taken yet.

    Args:
      graph: see above.
      variables: the weights, ``{"params": ..., "batch_stats": ...}``.
    """

    def __init__(self, graph: Graph, variables: Mapping[str, Any]):
        self.graph = graph
        self._arrays = flax.traverse_util.flatten_dict(dict(variables), sep="/")
        self.unused = set(self._arrays)

    def take(self, name: str) -> np.ndarray:
        """An array of the model, float32.

        Raises:
          ValueError: if the model lacks it.
        """
        if name not in self._arrays:
            raise ValueError(f"the exporter to ONNX expects {name}, which the model lacks")
        self.unused.discard(name)
        return np.asarray(self._arrays[name], np.float32)

    def conv(self, x: str, path: str, dilation: int = 1, use_bias: bool = True, order: Any = slice(None)) -> str:
        """A convolution; order: of its features."""
        kernel = self.take(f"params/{path}/kernel")[..., order]
        bias = self.take(f"params/{path}/bias")[..., order] if use_bias else np.zeros(kernel.shape[-1], np.float32)
        return self._conv(x, kernel, bias, dilation=dilation)

    def normed(
        self, x: str, conv: str, norm: str, stride: int | tuple[int, int] = 1, dilation: int = 1, reverse: bool = False
    ) -> str:
        """A convolution and its norm: the norm scales the kernel, and what it adds is the bias.

        Args:
          x: the map.
          conv: the convolution's name.
          norm: the norm's name.
          stride: of rows and columns, or of both.
          dilation: how far taps are apart.
          reverse: whether the map's channels are in the reverse order.
        """
        kernel = self.take(f"params/{conv}/kernel")
        scale, shift = self.folded(norm)
        return self._conv(x, (kernel[:, :, ::-1] if reverse else kernel) * scale, shift, stride, dilation)

    def normed_relu(self, x: str, path: str, dilation: int = 1) -> str:
        """`models.layers.ConvNormRelu`."""
        return self.relu(self.normed(x, f"{path}/conv", f"{path}/norm", dilation=dilation))

    def folded(self, norm: str) -> tuple[np.ndarray, np.ndarray]:
        """What a norm multiplies each channel by, and what it adds: float32 [C]."""
        scale, bias = (self.take(f"params/{norm}/{part}") for part in ("scale", "bias"))
        mean, variance = (self.take(f"batch_stats/{norm}/{part}") for part in ("mean", "var"))
        scale = scale / np.sqrt(variance + np.float32(1e-5))
        return scale, bias - mean * scale

    def depthwise(self, x: str, path: str) -> str:
        """A convolution of each feature alone: `models.layers.DepthwiseConv`."""
        kernel = self.take(f"params/{path}/kernel")
        return self._conv(x, kernel, self.take(f"params/{path}/bias"), groups=kernel.shape[-1])

    def relu(self, x: str) -> str:
        """No number below 0."""
        return self.graph.add("Relu", x)

    def sum(self, *maps: str) -> str:
        """Of maps of one size."""
        return maps[0] if len(maps) == 1 else self.graph.add("Sum", *maps)

    def joined(self, *maps: str) -> str:
        """The channels of maps one after the other."""
        return self.graph.add("Concat", *maps, axis=1)

    def size(self, x: str) -> str:
        """Height and width of a map, int64 [2]."""
        return self.graph.add("Shape", x, start=2, end=4)

    def resized(self, x: str, size: str) -> str:
        """Bilinear interpolation to a height and width: `models.ops.sampling.resize`."""
        whole = self.graph.add("Concat", self.graph.add("Shape", x, start=0, end=2), size, axis=0)
        return self.graph.add("Resize", x, "", "", whole, mode="linear", coordinate_transformation_mode="half_pixel")

    def first(self, x: str, size: str) -> str:
        """The first rows and columns of a map, int64 [2] of them."""
        return self.graph.add("Slice", x, self.graph.integers(0, 0), size, self.graph.integers(2, 3))

    def padded(self, x: str, size: str, value: float | None = None) -> str:
        """More rows and columns behind a map's last, int64 [2] of them: of one value, or like the last."""
        pads = self.graph.add("Concat", self.graph.integers(*[0] * 6), size, axis=0)
        if value is None:
            return self.graph.add("Pad", x, pads, mode="edge")
        return self.graph.add("Pad", x, pads, self.graph.constant(np.float32(value)))

    def max_around(self, x: str, side: int) -> str:
        """The maximum over side x side pixels around each; side odd."""
        return self.graph.add("MaxPool", x, kernel_shape=[side, side], pads=[side // 2] * 4)

    def _conv(
        self,
        x: str,
        kernel: np.ndarray,
        bias: np.ndarray,
        stride: int | tuple[int, int] = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> str:
        pads = [dilation * (side // 2) for side in kernel.shape[:2]]
        strides = [stride, stride] if isinstance(stride, int) else list(stride)
        weights = self.graph.constant(kernel.transpose(3, 2, 0, 1)), self.graph.constant(bias)
        apart = [dilation] * 2
        return self.graph.add("Conv", x, *weights, strides=strides, pads=pads * 2, dilations=apart, group=groups)
