"""Parameters and operations of each decoder: ``python -m bench.decoders`` prints the table of docs/related_work.md.

Operations are XLA's count for a forward pass of one image, before it optimises the program, two for each product and
sum; those of the backbone are counted at the decoder's own output stride. ``--rounds=3`` also takes training steps with
one image, float32, on all cores or on the GPU: the median of their seconds, after one that does not count, and the
gigabytes that the compiler says the step needs, for its state, its batch, its results and in between.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from bench.network import config_and_recipe, images_and_labels, training_step
from gcn_jax.models import DECODERS, Network, build_model, variable_shapes
from gcn_jax.planning.compiled_step import compiler_report
from gcn_jax.runtime.compilation import return_memory
from gcn_jax.tables import table


def count(shapes: dict) -> float:
    """Millions of numbers in a tree of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6


def operations(model: Network, variables: dict, size: int) -> tuple[float, float]:
    """Billions for an image of size x size: of the whole network, and of its backbone."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    backbone = {kind: tree["backbone"] for kind, tree in variables.items()}
    programs = jax.jit(model.apply).lower(variables, image), jax.jit(model.backbone.apply).lower(backbone, image)
    counts: list[Any] = [program.cost_analysis() for program in programs]
    whole, own = (found["flops"] / 1e9 for found in counts)
    return whole, own


def step(decoder: str, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds and gigabytes of a training step with one image."""
    args = argparse.Namespace(**vars(options), kernel_size=15, dtype="float32", remat=False)
    _, recipe = config_and_recipe(args, decoder)
    image, label = images_and_labels(options.size, 1)
    train, compiled, _ = training_step(recipe, {"image": image, "label": label})
    seconds = []
    for _ in range(options.rounds + 1):
        start = time.perf_counter()
        train()
        seconds.append(time.perf_counter() - start)
    memory = compiler_report(compiled, jax.devices()[0].platform)["memory"]["total"]
    return statistics.median(seconds[1:]), memory / 1e9


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=0, help="training steps that are timed; 0: none")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(DECODERS), help="the decoders to take"
    )
    options = parser.parse_args()
    head = ["decoder", "output stride", "parameters (M)", "with the backbone (M)", "GFLOPs", "with the backbone"]
    head += ["seconds a step", "GB"] if options.rounds else []
    return_memory()
    lines = []
    for name in options.only:
        model = build_model(backbone=options.backbone, decoder=name, convolutions="plain")
        variables = variable_shapes(model)
        params = variables["params"]
        whole, own = operations(model, variables, options.size)
        params = {key: tree for key, tree in params.items() if not key.startswith("auxiliary")}  # of training alone
        decoder = count({key: tree for key, tree in params.items() if key != "backbone"})
        line = [name, str(model.backbone.output_stride), f"{decoder:.2f}", f"{count(params):.1f}"]
        line += [f"{whole - own:.1f}", f"{whole:.0f}"]
        if options.rounds:
            duration, gigabytes = step(name, options)
            line += [f"{duration:.1f}", f"{gigabytes:.2f}"]
        lines.append(line)
        print("  ".join(line), flush=True)
    print(table([head], lines))


if __name__ == "__main__":
    main()
