"""The page ``report.html``: an evaluation's scores, charts and example pictures in one file without scripts.

Nothing is loaded from elsewhere: charts are inline SVG, pictures are ``data:`` URIs, colours follow the reader's
light or dark scheme.
"""

import math
import statistics
from html import escape
from typing import Any

import numpy as np

from gcn_jax.data.specs import DatasetSpec
from gcn_jax.evaluation.counts import SCORES
from gcn_jax.report.charts import BOTTOM, LEFT, RIGHT, TOP, chart, line, linear_axis, log_axis, thinned
from gcn_jax.report.examples import Example, example, legend
from gcn_jax.report.html import STYLE, missing, percent, swatch
from gcn_jax.report.receptive_field import Field, receptive_field

_MOST_CELLS = 4000  # of a confusion matrix, so that it stays below 1 MB: all cells of up to 63 classes


def render(
    title: str,
    result: dict[str, Any],
    spec: DatasetSpec,
    records: list[dict[str, Any]],
    examples: list[Example],
    runs: dict[str, dict[str, Any]],
    field: Field | None = None,
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
    """
    sections = {
        "Scores": _scores(result),
        "Comparison": _comparison(runs, title) if len(runs) > 1 else "",
        "Training": _training(records),
        "Classes": _classes(result, spec),
        "Confusions": _confusions(np.array(result["confusion_matrix"], np.int64), spec.class_names),
        "Boundaries and images": f'<div class="charts">{_trimap(result)}{_histogram(result)}</div>',
        "Receptive field": receptive_field(field) if field else "",
        "Examples": "".join(example(e, spec) for e in examples) or missing("No pictures were kept."),
        "Colours": legend(result, spec, examples),
    }
    shown = {heading: (heading.split()[0].lower(), body) for heading, body in sections.items() if body}
    links = "".join(f'<a href="#{name}">{heading}</a>' for heading, (name, _) in shown.items())
    bodies = "".join(f'<section id="{n}"><h2>{heading}</h2>{body}</section>' for heading, (n, body) in shown.items())
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} – evaluation</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><p>{_conditions(result)}</p><nav>{links}</nav></header>"
        f"<main>{bodies}</main></body></html>\n"
    )


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _conditions(result: dict[str, Any]) -> str:
    """What was evaluated, in words."""
    protocol, count = result["protocol"], result["num_images"]
    window, scales = protocol["window"], ", ".join(f"{scale:g}" for scale in protocol["scales"])
    words = "original size" if scales == "1" else f"mean of scales {scales}"
    words += ", with mirrored copies" if protocol["flip"] else ""
    words += f", windows of {window} px every {protocol['stride']} px" if window else ", whole images"
    words += f", CRF {escape(protocol['crf'])}" if protocol.get("crf") else ""
    images = f"{count:,} image{'' if count == 1 else 's'} of {escape(result['data'])}"
    return f"{images} · step {result['step']:,} · {words}"


def _scores(result: dict[str, Any]) -> str:
    width = result["boundary_width"]
    notes = {
        "miou": "mean over classes of intersection / union",
        "pixel_accuracy": "of all pixels",
        "mean_accuracy": "mean over classes",
        "frequency_weighted_iou": "classes weighted by their pixels",
        "boundary_accuracy": f"of pixels ≤ {width} px from an object's boundary",
        "internal_accuracy": "of all other pixels",
        "boundary_iou": "mean IoU of the rims of the classes' regions",
    }
    tiles = [
        f"<div><dt>{_capital(SCORES[key])}</dt><dd>{percent(result[key], 2)}</dd><dd>{note}</dd></div>"
        for key, note in notes.items()
    ]
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _comparison(runs: dict[str, dict[str, Any]], title: str) -> str:
    """A table of runs by scores, the best of a column in bold."""
    best = {key: max((run[key] for run in runs.values() if run[key] is not None), default=None) for key in SCORES}
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Run", "Step", *map(_capital, SCORES.values())))
    rows = []
    for name, run in runs.items():
        texts = {key: percent(run[key], 2) for key in SCORES}
        cells = (f"<b>{t}</b>" if run[k] is not None and run[k] == best[k] else t for k, t in texts.items())
        numbers = "".join(f"<td>{text}</td>" for text in (f"{run['step']:,}", *cells))
        current = ' aria-current="true"' if name == title else ""
        rows.append(f'<tr{current}><th scope="row">{escape(name)}</th>{numbers}</tr>')
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="box" tabindex="0" role="region" aria-label="Comparison of runs">{table}</div>'


def _training(records: list[dict[str, Any]]) -> str:
    curves = (
        _curve("Loss", "loss", records, "No loss was logged: no curve of the loss."),
        _curve("Learning rate", "learning_rate", records, "No learning rate was logged: no curve of it."),
        _curve("Mean IoU", "miou", records, "No evaluation during training yet: no curve of mean IoU.", "%"),
    )
    return f'<div class="charts">{"".join(curves)}</div>'


def _curve(title: str, key: str, records: list[dict[str, Any]], otherwise: str, unit: str = "") -> str:
    """A chart of a logged value by step, of its finite values; a sentence if there are none."""
    factor = 100 if unit else 1
    logged = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    points = thinned([(step, factor * value) for step, value in logged if math.isfinite(value)])
    if not points:
        return missing(otherwise)
    values = [value for _, value in points]
    x = linear_axis((step for step, _ in points), least_step=1, tight=True)
    is_wide = key == "loss" and min(values) > 0 and max(values) > 100 * min(values)
    y = log_axis(values) if is_wide else linear_axis(values, unit)
    (first, start), (last, end) = points[0], points[-1]
    summary = f"{start:.3g}{unit} at step {first:,}, {end:.3g}{unit} at step {last:,}"
    skipped = len(logged) - sum(math.isfinite(value) for _, value in logged)
    note = "Logarithmic scale. " * is_wide + f"Left out: {skipped:,} not finite." * bool(skipped)
    return chart(title, summary, x, y, "step", line(points, x, y, "step"), note)


def _classes(result: dict[str, Any], spec: DatasetSpec) -> str:
    """Bars of each class's IoU and Boundary IoU, the best first."""
    ious, rims, accuracies = (result[f"{key}_per_class"] for key in ("iou", "boundary_iou", "accuracy"))
    colors = {c.name: c.color for c in spec.classes}
    rows = []
    for name in sorted(ious, key=lambda name: -1.0 if ious[name] is None else ious[name], reverse=True):
        iou, rim = ious[name], rims[name]
        head = f'{swatch(colors[name])}<span class="name">{escape(name)}</span>'
        if iou is None:
            rows.append(f'<li class="absent">{head}<span class="none">not in this data</span></li>')
            continue
        rows.append(
            f'<li title="accuracy {percent(accuracies[name])}">{head}<span class="bars">'
            f'<i style="width:{100 * iou:.1f}%"></i><i style="width:{100 * (rim or 0):.1f}%"></i></span>'
            f'<span class="number">{percent(iou)}</span><span class="number rim">{percent(rim)}</span></li>'
        )
    keys = '<p class="key"><i></i> IoU<i></i> Boundary IoU</p>'
    return f'{keys}<ul class="classes">{"".join(rows)}</ul>'


def _confusions(counts: np.ndarray, names: list[str]) -> str:
    """A heat map of int64 [C, C] pixel counts, each row as parts of its sum; rows are truth, columns prediction."""
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = 26 if len(names) <= 30 else 13
    order = np.argsort(-shares, axis=None, kind="stable")[:_MOST_CELLS]
    cells = [_cell(*divmod(int(i), len(names)), shares, counts, names, side) for i in order]
    short = [escape(_shortened(name, 18)) for name in names]
    size, margin = side * len(names), 14 + round(6.6 * max(len(_shortened(name, 18)) for name in names))
    middles = [side * i + side / 2 for i in range(len(names))]
    rows = "".join(f'<text x="{margin - 6}" y="{m}" dy=".35em">{n}</text>' for m, n in zip(middles, short, strict=True))
    columns = "".join(
        f'<text transform="translate({m} {margin - 6})rotate(-90)" dy=".35em">{name}</text>'
        for m, name in zip(middles, short, strict=True)
    )
    label = f"Confusion matrix of {len(names)} classes, rows truth, columns prediction"
    blank = "" if len(order) == counts.size else f" Blank: less than {percent(shares.flat[order[-1]], 2)}."
    return (
        f"<p>Each row: where the pixels of a true class went. Blue is right, red is wrong.{blank}</p>"
        f"<p>{_worst_confusions(shares, names)}</p>"
        f'<div class="box heat" tabindex="0" role="region" aria-label="{label}"><div>'
        f'<span class="corner">truth ↓<br>prediction →</span>'
        f'<svg class="columns" width="{size}" height="{margin}" aria-hidden="true">{columns}</svg>'
        f'<svg class="rows" width="{margin}" height="{size}" aria-hidden="true">{rows}</svg>'
        f'<svg class="cells" width="{size}" height="{size}" role="img" aria-label="{label}">{"".join(cells)}</svg>'
        "</div></div>"
    )


def _cell(truth: int, found: int, shares: np.ndarray, counts: np.ndarray, names: list[str], side: int) -> str:
    share, x, y = float(shares[truth, found]), side * found, side * truth
    strength = f"{max(math.sqrt(share), 0.05):.2f}" if share else "0"  # by the root: rare mistakes show, too
    tip = f"truth {_shortened(names[truth], 40)} -> predicted {_shortened(names[found], 40)}"
    tip = f"{tip}: {percent(share)} ({int(counts[truth, found]):,} px)"
    number = f'<text x="{x + side / 2:g}" y="{y + side / 2:g}" dy=".35em">{100 * share:.0f}</text>'
    return (
        f'<rect class="{"right" if truth == found else ""}" x="{x}" y="{y}" width="{side}" height="{side}" '
        f'opacity="{strength}"><title>{escape(tip)}</title></rect>{number if side > 20 and share >= 0.005 else ""}'
    )


def _worst_confusions(shares: np.ndarray, names: list[str]) -> str:
    """The largest shares beside the diagonal of [C, C], in words."""
    wrong = np.where(np.eye(len(names), dtype=bool), 0.0, shares)
    pairs = [divmod(int(i), len(names)) for i in np.argsort(-wrong, axis=None, kind="stable")[:6]]
    words = [f"{escape(names[i])} for {escape(names[j])} ({percent(wrong[i, j])})" for i, j in pairs if wrong[i, j]]
    return f"Most often taken: {', '.join(words)}." if words else "No class was taken for another."


def _trimap(result: dict[str, Any]) -> str:
    """A chart of the mean IoU of the pixels near boundaries, by how near."""
    scores = {int(width): score for width, score in result["trimap_miou"].items()}
    points = sorted((float(width), 100 * score) for width, score in scores.items() if score is not None)
    if not points:
        return missing("No pixel near a boundary was counted: no curve of mean IoU near boundaries.")
    overall = [] if result["miou"] is None else [100 * result["miou"]]
    x = linear_axis((width for width, _ in points), least_step=1, tight=True)
    y = linear_axis([score for _, score in points] + overall, "%")
    marks = line(points, x, y, "px")
    for value in overall:
        at = y.at(value, BOTTOM, TOP)
        marks += f'<path class="dashed" d="M{LEFT} {at}H{RIGHT}"/>'
        marks += f'<text x="{RIGHT}" y="{at - 5}" text-anchor="end">whole images {value:.1f} %</text>'
    (near, low), (far, high) = points[0], points[-1]
    summary = f"{low:.1f} % within {near:g} px, {high:.1f} % within {far:g} px"
    x_name = "distance to the nearest boundary, at most (px)"
    return chart("Mean IoU near boundaries", summary, x, y, x_name, marks)


def _histogram(result: dict[str, Any]) -> str:
    """A chart of how many images have which mean IoU."""
    scores = [score for score in result["miou_per_image"].values() if score is not None]
    if not scores:
        return missing("No image was counted: no histogram of mean IoU by image.")
    counts, edges = np.histogram(scores, 20, (0, 1))
    x = linear_axis((0, 100), "%")
    y = linear_axis((0, int(counts.max())), least_step=1)
    marks = ""
    for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        left, right, top = x.at(100 * low, LEFT, RIGHT), x.at(100 * high, LEFT, RIGHT), y.at(count, BOTTOM, TOP)
        tip = f"<title>{100 * low:.0f}–{100 * high:.0f} %: {count:,} image{'' if count == 1 else 's'}</title>"
        marks += f'<path class="column" d="M{left + 0.7:.1f} {BOTTOM}V{top}H{right - 0.7:.1f}V{BOTTOM}z">{tip}</path>'
    middle = statistics.median(scores)
    at = x.at(100 * middle, LEFT, RIGHT)
    marks += f'<path class="dashed" d="M{at} {BOTTOM}V{TOP}"/>'
    note = f"Dashed: the median, {percent(middle)}. "
    left_out = len(result["miou_per_image"]) - len(scores)
    note += f"Left out: {left_out:,} without a counted pixel." * bool(left_out)
    return chart("Images by their mean IoU", f"median {percent(middle)}", x, y, "mean IoU of the image", marks, note)
