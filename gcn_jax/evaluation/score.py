"""The scores of an ``eval.json`` that steps of a run can be compared by, and their names in ``config.eval.best_by``."""

from collections.abc import Sequence
from typing import Any

from gcn_jax.checkpoints.best import LOSS
from gcn_jax.errors import UserError
from gcn_jax.evaluation.boundary import WIDTHS
from gcn_jax.evaluation.counts import SCORES

_MOST = 20  # classes that a message names


# Groups of scores, and what a score of one is called, before the class or width.
_GROUPS = {
    "iou_per_class": "IoU of",
    "accuracy_per_class": "accuracy of",
    "boundary_iou_per_class": "Boundary IoU of",
    "trimap_miou": "mean IoU near boundaries, up to px",
}


def check_score(name: str, class_names: Sequence[str]) -> None:
    """Raises `UserError` unless there is a score of this name, such as "miou" or "iou_per_class.person"."""
    group, dot, part = name.partition(".")
    widths = [str(width) for width in WIDTHS]
    parts = {key: widths if key == "trimap_miou" else class_names for key in _GROUPS}
    if name in (*SCORES, LOSS) or (dot and part in parts.get(group, ())):
        return
    more = f" and {len(class_names) - _MOST} more" if len(class_names) > _MOST else ""
    groups = ", ".join(f"{key}.{'WIDTH' if key == 'trimap_miou' else 'CLASS'}" for key in _GROUPS)
    raise UserError(
        f"config.eval.best_by={name!r}: no score; known: {', '.join((*SCORES, LOSS))}, {groups}, where CLASS is one of "
        f"{', '.join(class_names[:_MOST])}{more}, and WIDTH one of {', '.join(widths)}"
    )


def titled(name: str) -> str:
    """What a score is called in sentences and charts."""
    group, _, part = name.partition(".")
    return f"{_GROUPS[group]} {part}" if group in _GROUPS else SCORES.get(name, name)


def score(result: dict[str, Any], name: str) -> float | None:
    """The score of a name that `check_score` knows, in the content of ``eval.json``; None if nothing was counted."""
    group, dot, part = name.partition(".")
    return result[group][part] if dot else result[name]


def logged_as(name: str) -> str:
    """The name of a score in ``metrics.jsonl``, where ``loss`` is that of the training."""
    return "validation_loss" if name == LOSS else name
