"""Random initialisation without compiling anything.

``model.init`` is right, but slow: XLA compiles a random draw for each shape of kernel (about 20 s for ResNet-152 on
two CPU cores, jitted as a whole or not). `init_variables` asks the modules what they would draw, and lets NumPy draw.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from .heads import HEADS
from .layers import (
    Conv,
    ConvTranspose,
    DepthwiseConv,
    IdentityConv,
    L2Norm,
    Norm,
    Reconstruction,
    bilinear_kernel,
    cosine_patterns,
    identity_kernel,
)
from .ops.xla import platform


def variable_shapes(model: nn.Module) -> dict[str, Any]:
    """Shapes and dtypes of a model's variables, `jax.ShapeDtypeStruct` each."""
    image = jax.ShapeDtypeStruct((1, 64, 64, getattr(model, "channels", 3)), jnp.float32)
    with platform("cpu"):  # the shapes are the same on each; one is traced faster than all
        return jax.eval_shape(model.init, jax.random.key(0), image)


def init_variables(model: nn.Module, seed: int) -> dict[str, Any]:
    """Variables of the structure, and from the distributions, of ``model.init``, as NumPy arrays.

    Args:
      model: built of the layers in `layers` alone.
      seed: the same seed gives the same values on every machine.

    Returns:
      ``{"params": ..., "batch_stats": ...}``, float32.
    """
    modules: dict[tuple[str, ...], nn.Module] = {}

    def note(call, args, kwargs, context):
        modules[context.module.path] = context.module
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes = variable_shapes(model)
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        _, *module_path, name = (entry.key for entry in path)
        return _initial_value(modules[tuple(module_path)], name, leaf.shape, rng)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def with_zero_scores(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters whose heads give the score 0 to every class, whatever the scale of the features: our choice.

    The last convolution of each stage's head, or what another decoder calls "score", starts with zeros; boundary
    refinement keeps scores of 0 as they are. The loss then starts at the logarithm of the number of classes.
    """

    def silenced(head: dict[str, Any]) -> dict[str, Any]:
        if "kernel" in head:
            return {**head, "kernel": np.zeros_like(head["kernel"])}
        if "score" in head:
            last = ["score"]
        elif "square" in head:
            last = ["column", "row", "square"]
        elif "left_row" in head:
            last = ["projection"] if "projection" in head else ["left_row", "right_column"]
        else:
            last = [max(head, key=lambda name: int(name.removeprefix("conv")))]
        return {**head, **{name: silenced(head[name]) for name in last}}

    heads = tuple(f"{head}_res" for head in HEADS)
    is_head = {name: name.startswith(("score", "auxiliary", *heads)) for name in params}
    return {name: silenced(module) if is_head[name] else module for name, module in params.items()}


def _initial_value(module: nn.Module, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    match module, name:
        case Conv(gain=gain), "kernel":
            std = np.sqrt(gain / np.prod(shape[:-1]), dtype=np.float32)
            return std * rng.standard_normal(shape, np.float32)
        case DepthwiseConv(), "kernel":
            return rng.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[:-1]), dtype=np.float32)
        case IdentityConv(classes=classes), "kernel":
            return identity_kernel(shape, classes, rng.standard_normal(shape, np.float32))
        case ConvTranspose(), "kernel":
            return bilinear_kernel(shape[-1])
        case ((Norm(initial_scale=scale) | L2Norm(initial_scale=scale)), "scale"):
            return np.full(shape, scale, np.float32)
        case Reconstruction(classes=classes, count=count), "patterns":
            return cosine_patterns(count, classes)
        case Norm(), "var":
            return np.ones(shape, np.float32)
        case ((Conv() | IdentityConv() | DepthwiseConv() | Norm()), ("bias" | "mean")):
            return np.zeros(shape, np.float32)
    if known := getattr(module, "initial_value", None):  # a module from elsewhere, which says it itself
        return known(name, shape, rng)
    raise AssertionError(f"no initial value known for {name} of {module}")
