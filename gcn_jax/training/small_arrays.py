"""A training's state with its small arrays joined to a few long ones, as the step of a GPU or TPU takes it.

There each array of its own costs operations of its own: to be read, summed, updated. Of the 538 parameters of
ResNet-152 with the paper's decoder 377 have fewer than 16,384 numbers, as has their momentum, and so do 310 statistics
of norms. Joined they are 14, 14 and 10. A CPU calls functions, which costs nothing, and takes each array as it is.
"""

import math
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gcn_jax.models.layers import folded
from gcn_jax.runtime.compilation import platform_of
from gcn_jax.training.optimizer import depth

PyTree = Any
_LARGE = 2**14  # a kernel of so many numbers stays as it is
_Path = tuple[str, ...]


def for_step(state: PyTree, mesh: Mesh | None = None) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """A training's state as the step for some devices takes it, and the function that separates such states again.

    Large arrays are not copied: the two states share them, so that the step, which is given one, ends both.

    Args:
      state: with arrays on these devices.
      mesh: of devices; None: the default one.
    """
    if not is_joined(mesh):
        return state, lambda state: state
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    return jax.jit(join)(state), jax.jit(lambda joined: separate(joined, like))


def is_joined(mesh: Mesh | None = None) -> bool:
    """Whether the step for a mesh's devices, or the default one, takes joined arrays."""
    return platform_of(mesh) != "cpu"


def join(tree: PyTree) -> PyTree:
    """Joins the small arrays in each of a tree's nested dicts of arrays.

    They lie under the names of their stage and kind, so that whatever goes by names still does: what is fixed, what
    decays, the rates of stages.

    Args:
      tree: such as a `TrainState`, or ``{"params": ..., "batch_stats": ...}["params"]``.

    Returns:
      The same, but [n] each at ("backbone", "res4", "scale"), ("others", "kernel") and such instead of small arrays.
    """
    return jax.tree.map(lambda node: _join(node) if isinstance(node, dict) else node, tree, is_leaf=_is_dict)


def separate(joined: PyTree, like: PyTree) -> PyTree:
    """The inverse of `join`; `like` has the structure and the shapes of its result."""

    def of_node(like: PyTree, node: PyTree) -> PyTree:
        return _separate(node, like) if isinstance(like, dict) else node

    return jax.tree.map(of_node, like, joined, is_leaf=_is_dict)


def separate_variables(joined: PyTree, like: PyTree, norm: str) -> PyTree:
    """A model's variables to be applied, of joined ones.

    Args:
      joined: ``{"params": ..., "batch_stats": ...}``, each from `join`.
      like: the shapes of the model's variables.
      norm: of the model's backbone. If it is "frozen", all its norms are folded at once, into the collection "folded".
    """
    variables = {kind: _separate(tree, like[kind]) for kind, tree in joined.items()}
    if norm != "frozen":
        return variables
    params, stats = (joined[kind]["backbone"] for kind in ("params", "batch_stats"))
    scales, shifts = {}, {}
    for stage, own in stats.items():
        values = folded(params[stage]["scale"], params[stage]["bias"], own["mean"], own["var"])
        scales[stage], shifts[stage] = jax.lax.optimization_barrier(values)  # XLA would compute them again for each use
    flat: dict[_Path, jax.Array] = {}
    for name, group in (("scale", scales), ("shift", shifts)):
        means = {"backbone": {stage: {"mean": values} for stage, values in group.items()}}
        parts = _separate(means, {"backbone": like["batch_stats"]["backbone"]}, only="mean")
        flat |= {(*path[:-1], name): leaf for path, leaf in flax.traverse_util.flatten_dict(parts).items()}
    return {**variables, "folded": flax.traverse_util.unflatten_dict(flat)}


def _is_dict(node: Any) -> bool:
    return isinstance(node, dict)


def _join(tree: PyTree) -> PyTree:
    flat = flax.traverse_util.flatten_dict(tree)
    joined = {}
    for key, paths in _groups(flat).items():
        parts = [flat[path].reshape(-1) for path in paths]
        joined[key] = flat[key] if key in flat else jnp.concatenate(parts)
    return flax.traverse_util.unflatten_dict(joined)


def _separate(joined: PyTree, like: PyTree, only: str = "") -> PyTree:
    """The arrays of the names `only`, or all."""
    joined, shapes = flax.traverse_util.flatten_dict(joined), flax.traverse_util.flatten_dict(like)
    flat = {}
    for key, paths in _groups(shapes).items():
        if only not in ("", key[-1]):
            continue
        if key in shapes:
            flat[key] = joined[key]
            continue
        parts = jax.lax.split(joined[key], [math.prod(shapes[path].shape) for path in paths])
        flat |= {path: part.reshape(shapes[path].shape) for path, part in zip(paths, parts, strict=True)}
    return flax.traverse_util.unflatten_dict(flat)


def _groups(flat: dict[_Path, Any]) -> dict[_Path, list[_Path]]:
    """By its path in the joined tree, which arrays an array is made of; a large one is made of itself."""
    groups: dict[_Path, list[_Path]] = {}
    for path in sorted(flat):
        shape = flat[path].shape
        is_large = len(shape) > 1 and math.prod(shape) >= _LARGE  # all scales and biases are joined: norms are folded
        groups.setdefault(path if is_large else _key(path), []).append(path)
    return groups


def _key(path: _Path) -> _Path:
    match path:
        case ("backbone", layer, *_, name):
            stage = depth(layer)
            return "backbone", f"res{stage}" if stage > 1 else "stem", name
        case ("crf", *_):
            return path
    return "others", path[-1]
