"""Batch norm's statistics computed again, for weights whose statistics come from other images."""

from collections.abc import Iterable
from typing import Any

import flax
import jax
import numpy as np

from gcn_jax.models import Network
from gcn_jax.runtime.compilation import platform_jit

PyTree = Any
Array = jax.Array | np.ndarray


def reestimate_statistics(
    model: Network,
    variables: dict[str, PyTree],
    batches: Iterable[Array | tuple[Array, Array | None]],
    part: str = "all",
) -> dict[str, PyTree]:
    """Replaces batch norm's statistics by those of some batches: PreciseBN (Wu and Johnson, 2021).

    Each batch passes through the network, normalised by its own statistics. The new statistics are no moving average,
    but the exact mean and variance of all activations in all batches, added up in float64.

    Args:
      model: from `build_model`; its ``norm`` and ``freeze`` may have any value.
      variables: of the model, ``{"params": ..., "batch_stats": ...}``; not changed.
      batches: float32 [B, H, W, 3] each, normalised images, all of one shape; or pairs of these and their ``inside``,
        what of them is no padding, int32 [B, 4] or None, see `Network`.
      part: "all", or "decoder": the backbone keeps its statistics, and is normalised by them.

    Returns:
      New variables: the same ``params``, and ``batch_stats`` as float32 NumPy arrays.

    Raises:
      ValueError: if there is no batch, batches differ in shape, or a statistic is not finite.

    Examples:
      >>> import gcn_jax, numpy as np
      >>> from gcn_jax.models import init_variables
      >>> model = gcn_jax.build_model(num_classes=2, backbone="resnet14", width=4, kernel_size=3)
      >>> variables = init_variables(model, seed=0)
      >>> rng = np.random.default_rng(0)
      >>> batches = [rng.normal(size=(2, 64, 64, 3)).astype(np.float32) for _ in range(3)]
      >>> updated = gcn_jax.reestimate_statistics(model, variables, batches)
      >>> variables["batch_stats"]["backbone"]["norm1"]["mean"]  # as they were initialised
      array([0., 0., 0., 0.], dtype=float32)
      >>> updated["batch_stats"]["backbone"]["norm1"]["mean"]
      array([...], dtype=float32)
      >>> updated["params"] is variables["params"]
      True
    """
    sums, count = _summed_moments(_following_all(model, part), variables, batches)
    if not count:
        raise ValueError("batches must hold at least one batch. Got none")
    stats = _map_norms(lambda norm: _without_square(norm, count), sums)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(stats)):
        raise ValueError("the statistics are not finite: the weights are damaged or belong to another kind of network")
    same = {"patterns", "backbone"} if part == "decoder" else {"patterns"}  # those of lrr are no statistics
    kept = {name: tree for name, tree in variables["batch_stats"].items() if name in same}
    return {**variables, "batch_stats": {**stats, **kept}}


def _summed_moments(
    model: Network, variables: dict[str, PyTree], batches: Iterable[Array | tuple[Array, Array | None]]
) -> tuple[PyTree, int]:
    """Each norm's mean and mean square, added up over the batches, and how many they are."""

    # With momentum 0 the running statistics are those of the last batch.
    def batch_moments(params: PyTree, stats: PyTree, images: jax.Array, inside: jax.Array | None) -> PyTree:
        stats = model.apply({"params": params, "batch_stats": stats}, images, True, inside, mutable=["batch_stats"])[1]
        return stats["batch_stats"]

    moments = platform_jit(batch_moments, model.dtype)
    sums: PyTree = None
    count, shape = 0, None
    for batch in batches:
        images, inside = batch if isinstance(batch, tuple) else (batch, None)
        if shape not in (None, images.shape):
            raise ValueError(f"batches must be of one shape. Got {shape} and {images.shape}")
        own = jax.device_get(moments(variables["params"], variables["batch_stats"], images, inside))
        own = _map_norms(_with_square, own)
        sums = own if sums is None else jax.tree.map(np.add, sums, own)
        count, shape = count + 1, images.shape
    return sums, count


def _following_all(model: Network, part: str) -> Network:
    """The model whose norms, of this part, take on the last batch's statistics."""
    backbone = model.backbone.clone(norm="frozen" if part == "decoder" else "train", momentum=0.0, freeze="")
    heads = {"decoder": _following(model.decoder), "auxiliary": _following(model.auxiliary)}
    return model.clone(backbone=backbone, **heads, crf=None)  # which has no norms


def _following(module: Any) -> Any:
    """A decoder whose norms do so; itself if it has none."""
    return module.clone(norm="train", momentum=0.0) if hasattr(module, "norm") else module


def has_folded_norms(variables: dict[str, PyTree]) -> bool:
    """Whether the backbone's batch norms are part of its kernels: they have a bias, but the statistics of the identity.

    New statistics would then not correct what the network computes, but change it.
    """
    stats = flax.traverse_util.flatten_dict(variables["batch_stats"]["backbone"])
    is_identity = all(np.allclose(leaf, path[-1] == "var", rtol=0, atol=1e-4) for path, leaf in stats.items())
    params = flax.traverse_util.flatten_dict(variables["params"]["backbone"])
    return is_identity and any(np.any(leaf) for path, leaf in params.items() if path[-1] == "bias")


def _map_norms(function: Any, stats: PyTree) -> PyTree:
    """Applies a function to each norm's ``{"mean": ..., "var": ...}``."""

    def is_norm(node: Any) -> bool:
        return isinstance(node, dict) and "mean" in node

    return jax.tree.map(lambda node: function(node) if is_norm(node) else node, stats, is_leaf=is_norm)


def _with_square(norm: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    mean = norm["mean"].astype(np.float64)
    return {"mean": mean, "square": norm["var"] + mean**2}


def _without_square(norm: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    mean = norm["mean"] / count
    return {"mean": mean.astype(np.float32), "var": (norm["square"] / count - mean**2).astype(np.float32)}
