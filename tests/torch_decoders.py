"""The decoders of related work in plain PyTorch, written from their papers; modules are named as ours are."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own convention)


def up(x, size):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def conv(cin, cout, k=1, dilation=1, bias=True):
    return nn.Conv2d(cin, cout, k, padding=dilation * (k // 2), dilation=dilation, bias=bias)


class Layer(nn.Module):
    def __init__(self, cin, cout, k=1, dilation=1):
        super().__init__()
        self.conv, self.norm = conv(cin, cout, k, dilation, bias=False), nn.BatchNorm2d(cout)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class FCN(nn.Module):
    def __init__(self, classes, channels, stages):
        super().__init__()
        self.stages = stages
        for stage in stages:
            setattr(self, f"score_{stage}", conv(channels[stage], classes))

    def forward(self, features, size):
        scores = 0
        for i, stage in enumerate(self.stages):
            own = getattr(self, f"score_{stage}")(features[stage])
            scores = own if i == 0 else up(scores, own.shape[2:]) + own
        return up(scores, size)


class FCNHead(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        c = channels["res5"]
        self.reduce, self.score = Layer(c, c // 4, 3), conv(c // 4, classes)

    def forward(self, features, size):
        return up(self.score(self.reduce(features["res5"])), size)


class PSPNet(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        c = channels["res5"]
        for n in (1, 2, 3, 6):
            setattr(self, f"level{n}", Layer(c, c // 4))
        self.join, self.score = Layer(2 * c, c // 4, 3), conv(c // 4, classes)

    def forward(self, features, size):
        x = features["res5"]
        levels = [getattr(self, f"level{n}")(nn.AdaptiveAvgPool2d(n)(x)) for n in (1, 2, 3, 6)]
        x = torch.cat([x, *(up(level, x.shape[2:]) for level in levels)], dim=1)
        return up(self.score(self.join(x)), size)


class DeepLabV3Plus(nn.Module):
    def __init__(self, classes, channels, factor=1):
        super().__init__()
        c, low = channels["res5"], channels["res2"]
        w = c // 8
        self.level1, self.mean = Layer(c, w), Layer(c, w)
        for rate in (6, 12, 18):
            setattr(self, f"level{rate}", Layer(c, w, 3, rate * factor))
        self.join, self.reduce_res2 = Layer(5 * w, w), Layer(low, 3 * w // 16)
        self.refine1, self.refine2 = Layer(w + 3 * w // 16, w, 3), Layer(w, w, 3)
        self.score = conv(w, classes)

    def forward(self, features, size):
        x, low = features["res5"], self.reduce_res2(features["res2"])
        levels = [getattr(self, f"level{rate}")(x) for rate in (1, 6, 12, 18)]
        mean = self.mean(x.mean((2, 3), keepdim=True)).expand_as(levels[0])
        x = self.join(torch.cat([*levels, mean], dim=1))
        x = torch.cat([low, up(x, low.shape[2:])], dim=1)
        return up(self.score(self.refine2(self.refine1(x))), size)


class ASPP(nn.Module):
    def __init__(self, classes, channels, rates):
        super().__init__()
        self.rates = rates
        for rate in rates:
            setattr(self, f"score_{rate}", conv(channels["res5"], classes, 3, rate))

    def forward(self, features, size):
        return up(sum(getattr(self, f"score_{rate}")(features["res5"]) for rate in self.rates), size)


class Context(nn.Module):
    def __init__(self, classes, widths):
        super().__init__()
        pairs = zip([1, *widths[:-1]], widths, (1, 1, 2, 4, 8, 16, 1), strict=True)
        for i, (cin, cout, dilation) in enumerate(pairs, 1):
            setattr(self, f"conv{i}", conv(cin * classes, cout * classes, 3, dilation))
        self.score = conv(widths[-1] * classes, classes)

    def forward(self, x):
        for i in range(1, 8):
            x = F.relu(getattr(self, f"conv{i}")(x))
        return self.score(x)


class Dilated(nn.Module):
    def __init__(self, classes, channels, widths):
        super().__init__()
        self.front, self.score_context = conv(channels["res5"], classes), Context(classes, widths)

    def forward(self, features, size):
        return up(self.score_context(self.front(features["res5"])), size)


class Scale(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c))

    def forward(self, x):
        return F.normalize(x, dim=1) * self.weight[:, None, None]


class ParseNet(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        c = channels["res5"]
        self.scale_local, self.scale_whole, self.score = Scale(c), Scale(c), conv(2 * c, classes)

    def forward(self, features, size):
        x = features["res5"]
        whole = self.scale_whole(F.adaptive_avg_pool2d(x, 1)).expand_as(x)
        return up(self.score(torch.cat([self.scale_local(x), whole], dim=1)), size)


class RefineNet(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        for stage, c in channels.items():
            if stage == "stem":
                continue
            w = channels["res5"] // (4 if stage == "res5" else 8)
            self.add(f"adapt_{stage}", c, w)
            for name, count in (("unit", 2), ("output", 3)):
                for i in range(1, count + 1):
                    self.add(f"{name}_{stage}_{i}_conv1", w, w, True)
                    self.add(f"{name}_{stage}_{i}_conv2", w, w)
            for i in range(1, 5):
                self.add(f"pool_{stage}_{i}", w, w)
            if stage != "res5":
                self.add(f"fuse_{stage}_coarse", 2 * w if stage == "res4" else w, w)
                self.add(f"fuse_{stage}_fine", w, w)
        self.score = conv(channels["res5"] // 8, classes, 3)

    def add(self, name, cin, cout, bias=False):
        setattr(self, name, conv(cin, cout, 3, bias=bias))

    def units(self, x, name, count):
        for i in range(1, count + 1):
            first, second = (getattr(self, f"{name}_{i}_conv{j}") for j in (1, 2))
            x = x + second(F.relu(first(F.relu(x))))
        return x

    def forward(self, features, size):
        coarse = None
        for stage in ("res5", "res4", "res3", "res2"):
            x = self.units(getattr(self, f"adapt_{stage}")(features[stage]), f"unit_{stage}", 2)
            if coarse is not None:
                fine = getattr(self, f"fuse_{stage}_fine")(x)
                x = up(getattr(self, f"fuse_{stage}_coarse")(coarse), fine.shape[2:]) + fine
            total = link = F.relu(x)
            for i in range(1, 5):
                link = getattr(self, f"pool_{stage}_{i}")(F.max_pool2d(link, 5, 1, 2))
                total = total + link
            coarse = self.units(total, f"output_{stage}", 3)
        return up(self.score(coarse), size)


class Zoomout(nn.Module):
    """As the release has it: all features enlarged and joined, one layer on them."""

    def __init__(self, classes, channels):
        super().__init__()
        c = channels["res5"]
        self.channels = {**channels, "whole": c}
        for level, width in self.channels.items():
            setattr(self, f"norm_{level}", nn.BatchNorm2d(width))
            setattr(self, f"hidden1_{level}", conv(width, c // 2, bias=level == "stem"))
        self.hidden2, self.score = conv(c // 2, c // 2), conv(c // 2, classes)

    def forward(self, features, size):
        grid = features["stem"].shape[2:]
        features = {**features, "whole": features["res5"].amax((2, 3), keepdim=True)}
        joined = [up(getattr(self, f"norm_{level}")(features[level]), grid) for level in self.channels]
        weight = torch.cat([getattr(self, f"hidden1_{level}").weight for level in self.channels], dim=1)
        x = F.relu(F.conv2d(torch.cat(joined, dim=1), weight, self.hidden1_stem.bias))
        return up(self.score(F.relu(self.hidden2(x))), size)


class SegNet(nn.Module):
    """By PyTorch's own pooling with indices and unpooling; odd sides are filled with minus infinity."""

    def __init__(self, classes, channels, last=1, taps=3):
        super().__init__()
        c = cin = channels["res5"]
        self.last = last
        for stage, parts in (("res4", (4, 4, 8)), ("res3", (8, 8, 16)), ("res2", (16, 16, 32))):
            for i, part in enumerate(parts, 1):
                setattr(self, f"{stage}_conv{i}", Layer(cin, c // part, 3))
                cin = c // part
        for i in range(1, last + 1):
            setattr(self, f"last_conv{i}", Layer(cin, cin, 3))
        self.score = conv(cin, classes, taps)

    def forward(self, features, size):
        x = features["res5"]
        for stage in ("res4", "res3", "res2"):
            for i in (1, 2, 3):
                x = getattr(self, f"{stage}_conv{i}")(x)
            like = features[stage].detach()
            height, width = like.shape[2:]
            like = like.reshape(len(like), x.shape[1], -1, height, width).amax(2)
            like = F.pad(like, (0, width % 2, 0, height % 2), value=float("-inf"))
            _, indices = F.max_pool2d(like, 2, return_indices=True)
            x = F.max_unpool2d(x, indices, 2)[..., :height, :width]
        for i in range(1, self.last + 1):
            x = getattr(self, f"last_conv{i}")(x)
        return up(self.score(x), size)


class LRR(nn.Module):
    strides = (("res5", 8), ("res4", 4), ("res3", 2), ("res2", 1))

    def __init__(self, classes, channels):
        super().__init__()
        for stage, _ in self.strides:
            setattr(self, f"score_{stage}", conv(channels[stage], 10 * classes, 5))
        for kind in ("dilated", "eroded"):
            setattr(self, f"auxiliary_{kind}", conv(channels["res5"], 10 * classes, 5))
        self.patterns = nn.Module()
        self.patterns.register_buffer("patterns", torch.zeros(classes, 10, 8, 8))

    def scores(self, name, x, size, stride):
        filters = self.patterns.patterns
        x = getattr(self, name)(x).unflatten(1, (10, len(filters))).transpose(1, 2).flatten(1, 2)
        x = F.conv_transpose2d(x, filters.flatten(0, 1)[:, None], stride=4, padding=2, groups=len(filters))
        return x[..., : -(-size[0] // stride), : -(-size[1] // stride)]

    def forward(self, features, size):
        x, levels = None, []
        for stage, stride in self.strides:
            own = self.scores(f"score_{stage}", features[stage], size, stride)
            if x is not None:
                x = up(x, own.shape[2:])
                p = x.softmax(1)
                own = x + (F.max_pool2d(p, 9, 1, 4) + F.max_pool2d(-p, 9, 1, 4)) * own
            x = own
            levels.append(x)
        regions = [self.scores(f"auxiliary_{kind}", features["res5"], size, 8) for kind in ("dilated", "eroded")]
        self.others = (*levels[:3], *regions)
        return x


def make(name, classes, channels, *others):
    """The decoder of this name for features of so many channels: "stem", "res2", ..., "res5"; others of its options."""
    stages = ("res5", "res4", "res3")
    kinds = {
        "fcn32s": (FCN, stages[:1]),
        "fcn16s": (FCN, stages[:2]),
        "fcn8s": (FCN, stages),
        "fcn": (FCNHead,),
        "segnet": (SegNet,),
        "deconvnet": (SegNet, 2, 1),
        "dilated": (Dilated, (1,) * 7),
        "dilated_large": (Dilated, (2, 2, 4, 8, 16, 32, 32)),
        "aspp": (ASPP, (6, 12, 18, 24)),
        "aspp_s": (ASPP, (2, 4, 8, 12)),
        "parsenet": (ParseNet,),
        "zoomout": (Zoomout,),
        "lrr": (LRR,),
        "pspnet": (PSPNet,),
        "refinenet": (RefineNet,),
        "deeplabv3plus": (DeepLabV3Plus,),
    }
    kind, *options = kinds[name]
    return kind(classes, channels, *options, *others)
