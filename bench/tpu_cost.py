"""Compares what a TPU's compiler says about parts of the network with XLA's own convolutions and with ours.

    python -m bench.tpu_cost [--topology=v5e:2x2] [--batch=1]

It needs the extra `plan`, but no TPU. Each part is compiled in bfloat16, forward and backward, for one device. Cycles
are the sum of the compiler's estimates, megabytes are its "bytes accessed". `run.py --mode=plan` gives the same numbers
for a whole training step.
"""

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from gcn_jax.errors import UserError
from gcn_jax.models.decoders.gcn import BoundaryRefine
from gcn_jax.models.heads import GlobalConv
from gcn_jax.models.layers import Conv, ConvTranspose
from gcn_jax.models.ops import xla
from gcn_jax.models.ops.convolution import max_pool
from gcn_jax.planning.compiled_step import compiler_report
from gcn_jax.planning.topologies import devices_of
from gcn_jax.training.loss import cross_entropy

_CLASSES = 21
_FORMS = {"XLA's own": "gpu", "ours": "tpu"}  # the platform whose form of the network is compiled for the TPU


class Stem(nn.Module):
    """The network's first convolution, to 64 channels, with ReLU and pooling."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(nn.relu(Conv(64, (7, 7), 2, dtype=jnp.bfloat16)(x)))


class ThreeConvs(nn.Module):
    """Three 3x3 convolutions with ReLUs, all with as many channels as the input."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(3):
            x = xla.relu_once(Conv(x.shape[3], (3, 3), dtype=jnp.bfloat16)(x))
        return x


class FullSize(nn.Module):
    """The end of the decoder, with deconvolution to the image's size and boundary refinement, and the loss."""

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array) -> jax.Array:
        scores = BoundaryRefine(jnp.bfloat16)(ConvTranspose(jnp.bfloat16)(x))
        return cross_entropy(scores.astype(jnp.float32), label)


class Part(NamedTuple):
    """A module, and the shapes of its inputs for one image: of the features, and of the label if it gets one."""

    module: nn.Module
    shape: tuple[int, int, int]
    label_shape: tuple[int, ...] = ()


PARTS = {
    "stem and pooling": Part(Stem(), (512, 512, 3)),
    "three 3x3 of res-2": Part(ThreeConvs(), (128, 128, 64)),
    "three 3x3 of res-3": Part(ThreeConvs(), (64, 64, 128)),
    "three 3x3 of res-4": Part(ThreeConvs(), (32, 32, 256)),
    "three 3x3 of res-5": Part(ThreeConvs(), (16, 16, 512)),
    "GCN of res-2, k = 15": Part(GlobalConv(_CLASSES, 15, dtype=jnp.bfloat16), (128, 128, 256)),
    "GCN of res-5, k = 15": Part(GlobalConv(_CLASSES, 15, dtype=jnp.bfloat16), (16, 16, 2048)),
    "the decoder's end, loss": Part(FullSize(), (256, 256, _CLASSES), (512, 512)),
}


def compiled_figures(part: Part, batch: int, device: jax.Device, platform: str) -> dict[str, Any]:
    """What the compiler says about a part and its gradients, as in `compiled_step.compiler_report`."""
    apply: Callable[..., Any] = part.module.apply
    x = jax.ShapeDtypeStruct((batch, *part.shape), jnp.bfloat16)
    rest = [jax.ShapeDtypeStruct((batch, *part.label_shape), jnp.uint8)] if part.label_shape else []

    def with_gradients(x: jax.Array, rest: Any, weights: Any, dy: jax.Array) -> Any:
        y, pullback = jax.vjp(lambda weights, x: apply(weights, x, *rest), weights, x)
        return y, pullback(dy)

    with xla.platform(platform):
        weights = jax.eval_shape(part.module.init, jax.random.key(0), x, *rest)
        args = x, rest, weights, jax.eval_shape(apply, weights, x, *rest)
        sharding = SingleDeviceSharding(device)
        args = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), args)
        return compiler_report(jax.jit(with_gradients).lower(*args).compile(), "tpu")


def main() -> None:
    """Compiles all parts and prints what the compiler says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2", help="names the kind of device")
    parser.add_argument("--batch", type=int, default=1, help="images on the device")
    args = parser.parse_args()
    try:
        device = devices_of(args.topology)[0]
    except UserError as error:
        sys.exit(str(error).replace("config.plan.topology", "--topology"))
    heads = "".join(f"{head:>14}" for head in ("kilocycles", "MB accessed", "temporary MB", "GFLOPs", "cycles"))
    print(f"{'part':<28}{'input':<20}{'form':<12}{heads}")
    cases = {}
    for name, part in PARTS.items():
        found = {form: compiled_figures(part, args.batch, device, platform) for form, platform in _FORMS.items()}
        cycles = {form: says["cost"]["estimated_cycles"] for form, says in found.items()}
        for form, says in found.items():
            cost, ratio = says["cost"], cycles[form] / cycles["XLA's own"]
            numbers = f"{cycles[form] / 1e3:>14.0f}{cost['bytes_accessed'] / 1e6:>14.0f}"
            numbers += f"{says['memory']['temporaries'] / 1e6:>14.1f}{cost['flops'] / 1e9:>14.1f}{ratio:>14.2f}"
            print(f"{name:<28}{'x'.join(map(str, (args.batch, *part.shape))):<20}{form:<12}{numbers}", flush=True)
        cases[name] = {"ours": cycles["ours"], "peer": cycles["XLA's own"], "peer_name": "XLA's own", "ratio": ratio}
    versions = {package: importlib.metadata.version(package) for package in ("jax", "flax", "libtpu")}
    worst = max(case["ratio"] for case in cases.values())
    print(json.dumps({"name": "tpu_cost", "ratio": worst, "cases": cases, "versions": versions}))


if __name__ == "__main__":
    main()
