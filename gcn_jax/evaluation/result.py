"""What an evaluation found, as ``eval.json`` and as tables for a terminal."""

import math
from typing import Any

import ml_collections
import numpy as np

from gcn_jax.data.sources import spec_from
from gcn_jax.evaluation.boundary import BOUNDARY_WIDTH, WIDTHS
from gcn_jax.evaluation.counts import SCORES
from gcn_jax.evaluation.evaluator import Evaluation
from gcn_jax.inference.labeller import window_stride
from gcn_jax.tables import aligned


def as_json(evaluation: Evaluation, config: ml_collections.ConfigDict, step: int) -> dict[str, Any]:
    """The content of ``eval.json``; scores are fractions in 0..1, null where nothing was counted."""
    scores, names = evaluation.counts.compute(), spec_from(config).class_names

    def number(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    def by_class(values: np.ndarray) -> dict[str, float | None]:
        return {name: number(value) for name, value in zip(names, values, strict=True)}

    return {
        "step": step,
        "data": config.data.eval,
        "num_images": len(evaluation.images),
        "protocol": {
            **{key: config.eval[key] for key in ("scales", "flip", "window", "crf")},
            "stride": window_stride(config, config.eval.window),
        },
        **{key: number(scores[key]) for key in SCORES},
        "boundary_width": BOUNDARY_WIDTH,
        "trimap_miou": {str(w): number(miou) for w, miou in zip(WIDTHS, scores["trimap_miou"], strict=True)},
        "iou_per_class": by_class(scores["iou"]),
        "accuracy_per_class": by_class(scores["accuracy"]),
        "boundary_iou_per_class": by_class(scores["boundary_iou_per_class"]),
        "confusion_matrix": scores["confusion"].tolist(),
        "miou_per_image": {image.image_id: number(image.miou) for image in evaluation.images.values()},
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def table(result: dict[str, Any]) -> str:
    """The scores of ``eval.json`` as lines of text, in percent."""
    columns = ("iou_per_class", "accuracy_per_class", "boundary_iou_per_class")
    head, *rows = aligned(
        [
            ("class", "IoU (%)", "accuracy", "Boundary IoU"),
            *((name, *(_percent(result[column][name]) for column in columns)) for name in result["iou_per_class"]),
        ]
    )
    totals = [(name, _percent(result[key])) for key, name in SCORES.items()]
    trimaps = [
        ("trimap, up to px from a boundary", *result["trimap_miou"]),
        ("mean IoU", *map(_percent, result["trimap_miou"].values())),
    ]
    rule = "-" * len(head)
    return "\n".join([head, rule, *rows, rule, *aligned(totals), rule, *aligned(trimaps)])


def comparison(results: dict[str, dict[str, Any]]) -> str:
    """The headlines of several runs' ``eval.json`` as lines of text, in percent: the paper's table 5."""
    rows = [(name, str(result["step"]), *(_percent(result[key]) for key in SCORES)) for name, result in results.items()]
    head, *lines = aligned([("run (scores in %)", "step", *SCORES.values()), *rows])
    return "\n".join([head, "-" * len(head), *lines])
