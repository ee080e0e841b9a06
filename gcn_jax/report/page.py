"""The page ``report.html``: an evaluation's scores, charts and example pictures in one file without scripts.

Nothing is loaded from elsewhere: charts are inline SVG, pictures are ``data:`` URIs, colours follow the reader's
light or dark scheme. This file and its neighbours prepare values; all markup is in ``templates/``, where Jinja2
escapes each value (class names, image ids and titles come from others, and may hold markup).
"""

from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

from gcn_jax.checkpoints.best import LOSS
from gcn_jax.data.specs import DatasetSpec
from gcn_jax.evaluation.score import scores_of, titled
from gcn_jax.report.charts import PLOT
from gcn_jax.report.confusions import confusion_map
from gcn_jax.report.curves import (
    boundary_chart,
    confidence_histogram,
    image_histogram,
    reliability_chart,
    training_charts,
)
from gcn_jax.report.examples import Example, draw_pictures, legend_entries
from gcn_jax.report.receptive_field import Field, field_picture
from gcn_jax.report.values import Row, Table, capitalized, percent

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("gcn_jax.report", package_path=""),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters["percent"] = percent
TEMPLATES.globals["plot"] = PLOT


@dataclass(frozen=True)
class Section:
    """A section of the page: its id, which is the name of its macro in ``sections.html``, and what the macro takes."""

    id: str
    heading: str
    values: Any


def render(
    title: str,
    result: dict[str, Any],
    spec: DatasetSpec,
    records: list[dict[str, Any]],
    examples: list[Example],
    runs: dict[str, dict[str, Any]],
    field: Field | None = None,
    best_by: str = "miou",
) -> str:
    """The page, as HTML text.

    Args:
      title: the run's name.
      result: the content of ``eval.json``.
      spec: for the classes' names and colours.
      records: the lines of ``metrics.jsonl``; may be empty.
      examples: to show, in order.
      runs: the results of all runs that were evaluated together, by name; compared if there are several.
      field: the run's receptive field, if it was drawn.
      best_by: the score by which the run's best step was chosen.
    """
    matrix = result.get("confusion_matrix")
    images = [image_histogram(result)]
    near = [boundary_chart(result), *images] if "trimap_miou" in result else None
    confidence = [reliability_chart(result), confidence_histogram(result)]
    sections = [
        Section("scores", "Scores", _scores(result)),
        Section("comparison", "Comparison", _comparison(runs, title) if len(runs) > 1 else None),
        Section("training", "Training", training_charts(records, best_by)),
        Section("classes", "Classes", _classes(result, spec)),
        Section("confusions", "Confusions", matrix and confusion_map(np.array(matrix, np.int64), spec.class_names)),
        Section("boundaries", "Boundaries and images", near),
        Section(
            "confidence", "Confidence" if near else "Confidence and images", [*confidence, *([] if near else images)]
        ),
        Section("receptive", "Receptive field", field_picture(field) if field else None),
        Section("examples", "Examples", [draw_pictures(e, spec) for e in examples]),
        Section("colours", "Colours", legend_entries(result, spec, examples)),
    ]
    shown = [section for section in sections if section.values is not None]
    page = TEMPLATES.get_template("templates/page.html")
    return page.render(title=title, conditions=_conditions(result), sections=shown)


def _conditions(result: dict[str, Any]) -> str:
    """What was evaluated, in words."""
    protocol, count = result["protocol"], result["num_images"]
    window, scales = protocol["window"], ", ".join(f"{scale:g}" for scale in protocol["scales"])
    words = "original size" if scales == "1" else f"mean of scales {scales}"
    words += ", with mirrored copies" if protocol["flip"] else ""
    words += f", windows of {window} px every {protocol['stride']} px" if window else ", whole images"
    words += f", CRF {protocol['crf']}" if protocol.get("crf") else ""
    words += f", temperature {protocol['temperature']:.3g}" if "temperature" in protocol else ""
    images = f"{count:,} image{'' if count == 1 else 's'} of {result['data']}"
    return f"{images} · step {result['step']:,} · {words}"


def _scores(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The name, value and meaning of each score."""
    notes = {
        "miou": "mean over classes of intersection / union",
        "pixel_accuracy": "of all pixels",
        "mean_accuracy": "mean over classes",
        "frequency_weighted_iou": "classes weighted by their pixels",
        "boundary_accuracy": f"of pixels ≤ {result.get('boundary_width')} px from an object's boundary",
        "internal_accuracy": "of all other pixels",
        "mean_f1": "mean over classes",
        "mean_precision": "how much of what is predicted is right",
        "mean_recall": "how much of what is there is predicted",
        "mean_average_precision": "precision over all thresholds, not 1/2 alone",
        "exact_match": "of pixels whose classes are all right",
        "boundary_iou": "mean IoU of the rims of the classes' regions",
    }
    tiles = [(capitalized(titled(key)), percent(result[key], 2), notes[key]) for key in notes if key in result]
    loss = "–" if result[LOSS] is None else f"{result[LOSS]:.4f}"
    what = "cross-entropy of all pixels" if "confusion_matrix" in result else "binary cross-entropy of all decisions"
    return [*tiles, ("Loss", loss, f"mean {what}, in nats")]


def _comparison(runs: dict[str, dict[str, Any]], title: str) -> Table:
    """A table of runs by scores, the best of a column marked."""
    names = scores_of(*runs.values())
    best = {key: max((run[key] for run in runs.values() if run[key] is not None), default=None) for key in names}
    rows = []
    for name, run in runs.items():
        cells = [f"{run['step']:,}", *(percent(run[key], 2) for key in names)]
        is_best = {i for i, key in enumerate(names, start=1) if run[key] is not None and run[key] == best[key]}
        rows.append(Row(name, cells, is_best, is_current=name == title))
    return Table("Comparison of runs", ["Run", "Step", *map(capitalized, names.values())], rows)


@dataclass(frozen=True)
class ClassScores:
    """A class of the data set and its scores, 0..1, others in words; IoU is None if it is not in this data."""

    name: str
    color: tuple[int, int, int]
    iou: float | None
    boundary_iou: float | None
    others: str


def _classes(result: dict[str, Any], spec: DatasetSpec) -> list[ClassScores]:
    """The classes' scores, the best IoU first."""
    ious, rims = result["iou_per_class"], result["boundary_iou_per_class"]
    keys = ("accuracy", "f1", "precision", "recall", "average_precision")
    others = {key.replace("_", " "): found for key in keys if (found := result.get(f"{key}_per_class"))}

    def words(name: str) -> str:
        return ", ".join(f"{key} {percent(scores[name])}" for key, scores in others.items())

    colors = {c.name: c.color for c in spec.classes}
    names = sorted(ious, key=lambda name: -1.0 if ious[name] is None else ious[name], reverse=True)
    return [ClassScores(name, colors[name], ious[name], rims[name], words(name)) for name in names]
