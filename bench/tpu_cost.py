"""What a training step would cost on a TPU, by the TPU's own compiler; needs no TPU.

    python -m bench.tpu_cost [--topology=v5e:2x4] [--batch_size=8] [--space=1]

Compiles the very step of training for the devices of a slice: FLOPs, bytes accessed, memory and collectives of each.
Needs the extra "tpu" (libtpu). Takes minutes: the compiler tunes every convolution.
"""

import argparse
import collections
import importlib.metadata
import json
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gcn_jax import config as config_lib
from gcn_jax.models import init_variables
from gcn_jax.optim import make_optimizer
from gcn_jax.steps import init_state, make_train_step

_COLLECTIVES = ("all-reduce", "all-gather", "collective-permute", "reduce-scatter", "all-to-all")


def compile_step(args: argparse.Namespace) -> Any:
    """The compiled training step, for one program of the topology."""
    devices = topologies.get_topology_desc(args.topology, platform="tpu").devices[: args.devices or None]
    shape = (len(devices) // args.space, args.space)
    mesh = jax.sharding.Mesh(np.reshape(devices, shape), ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    config = config_lib.default()
    config.data.update(train="voc_segmentation/train", eval="voc_segmentation/val", size=args.size)
    config.num_steps, config.batch_size = 1000, args.batch_size
    config.model.update(backbone=args.backbone, kernel_size=args.kernel_size, dtype=args.dtype, remat=args.remat)
    model, optimizer = config_lib.model_from(config), make_optimizer(config)
    state = jax.eval_shape(lambda v: init_state(v, optimizer, config), init_variables(model, 0))

    def on_mesh(leaf: Any, *axes: str) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

    pixels = (args.batch_size, args.size, args.size)
    batch = {"image": jax.ShapeDtypeStruct((*pixels, 3), jnp.uint8), "label": jax.ShapeDtypeStruct(pixels, jnp.uint8)}
    state = jax.tree.map(on_mesh, state)
    batch = jax.tree.map(lambda leaf: on_mesh(leaf, "data", "space"), batch)
    return jax.jit(make_train_step(model, optimizer, config), donate_argnums=0).lower(state, batch).compile()


def main() -> None:
    """Compiles and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--devices", type=int, default=0, help="use only the first so many; 0: all")
    parser.add_argument("--space", type=int, default=1, help="devices that share an image's rows")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--backbone", default="resnet152")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--kernel_size", type=int, default=15)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--hlo", default="", help="file to write the compiled program to")
    args = parser.parse_args()
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    start = time.perf_counter()
    compiled = compile_step(args)
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    if args.hlo:
        with open(args.hlo, "w") as file:
            file.write(text)
    counts = collections.Counter(re.findall(rf" ({'|'.join(_COLLECTIVES)})(?:-start)?\(", text))
    result = {
        "gflops": cost["flops"] / 1e9,
        "gigabytes_accessed": cost["bytes accessed"] / 1e9,
        "temporaries_gb": memory.temp_size_in_bytes / 1e9,
        "arguments_gb": memory.argument_size_in_bytes / 1e9,
        "collectives": dict(counts),
        "compile_s": time.perf_counter() - start,
    }
    print("a device, a step:")
    for key, value in result.items():
        print(f"  {key:<20}{value if isinstance(value, dict) else f'{value:.2f}'}")
    versions = {package: importlib.metadata.version(package) for package in ("jax", "libtpu", "flax")}
    print(json.dumps({"name": "tpu_cost", "arguments": vars(args), **result, "versions": versions}))


if __name__ == "__main__":
    main()
