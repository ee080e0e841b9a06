"""The scores of an evaluation, as the content of ``eval.json`` and as tables for a terminal."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gcn_jax.checkpoints.best import LOSS
from gcn_jax.config.settings import Protocol
from gcn_jax.evaluation.boundary import BOUNDARY_WIDTH, WIDTHS
from gcn_jax.evaluation.counts import SCORES
from gcn_jax.evaluation.evaluator import Evaluation
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
    scores = evaluation.counts.compute()

    def number(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    def by_class(values: np.ndarray) -> dict[str, float | None]:
        return {name: number(value) for name, value in zip(class_names, values, strict=True)}

    def by_image(key: str) -> dict[str, float | None]:
        return {image.image_id: number(getattr(image, key)) for image in evaluation.images.values()}

    return {
        "step": step,
        "data": data,
        "num_images": len(evaluation.images),
        "protocol": conditions(protocol),
        **{key: number(scores[key]) for key in SCORES},
        LOSS: number(evaluation.loss / pixels) if (pixels := int(evaluation.counts.confusion.sum())) else None,
        "boundary_width": BOUNDARY_WIDTH,
        "trimap_miou": {str(w): number(miou) for w, miou in zip(WIDTHS, scores["trimap_miou"], strict=True)},
        "iou_per_class": by_class(scores["iou"]),
        "accuracy_per_class": by_class(scores["accuracy"]),
        "boundary_iou_per_class": by_class(scores["boundary_iou_per_class"]),
        "calibration": evaluation.calibration.compute(),
        "confusion_matrix": scores["confusion"].tolist(),
        **{f"{key}_per_image": by_image(key) for key in ("miou", "boundary_accuracy", "internal_accuracy")},
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


def score_table(result: dict[str, Any]) -> str:
    """The scores in the content of an ``eval.json`` as a table for a terminal, in percent."""
    columns = ("iou_per_class", "accuracy_per_class", "boundary_iou_per_class")
    names = result["iou_per_class"]
    classes = table(
        [("class", "IoU (%)", "accuracy", "Boundary IoU")],
        [(name, *(_percent(result[column][name]) for column in columns)) for name in names],
    )
    totals = table(
        [
            *((name, _percent(result[key])) for key, name in SCORES.items()),
            ("expected calibration error", _percent(result["calibration"]["ece"])),
            ("loss (nats)", "-" if result[LOSS] is None else f"{result[LOSS]:.4f}"),
        ]
    )
    trimaps = table(
        [
            ("trimap, up to px from a boundary", *result["trimap_miou"]),
            ("mean IoU", *map(_percent, result["trimap_miou"].values())),
        ]
    )
    rule = "-" * len(classes.splitlines()[0])
    return "\n".join([classes, rule, totals, rule, trimaps])


def comparison(results: dict[str, dict[str, Any]]) -> str:
    """The main scores of several runs as a table for a terminal, in percent, like the paper's table 5.

    Args:
      results: the content of each run's ``eval.json``, by the run's name.
    """
    rows = [(name, str(result["step"]), *(_percent(result[key]) for key in SCORES)) for name, result in results.items()]
    return table([("run (scores in %)", "step", *SCORES.values())], rows)
