"""The scores of an ``eval.json`` that steps of a run can be compared by, and their names in ``config.eval.best_by``."""

from typing import Any

from gcn_jax.checkpoints.best import LOSS
from gcn_jax.data.specs import DatasetSpec
from gcn_jax.errors import UserError
from gcn_jax.evaluation import counts, multi_label
from gcn_jax.evaluation.boundary import WIDTHS

_MOST = 20  # classes that a message names


# Groups of scores, and what a score of one is called, before the class or width.
_GROUPS = {
    "iou_per_class": "IoU of",
    "accuracy_per_class": "accuracy of",
    "boundary_iou_per_class": "Boundary IoU of",
    "trimap_miou": "mean IoU near boundaries, up to px",
}
_MULTI_LABEL_GROUPS = {
    "iou_per_class": "IoU of",
    "f1_per_class": "F1 of",
    "precision_per_class": "precision of",
    "recall_per_class": "recall of",
    "average_precision_per_class": "average precision of",
    "boundary_iou_per_class": "Boundary IoU of",
}
_NAMES = counts.SCORES | multi_label.SCORES


def scores_of(*results: dict[str, Any]) -> dict[str, str]:
    """The scores that are one number in the content of each of some ``eval.json``, and their names in tables."""
    return {key: name for key, name in _NAMES.items() if all(key in result for result in results)}


def check_score(name: str, spec: DatasetSpec) -> None:
    """Raises `UserError` unless there is a score of this name, such as "miou" or "iou_per_class.person"."""
    group, dot, part = name.partition(".")
    widths, class_names = [str(width) for width in WIDTHS], spec.class_names
    known = _MULTI_LABEL_GROUPS if spec.multi_label else _GROUPS
    names = multi_label.SCORES if spec.multi_label else counts.SCORES
    parts = {key: widths if key == "trimap_miou" else class_names for key in known}
    if name in (*names, LOSS) or (dot and part in parts.get(group, ())):
        return
    more = f" and {len(class_names) - _MOST} more" if len(class_names) > _MOST else ""
    groups = ", ".join(f"{key}.{'WIDTH' if key == 'trimap_miou' else 'CLASS'}" for key in known)
    width = f", and WIDTH one of {', '.join(widths)}" if "trimap_miou" in known else ""
    raise UserError(
        f"config.eval.best_by={name!r}: no score; known: {', '.join((*names, LOSS))}, {groups}, where CLASS is one of "
        f"{', '.join(class_names[:_MOST])}{more}{width}"
    )


def titled(name: str) -> str:
    """What a score is called in sentences and charts."""
    group, _, part = name.partition(".")
    groups = _GROUPS | _MULTI_LABEL_GROUPS
    return f"{groups[group]} {part}" if group in groups else _NAMES.get(name, name)


def score(result: dict[str, Any], name: str) -> float | None:
    """The score of a name that `check_score` knows, in the content of ``eval.json``; None if nothing was counted."""
    group, dot, part = name.partition(".")
    return result[group][part] if dot else result[name]


def logged_as(name: str) -> str:
    """The name of a score in ``metrics.jsonl``, where ``loss`` is that of the training."""
    return "validation_loss" if name == LOSS else name
