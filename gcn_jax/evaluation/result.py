"""The scores of an evaluation, as the content of ``eval.json`` and as tables for a terminal."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gcn_jax.checkpoints.best import LOSS
from gcn_jax.config.settings import Protocol
from gcn_jax.evaluation import multi_label
from gcn_jax.evaluation.boundary import BOUNDARY_WIDTH, WIDTHS
from gcn_jax.evaluation.counts import SCORES, Counts
from gcn_jax.evaluation.evaluator import Evaluation
from gcn_jax.evaluation.multi_label import MultiLabelCounts
from gcn_jax.evaluation.score import scores_of
from gcn_jax.tables import table


def as_json(
    evaluation: Evaluation, step: int, data: str, protocol: Protocol, class_names: Sequence[str]
) -> dict[str, Any]:
    """The content of ``eval.json``; scores are fractions in 0..1, null where nothing was counted; the loss is in nats.

    Args:
      evaluation: of all images.
      step: of the model's checkpoint.
      data: the data it was evaluated on, as ``config.data.eval`` names them.
      protocol: how the images' labels were predicted.
      class_names: the classes' names, in the order of their ids.
    """
    counts = evaluation.counts
    own = _of_overlapping(counts, class_names) if protocol.multi_label else _of_one(counts, class_names)
    calibration = counts.calibration() if protocol.multi_label else evaluation.calibration
    counted = counts.decisions() if protocol.multi_label else int(counts.confusion.sum())
    of_images = ("miou",) if protocol.multi_label else ("miou", "boundary_accuracy", "internal_accuracy")
    return {
        "step": step,
        "data": data,
        "num_images": len(evaluation.images),
        "protocol": conditions(protocol),
        **own,
        LOSS: _number(evaluation.loss / counted) if counted else None,
        "calibration": calibration.compute(),
        **{
            f"{key}_per_image": {i.image_id: _number(getattr(i, key)) for i in evaluation.images.values()}
            for key in of_images
        },
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _by_class(values: np.ndarray, class_names: Sequence[str]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(class_names, values, strict=True)}


def _of_one(counts: Counts, class_names: Sequence[str]) -> dict[str, Any]:
    """What follows from the counts where a pixel has one class."""
    scores = counts.compute()
    return {
        **{key: _number(scores[key]) for key in SCORES},
        "boundary_width": BOUNDARY_WIDTH,
        "trimap_miou": {str(w): _number(miou) for w, miou in zip(WIDTHS, scores["trimap_miou"], strict=True)},
        "iou_per_class": _by_class(scores["iou"], class_names),
        "accuracy_per_class": _by_class(scores["accuracy"], class_names),
        "boundary_iou_per_class": _by_class(scores["boundary_iou_per_class"], class_names),
        "confusion_matrix": scores["confusion"].tolist(),
    }


def _of_overlapping(counts: MultiLabelCounts, class_names: Sequence[str]) -> dict[str, Any]:
    """What follows from the counts where a pixel may have several classes."""
    scores = counts.compute()
    keys = ("iou", "f1", "precision", "recall", "average_precision")
    return {
        **{key: _number(scores[key]) for key in multi_label.SCORES},
        **{f"{key}_per_class": _by_class(scores[key], class_names) for key in keys},
        "boundary_iou_per_class": _by_class(scores["boundary_iou_per_class"], class_names),
    }


def conditions(protocol: Protocol) -> dict[str, Any]:
    """What scores depend on besides model and images."""
    return {
        **{key: getattr(protocol, key) for key in ("scales", "flip", "window", "crf")},
        "stride": protocol.window_stride(protocol.window),
        **({"temperature": protocol.temperature} if protocol.temperature not in (0, 1) else {}),
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


# Scores of each class, and what heads their columns.
_COLUMNS = {
    "iou_per_class": "IoU (%)",
    "f1_per_class": "F1",
    "precision_per_class": "precision",
    "recall_per_class": "recall",
    "average_precision_per_class": "average precision",
    "accuracy_per_class": "accuracy",
    "boundary_iou_per_class": "Boundary IoU",
}


def score_table(result: dict[str, Any]) -> str:
    """The scores in the content of an ``eval.json`` as a table for a terminal, in percent."""
    columns = {key: head for key, head in _COLUMNS.items() if key in result}
    names = result["iou_per_class"]
    classes = table(
        [("class", *columns.values())],
        [(name, *(_percent(result[column][name]) for column in columns)) for name in names],
    )
    totals = table(
        [
            *((name, _percent(result[key])) for key, name in scores_of(result).items()),
            ("expected calibration error", _percent(result["calibration"]["ece"])),
            ("loss (nats)", "-" if result[LOSS] is None else f"{result[LOSS]:.4f}"),
        ]
    )
    rule = "-" * len(classes.splitlines()[0])
    parts = [classes, rule, totals]
    if trimaps := result.get("trimap_miou"):
        rows = [("trimap, up to px from a boundary", *trimaps), ("mean IoU", *map(_percent, trimaps.values()))]
        parts += [rule, table(rows)]
    return "\n".join(parts)


def comparison(results: dict[str, dict[str, Any]]) -> str:
    """The main scores of several runs as a table for a terminal, in percent, like the paper's table 5.

    Args:
      results: the content of each run's ``eval.json``, by the run's name.
    """
    keys = scores_of(*results.values())
    rows = [(name, str(result["step"]), *(_percent(result[key]) for key in keys)) for name, result in results.items()]
    return table([("run (scores in %)", "step", *keys.values())], rows)
