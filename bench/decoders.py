"""Parameters and operations of each decoder: ``python -m bench.decoders`` prints the table of docs/related_work.md.

Operations are XLA's count for a forward pass of one image, before it optimises the program, two for each product and
sum; those of the backbone are counted at the decoder's own output stride.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp

from gcn_jax.models import DECODERS, Network, build_model, variable_shapes
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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--num_classes", type=int, default=21)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    head = ("decoder", "output stride", "parameters (M)", "with the backbone (M)", "GFLOPs", "with the backbone")
    lines = []
    for name in DECODERS:
        model = build_model(options.num_classes, options.backbone, decoder=name, convolutions="plain")
        variables = variable_shapes(model)
        params = variables["params"]
        whole, own = operations(model, variables, options.size)
        params = {key: tree for key, tree in params.items() if not key.startswith("auxiliary")}  # of training alone
        decoder = count({key: tree for key, tree in params.items() if key != "backbone"})
        numbers = (f"{decoder:.2f}", f"{count(params):.1f}", f"{whole - own:.1f}", f"{whole:.0f}")
        lines.append((name, str(model.backbone.output_stride), *numbers))
    print(table([head], lines))


if __name__ == "__main__":
    main()
