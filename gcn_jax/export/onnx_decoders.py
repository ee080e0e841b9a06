"""The decoders of `gcn_jax.models` as nodes of ONNX: a function each, from features to scores."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from gcn_jax.export.onnx_layers import Layers
from gcn_jax.models import heads
from gcn_jax.models.backbones.resnet import STAGES
from gcn_jax.models.decoders import deeplab, dilated, fcn, gcn, lrr, parsenet, pspnet, refinenet, segnet, zoomout

END = np.iinfo(np.int64).max  # of a map, wherever that is


class Features(NamedTuple):
    """What a decoder makes scores of.

    Attributes:
      maps: of the stem and of each stage.
      size: height and width of the images, int64 [2].
      inside: those of res-5's part that is no padding, int64 [2].
    """

    maps: Mapping[str, str]
    size: str
    inside: str


def _gcn(layers: Layers, model: Any, features: Features) -> str:
    def refined(x: str, name: str) -> str:
        path = f"refine_{name}"
        if not model.boundary_refine:
            return x
        return layers.sum(x, layers.conv(layers.relu(layers.conv(x, f"{path}/conv1")), f"{path}/conv2"))

    def upsampled(x: str, name: str) -> str:
        kernel = layers.graph.constant(layers.take(f"params/up_{name}/kernel").transpose(2, 3, 0, 1))
        return layers.graph.add("ConvTranspose", x, kernel, strides=[2, 2], pads=[1] * 4)

    scores = ""
    for stage in reversed(STAGES):
        own = refined(_head(layers, model, features.maps[stage], f"{model.head}_{stage}"), stage)
        scores = refined(layers.sum(upsampled(scores, stage), own), f"{stage}_sum") if scores else own
    for name in ("half", "full"):
        scores = refined(upsampled(scores, name), name)
    return scores


def _head(layers: Layers, model: Any, x: str, path: str) -> str:
    def conv(x: str, name: str) -> str:
        return layers.conv(x, f"{path}/{name}")

    match model.head:
        case "conv1x1" | "conv":
            return layers.conv(x, path)
        case "stack3x3":
            for i in range(1, model.kernel_size // 2 + 1):
                x = conv(x, f"conv{i}")
            return x
        case "gcn":
            left, right = conv(conv(x, "left_column"), "left_row"), conv(conv(x, "right_row"), "right_column")
            return (
                layers.sum(left, right) if model.branches == "sum" else conv(layers.joined(left, right), "projection")
            )
        case "strips":
            x = conv(x, "reduce")
            return layers.sum(*(conv(x, name) for name in ("column", "row", "square")))
        case "strip_attention":
            near = layers.depthwise(x, f"{path}/square")
            strips = [
                layers.depthwise(layers.depthwise(near, f"{path}/row{k}"), f"{path}/column{k}") for k in heads.STRIPS
            ]
            return conv(layers.graph.add("Mul", conv(layers.sum(near, *strips), "mix"), x), "score")
    raise AssertionError(model.head)


def _fcn(layers: Layers, model: Any, features: Features) -> str:
    scores = ""
    for stage in model.stages:
        own = layers.conv(features.maps[stage], f"score_{stage}")
        scores = layers.sum(layers.resized(scores, layers.size(own)), own) if scores else own
    return layers.resized(scores, features.size)


def _fcn_head(layers: Layers, model: Any, features: Features) -> str:
    x = layers.normed_relu(features.maps[model.stage], "reduce")
    return layers.resized(layers.conv(x, "score"), features.size)


def _segnet(layers: Layers, model: Any, features: Features) -> str:
    x = features.maps["res5"]
    for stage, widths in segnet.WIDTHS.items():
        for i in range(1, len(widths) + 1):
            x = layers.normed_relu(x, f"{stage}_conv{i}")
        x = _unpooled(layers, x, _max_of_neighbours(layers, features.maps[stage], 4))
    for i in range(1, 3 if model.deconvnet else 2):
        x = layers.normed_relu(x, f"last_conv{i}")
    return layers.resized(layers.conv(x, "score"), features.size)


def _max_of_neighbours(layers: Layers, x: str, count: int) -> str:
    """The maximum of each `count` channels, one after the other."""
    graph = layers.graph
    ends = [graph.integers(value) for value in (END, 1, count)]
    return graph.add("Max", *(graph.add("Slice", x, graph.integers(i), *ends) for i in range(count)))


def _unpooled(layers: Layers, x: str, like: str) -> str:
    """`models.ops.sampling.unpool`."""
    graph, size = layers.graph, layers.size(like)
    beyond = graph.add("Sub", graph.add("Mul", layers.size(x), graph.integers(2)), size)
    like = layers.padded(like, beyond, value=-np.inf)
    rest = graph.integers(END, END), graph.integers(2, 3), graph.integers(2, 2)
    four = [graph.add("Slice", like, graph.integers(*divmod(i, 2)), *rest) for i in range(4)]
    largest, zero, placed, taken = graph.add("Max", *four), graph.constant(np.float32(0)), [], ""
    for place in four:
        is_largest = graph.add("Equal", place, largest)
        is_chosen = graph.add("And", is_largest, graph.add("Not", taken)) if taken else is_largest
        taken = graph.add("Or", taken, is_largest) if taken else is_largest
        placed.append(graph.add("Where", is_chosen, x, zero))
    return layers.first(graph.add("DepthToSpace", layers.joined(*placed), blocksize=2), size)


def _lrr(layers: Layers, model: Any, features: Features) -> str:
    graph, classes = layers.graph, model.num_classes
    patterns = layers.take("batch_stats/patterns/patterns")  # [8, 8, count, classes]
    count = patterns.shape[2]
    kernel = graph.constant(patterns.transpose(3, 2, 0, 1).reshape(count * classes, 1, 8, 8))
    of_class = np.arange(count * classes).reshape(count, classes).T.reshape(-1)  # a group for each class
    scores = ""
    for stage in lrr.STRIDES:
        coefficients = layers.conv(features.maps[stage], f"score_{stage}", order=of_class)
        own = graph.add("ConvTranspose", coefficients, kernel, strides=[4, 4], pads=[2] * 4, group=classes)
        if scores:
            scores = layers.resized(scores, layers.size(own))
            probabilities = graph.add("Softmax", scores, axis=1)
            ends = [layers.max_around(x, lrr.MASK) for x in (probabilities, graph.add("Neg", probabilities))]
            own = layers.sum(scores, graph.add("Mul", layers.sum(*ends), own))
        scores = own
    return scores


def _dilated(layers: Layers, model: Any, features: Features) -> str:
    x = layers.conv(features.maps["res5"], "front")
    for i, dilation in enumerate(dilated.DILATIONS, 1):
        x = layers.relu(layers.conv(x, f"score_context/conv{i}", dilation))
    return layers.resized(layers.conv(x, "score_context/score"), features.size)


def _aspp(layers: Layers, model: Any, features: Features) -> str:
    scores = [layers.conv(features.maps["res5"], f"score_{rate}", rate) for rate in model.rates]
    return layers.resized(layers.sum(*scores), features.size)


def _parsenet(layers: Layers, model: Any, features: Features) -> str:
    graph, x = layers.graph, features.maps["res5"]

    def scaled(x: str, path: str) -> str:
        squares = graph.add("ReduceSumSquare", x, axes=[1])
        length = graph.add("Sqrt", graph.add("Add", squares, graph.constant(np.float32(1e-10))))
        scale = graph.constant(layers.take(f"params/{path}/scale").reshape(1, -1, 1, 1))
        return graph.add("Mul", graph.add("Div", x, length), scale)

    whole = graph.add("Expand", scaled(_mean(layers, x, features.inside), "scale_whole"), graph.add("Shape", x))
    return layers.resized(layers.conv(layers.joined(scaled(x, "scale_local"), whole), "score"), features.size)


def _mean(layers: Layers, x: str, size: str) -> str:
    return layers.graph.add("ReduceMean", layers.first(x, size), axes=[2, 3])


def _zoomout(layers: Layers, model: Any, features: Features) -> str:
    graph = layers.graph
    whole = graph.add("ReduceMax", layers.first(features.maps["res5"], features.inside), axes=[2, 3])
    grid, hidden = layers.size(features.maps["stem"]), []
    for level in zoomout.LEVELS:
        scale, shift = (graph.constant(values.reshape(1, -1, 1, 1)) for values in layers.folded(f"norm_{level}"))
        x = whole if level == "whole" else features.maps[level]
        x = graph.add("Add", graph.add("Mul", x, scale), shift)
        hidden.append(layers.resized(layers.conv(x, f"hidden1_{level}", use_bias=level == zoomout.LEVELS[0]), grid))
    x = layers.relu(layers.conv(layers.relu(layers.sum(*hidden)), "hidden2"))
    return layers.resized(layers.conv(x, "score"), features.size)


def _pspnet(layers: Layers, model: Any, features: Features) -> str:
    graph, x = layers.graph, features.maps["res5"]
    beyond = graph.add("Sub", layers.size(x), features.inside)
    levels = [x]
    for bins in pspnet.BINS:
        level = layers.normed_relu(_pooled(layers, layers.first(x, features.inside), bins), f"level{bins}")
        levels.append(layers.padded(layers.resized(level, features.inside), beyond))
    return layers.resized(layers.conv(layers.normed_relu(layers.joined(*levels), "join"), "score"), features.size)


def _pooled(layers: Layers, x: str, bins: int) -> str:
    """`models.ops.sampling.pool_to_bins`: products with a matrix of the rows and one of the columns."""
    graph = layers.graph

    def matrix(axis: int) -> str:
        """[bins, length]: in each row the same weight for all pixels of a part."""
        length, number = graph.add("Shape", x, start=axis, end=axis + 1), graph.integers(bins)
        i = np.arange(bins)[:, None]
        begin = graph.add("Div", graph.add("Mul", graph.constant(i), length), number)
        above = graph.add("Add", graph.add("Mul", graph.constant(i + 1), length), graph.integers(bins - 1))
        stop = graph.add("Div", above, number)
        places = graph.add(
            "Range", *(graph.add("Squeeze", end) for end in (graph.integers(0), length, graph.integers(1)))
        )
        is_in = graph.add("And", graph.add("GreaterOrEqual", places, begin), graph.add("Less", places, stop))
        is_in, count = (graph.add("Cast", value, to=1) for value in (is_in, graph.add("Sub", stop, begin)))
        return graph.add("Div", is_in, count)

    rows = graph.add("MatMul", matrix(2), x)
    return graph.add("MatMul", rows, graph.add("Transpose", matrix(3), perm=[1, 0]))


def _refinenet(layers: Layers, model: Any, features: Features) -> str:
    def conv(x: str, name: str, use_bias: bool = False) -> str:
        return layers.conv(x, name, use_bias=use_bias)

    def residual_units(x: str, count: int, name: str) -> str:
        for i in range(1, count + 1):
            y = conv(layers.relu(x), f"{name}{i}_conv1", use_bias=True)
            x = layers.sum(x, conv(layers.relu(y), f"{name}{i}_conv2"))
        return x

    refined = ""
    for stage in reversed(STAGES):
        x = residual_units(conv(features.maps[stage], f"adapt_{stage}"), 2, f"unit_{stage}_")
        if refined:
            fine = conv(x, f"fuse_{stage}_fine")
            x = layers.sum(layers.resized(conv(refined, f"fuse_{stage}_coarse"), layers.size(fine)), fine)
        x = link = layers.relu(x)
        for i in range(1, refinenet.LINKS + 1):
            link = conv(layers.max_around(link, 5), f"pool_{stage}_{i}")
            x = layers.sum(x, link)
        refined = residual_units(x, refinenet.OUTPUT_UNITS, f"output_{stage}_")
    return layers.resized(conv(refined, "score", use_bias=True), features.size)


def _deeplabv3plus(layers: Layers, model: Any, features: Features) -> str:
    x, fine = features.maps["res5"], layers.normed_relu(features.maps["res2"], "reduce_res2")
    levels = [layers.normed_relu(x, "level1")]
    levels += [layers.normed_relu(x, f"level{rate}", rate * 16 // model.output_stride) for rate in deeplab.RATES]
    mean = layers.normed_relu(_mean(layers, x, features.inside), "mean")
    x = layers.normed_relu(layers.joined(*levels, layers.resized(mean, layers.size(x))), "join")
    x = layers.joined(fine, layers.resized(x, layers.size(fine)))
    for name in ("refine1", "refine2"):
        x = layers.normed_relu(x, name)
    return layers.resized(layers.conv(x, "score"), features.size)


Decoder = Callable[[Layers, Any, Features], str]
DECODERS: Mapping[type, Decoder] = MappingProxyType(
    {
        gcn.GCN: _gcn,
        fcn.FCN: _fcn,
        fcn.FCNHead: _fcn_head,
        segnet.SegNet: _segnet,
        lrr.LRR: _lrr,
        dilated.DilatedNet: _dilated,
        deeplab.ASPP: _aspp,
        parsenet.ParseNet: _parsenet,
        zoomout.Zoomout: _zoomout,
        pspnet.PSPNet: _pspnet,
        refinenet.RefineNet: _refinenet,
        deeplab.DeepLabV3Plus: _deeplabv3plus,
    }
)
