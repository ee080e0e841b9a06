"""Draws which images of a folder without lists are for evaluation, and keeps to what was drawn before."""

import hashlib
from collections.abc import Collection, Iterable, Sequence

import numpy as np

VAL_FRACTION = 0.2


def draw(names: Iterable[str], seed: int, held_out: Collection[str] = ()) -> dict[str, list[str]]:
    """Splits names into "train" and "val".

    Args:
      names: of the images.
      seed: by which a fifth of them is drawn for val.
      held_out: `digest` of the names that were drawn before: these are val, and all others train, unless none of them
        is there.
    """
    names, known = sorted(names), set(held_out)
    val = [name for name in names if digest(name) in known] if known else []
    if not val:
        order = np.random.default_rng(seed).permutation(names).tolist()
        val = sorted(order[: max(1, round(VAL_FRACTION * len(order)))])
    taken = set(val)
    return {"val": val, "train": [name for name in names if name not in taken]}


def digest(name: str) -> str:
    """What stands for an image's name where the name itself is nobody's business, as in an exported model."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def digests(names: Sequence[str]) -> tuple[str, ...]:
    """`digest` of each name, sorted."""
    return tuple(sorted(map(digest, names)))
