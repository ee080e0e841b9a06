"""What the report's charts show: curves of training, mean IoU near boundaries, a histogram of the images."""

import math
import statistics
from typing import Any

import numpy as np

from gcn_jax.checkpoints.best import LOSS
from gcn_jax.evaluation.score import titled
from gcn_jax.report.charts import Chart, few_tips, linear_axis, log_axis, thin_out
from gcn_jax.report.values import capitalized, percent


def training_charts(records: list[dict[str, Any]], best_by: str = "miou") -> list[Chart | str]:
    """Charts of losses, learning rate, mean IoU and the score of the best; a sentence in place of one without values.

    Args:
      records: the lines of ``metrics.jsonl``.
      best_by: the score by which the run's best step was chosen.
    """
    charts = [
        _curve("Loss", "loss", records) or "No loss was logged: no curve of the loss.",
        _curve("Learning rate", "learning_rate", records) or "No learning rate was logged: no curve of it.",
        _curve("Mean IoU", "miou", records, "%") or "No evaluation during training yet: no curve of mean IoU.",
        _curve("Validation loss", "validation_loss", records) or "No validation loss was logged: no curve of it.",
    ]
    if best_by not in ("miou", LOSS):
        title = titled(best_by)
        charts.append(_curve(capitalized(title), best_by, records, "%") or f"No {title} was logged: no curve of it.")
    return charts


def _curve(title: str, key: str, records: list[dict[str, Any]], unit: str = "") -> Chart | None:
    """A chart of a logged value by step, of its finite values; None if there are none."""
    factor = 100 if unit else 1
    logged = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    points = thin_out([(step, factor * value) for step, value in logged if math.isfinite(value)])
    if not points:
        return None
    values = [value for _, value in points]
    is_wide = key in ("loss", "validation_loss") and min(values) > 0 and max(values) > 100 * min(values)
    (first, start), (last, end) = points[0], points[-1]
    skipped = len(logged) - sum(math.isfinite(value) for _, value in logged)
    return Chart(
        title,
        summary=f"{start:.3g}{unit} at step {first:,}, {end:.3g}{unit} at step {last:,}",
        x=linear_axis((step for step, _ in points), least_step=1, tight=True),
        y=log_axis(values) if is_wide else linear_axis(values, unit),
        x_name="step",
        line=points,
        tips=few_tips([f"step {step:,g}: {value:.4g}" for step, value in points]),
        note="Logarithmic scale. " * is_wide + f"Left out: {skipped:,} not finite." * bool(skipped),
    )


def boundary_chart(result: dict[str, Any]) -> Chart | str:
    """A chart of the mean IoU of the pixels near boundaries, by how near.

    Args:
      result: the content of ``eval.json``.
    """
    scores = {int(width): score for width, score in result["trimap_miou"].items()}
    points = sorted((float(width), 100 * score) for width, score in scores.items() if score is not None)
    if not points:
        return "No pixel near a boundary was counted: no curve of mean IoU near boundaries."
    overall = [] if result["miou"] is None else [100 * result["miou"]]
    (near, low), (far, high) = points[0], points[-1]
    return Chart(
        "Mean IoU near boundaries",
        summary=f"{low:.1f} % within {near:g} px, {high:.1f} % within {far:g} px",
        x=linear_axis((width for width, _ in points), least_step=1, tight=True),
        y=linear_axis([score for _, score in points] + overall, "%"),
        x_name="distance to the nearest boundary, at most (px)",
        line=points,
        tips=few_tips([f"{width:g} px: {score:.1f} %" for width, score in points]),
        level=(overall[0], f"whole images {overall[0]:.1f} %") if overall else None,
    )


def image_histogram(result: dict[str, Any]) -> Chart | str:
    """A histogram: how many images have which mean IoU.

    Args:
      result: the content of ``eval.json``.
    """
    scores = [score for score in result["miou_per_image"].values() if score is not None]
    if not scores:
        return "No image was counted: no histogram of mean IoU by image."
    counts, edges = np.histogram(scores, 20, (0, 1))
    ends = (100 * edges).tolist()
    columns = []
    for count, low, high in zip(counts.tolist(), ends[:-1], ends[1:], strict=True):
        columns.append((low, high, count, f"{low:.0f}–{high:.0f} %: {count:,} image{'' if count == 1 else 's'}"))
    middle = statistics.median(scores)
    left_out = len(result["miou_per_image"]) - len(scores)
    note = f"Dashed: the median, {percent(middle)}. "
    return Chart(
        "Images by their mean IoU",
        summary=f"median {percent(middle)}",
        x=linear_axis((0, 100), "%"),
        y=linear_axis((0, int(counts.max())), least_step=1),
        x_name="mean IoU of the image",
        columns=columns,
        middle=100 * middle,
        note=note + f"Left out: {left_out:,} without a counted pixel." * bool(left_out),
    )


def reliability_chart(result: dict[str, Any]) -> Chart | str:
    """A reliability diagram: how often predictions of some confidence are right (Guo et al., ICML 2017).

    Args:
      result: the content of ``eval.json``.
    """
    calibration = result["calibration"]
    bins = [b for b in calibration["bins"] if b["count"]]
    if not bins:
        return "No pixel was counted: no curve of how reliable the confidence is."
    points = [(100 * b["confidence"], 100 * b["accuracy"]) for b in bins]
    tips = [f"confidence {x:.1f} %: {y:.1f} % right" for x, y in points]
    return Chart(
        "Reliability",
        summary=f"expected calibration error {percent(calibration['ece'])}",
        x=linear_axis((0, 100), "%"),
        y=linear_axis((0, 100), "%"),
        x_name="confidence, the probability of the predicted class",
        line=points,
        tips=tips,
        has_diagonal=True,
        note=f"How many pixels of a confidence are right. Dashed: as many as it says. Expected calibration error, the "
        f"mean distance over all pixels: {percent(calibration['ece'])}.",
    )


def confidence_histogram(result: dict[str, Any]) -> Chart | str:
    """A histogram: which share of the pixels has which confidence.

    Args:
      result: the content of ``eval.json``.
    """
    counts = np.array([b["count"] for b in result["calibration"]["bins"]])
    if not counts.any():
        return "No pixel was counted: no histogram of the confidence."
    shares, edges = 100 * counts / counts.sum(), np.linspace(0, 100, len(counts) + 1).tolist()
    columns = [
        (low, high, share, f"{low:.0f}–{high:.0f} %: {percent(share / 100)} of the pixels")
        for low, high, share in zip(edges[:-1], edges[1:], shares.tolist(), strict=True)
    ]
    return Chart(
        "Pixels by their confidence",
        summary=f"{percent(shares[-1] / 100)} from {edges[-2]:.0f} to 100 %",
        x=linear_axis((0, 100), "%"),
        y=linear_axis((0, float(shares.max())), "%"),
        x_name="confidence, the probability of the predicted class",
        columns=columns,
    )
