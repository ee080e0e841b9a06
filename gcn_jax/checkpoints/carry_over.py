"""Puts the weights of a trained model into a model of other classes: the backbone, and each class by its name.

A tensor of the decoder has one channel for each class, or several, along one or two of its axes. What leads to a class
of both models from the features, or from another class of both, is copied to its new place. What leads to it from a
class that is new starts at 0: if classes were only added, the others have the same scores as before. All that leads to
a new class keeps its fresh start. If the decoders differ in more than classes, the backbone alone is copied.
"""

from collections.abc import Sequence

import flax
import numpy as np

from gcn_jax.checkpoints.tensor_files import plain
from gcn_jax.models import Network, variable_shapes
from gcn_jax.models.preprocessing import PyTree


def carry_over(
    fresh: dict[str, PyTree], trained: dict[str, PyTree], model: Network, classes: Sequence[str], old: Sequence[str]
) -> tuple[dict[str, PyTree], list[str]]:
    """Puts trained weights into fresh ones.

    Args:
      fresh: variables of the model, ``{"params": ..., "batch_stats": ...}``, as NumPy arrays; not changed.
      trained: variables of another model with the same backbone.
      model: that the result is for.
      classes: the names of its classes, in the order of their ids.
      old: the names of the other model's classes.

    Returns:
      New variables, and lines that tell what was copied and what was not; none if all was, to where it had been.
    """
    wanted, found = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (fresh, trained))
    decoder = model.decoder.clone(num_classes=len(classes) + 1)
    larger = flax.traverse_util.flatten_dict(variable_shapes(model.clone(decoder=decoder)), sep="/")
    # How many channels each class has along each axis of each tensor.
    channels = {name: np.subtract(larger[name].shape, array.shape) for name, array in wanted.items()}
    shared = wanted.keys() & found.keys()
    single = {name.split("/")[1] for name in wanted.keys() ^ found.keys()}
    fits = all(
        np.array_equal(np.subtract(wanted[name].shape, found[name].shape), (len(classes) - len(old)) * channels[name])
        for name in shared
    )
    if not fits or any(not name.startswith(("refine_", "score_res", "auxiliary", "crf")) for name in single):
        copied = {name: np.asarray(found[name]) for name in shared if name.split("/")[1] == "backbone"}
        lines = [
            "the backbone alone carries over: the rest has another config.model.head, kernel_size, head_width, "
            "branches or decoder, and starts fresh"
        ]
        return flax.traverse_util.unflatten_dict({**wanted, **copied}, sep="/"), lines
    both = [name for name in classes if name in old]
    copied = {}
    for name in shared:
        array, before = np.array(wanted[name]), np.asarray(found[name])
        here = _indices(array.shape, channels[name], classes, both)
        array[..., here[-1]] = 0
        array[np.ix_(*here)] = before[np.ix_(*_indices(before.shape, channels[name], old, both))]
        copied[name] = array
    variables = flax.traverse_util.unflatten_dict({**wanted, **copied}, sep="/")
    lines = _class_lines(classes, old) if list(classes) != list(old) else []
    added = single & fresh["params"].keys()
    for names, what in ((added, "starts fresh"), (single - added, "is left behind")):
        parts = {"boundary refinement" if name.startswith("refine_") else name for name in names}
        lines += [f"{part} {what}" for part in sorted(parts)]
    return variables, lines


def _indices(
    shape: Sequence[int], channels: Sequence[int], classes: Sequence[str], some: Sequence[str]
) -> list[np.ndarray]:
    """The indices along each axis of a tensor that belong to some of its classes; all where an axis has no classes."""
    places = np.array([classes.index(name) for name in some], int)
    return [
        np.add.outer(len(classes) * np.arange(number), places).reshape(-1) if number else np.arange(length)
        for length, number in zip(shape, channels, strict=True)
    ]


def _class_lines(classes: Sequence[str], old: Sequence[str]) -> list[str]:
    groups = {
        "carry over": [name for name in classes if name in old],
        "start fresh": [name for name in classes if name not in old],
        "are left behind": [name for name in old if name not in classes],
    }
    return [f"classes that {what}: {_some(names)}" for what, names in groups.items() if names]


def _some(names: Sequence[str], most: int = 20) -> str:
    """The first names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(plain, names[:most])) + more
