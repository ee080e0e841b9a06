"""An independent PyTorch version of the paper's network, with torchvision's ResNet names, to compare with."""

import flax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own convention)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inplanes, planes, stride, v1, dilation=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, stride if v1 else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1 if v1 else stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if stride != 1 or inplanes != 4 * planes:
            conv = nn.Conv2d(inplanes, 4 * planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(4 * planes))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inplanes, planes, stride, v1, dilation=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            conv = nn.Conv2d(inplanes, planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(planes))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Dilated where `output_stride` is less than 32, as torchvision's `replace_stride_with_dilation` does it."""

    def __init__(self, layers, width, v1=False, block=Bottleneck, output_stride=32):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inplanes, dilation, stride = width, 1, 4
        for i, n in enumerate(layers):
            planes = width * 2**i
            blocks, first, step = [], dilation, 1
            if i > 0 and stride < output_stride:
                stride, step = 2 * stride, 2
            elif i > 0:
                dilation *= 2
            for j in range(n):
                blocks.append(block(inplanes, planes, step if j == 0 else 1, v1, first if j == 0 else dilation))
                inplanes = block.expansion * planes
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        features = []
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
            features.append(x)
        return features


class GlobalConv(nn.Module):
    def __init__(self, cin, cout, k):
        super().__init__()
        p = k // 2
        self.l1, self.l2 = nn.Conv2d(cin, cout, (k, 1), padding=(p, 0)), nn.Conv2d(cout, cout, (1, k), padding=(0, p))
        self.r1, self.r2 = nn.Conv2d(cin, cout, (1, k), padding=(0, p)), nn.Conv2d(cout, cout, (k, 1), padding=(p, 0))

    def forward(self, x):
        return self.l2(self.l1(x)) + self.r2(self.r1(x))


class Refine(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return x + self.c2(F.relu(self.c1(x)))


class Twin(nn.Module):
    """Frozen batch norm: the statistics are fixed, scale and bias are learnt."""

    def __init__(self, num_classes, layers, width, k, v1=False):
        super().__init__()
        self.resnet = ResNet(layers, width, v1)
        self.gcn = nn.ModuleList([GlobalConv(4 * width * 2**i, num_classes, k) for i in range(4)])
        self.br = nn.ModuleList([Refine(num_classes) for _ in range(9)])
        c = num_classes
        self.up = nn.ModuleList([nn.ConvTranspose2d(c, c, 4, 2, 1, bias=False) for _ in range(5)])

    def forward(self, x):
        c2, c3, c4, c5 = (self.br[i](self.gcn[i](f)) for i, f in enumerate(self.resnet(x)))

        def up(i, s, like):
            return self.up[i](s)[..., : like[0], : like[1]]

        s = self.br[4](up(0, c5, c4.shape[2:]) + c4)
        s = self.br[5](up(1, s, c3.shape[2:]) + c3)
        s = self.br[6](up(2, s, c2.shape[2:]) + c2)
        h, w = x.shape[2:]
        s = self.br[7](up(3, s, ((h + 1) // 2, (w + 1) // 2)))
        return self.br[8](up(4, s, (h, w)))


def key_map(stage_sizes):
    """The twin's name for each of our parameters and statistics, by our flat name."""
    names = {}

    def norm(ours, theirs):
        pairs = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        names.update({f"{ours}/{a}": f"{theirs}.{b}" for a, b in pairs.items()})

    def conv(ours, theirs, bias=True):
        names[f"{ours}/kernel"] = f"{theirs}.weight"
        if bias:
            names[f"{ours}/bias"] = f"{theirs}.bias"

    conv("backbone/conv1", "resnet.conv1", False)
    norm("backbone/norm1", "resnet.bn1")
    for i, n in enumerate(stage_sizes):
        for j in range(n):
            ours, theirs = f"backbone/res{i + 2}_block{j + 1}", f"resnet.layer{i + 1}.{j}"
            for c in (1, 2, 3):
                conv(f"{ours}/conv{c}", f"{theirs}.conv{c}", False)
                norm(f"{ours}/norm{c}", f"{theirs}.bn{c}")
            if j == 0:
                conv(f"{ours}/conv_proj", f"{theirs}.downsample.0", False)
                norm(f"{ours}/norm_proj", f"{theirs}.downsample.1")
    for i in range(4):
        for ours, theirs in (("left_column", "l1"), ("left_row", "l2"), ("right_row", "r1"), ("right_column", "r2")):
            conv(f"gcn_res{i + 2}/{ours}", f"gcn.{i}.{theirs}")
    refines = ["res2", "res3", "res4", "res5", "res4_sum", "res3_sum", "res2_sum", "half", "full"]
    for i, ours in enumerate(refines):
        conv(f"refine_{ours}/conv1", f"br.{i}.c1")
        conv(f"refine_{ours}/conv2", f"br.{i}.c2")
    for i, ours in enumerate(["res4", "res3", "res2", "half", "full"]):
        conv(f"up_{ours}", f"up.{i}", False)
    return names


def to_torch(name, value):
    """An array in PyTorch's layout: our HWIO becomes OIHW, or IOHW for a transposed convolution."""
    value = np.asarray(value)
    if value.ndim == 4:
        value = value.transpose((2, 3, 0, 1) if name.startswith("up_") else (3, 2, 0, 1))
    return torch.from_numpy(np.array(value))


def flatten(variables):
    """All variables of ``{"params": ..., "batch_stats": ...}`` in one flat dictionary."""
    return {
        name: value
        for collection in ("params", "batch_stats")
        for name, value in flax.traverse_util.flatten_dict(variables[collection], sep="/").items()
    }


def load(twin, variables, stage_sizes):
    """Copies our variables into the twin and returns the map of names; both must have the same tensors."""
    names, flat = key_map(stage_sizes), flatten(variables)
    assert set(names) == set(flat), set(names) ^ set(flat)
    state = {names[name]: to_torch(name, value) for name, value in flat.items()}
    result = twin.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in result.missing_keys), result.missing_keys
    return names
