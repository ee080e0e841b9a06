"""The page ``report.html``: an evaluation's scores, charts and example pictures in one file without scripts.

Nothing is loaded from elsewhere: charts are inline SVG, pictures are ``data:`` URIs, colours follow the reader's
light or dark scheme.
"""

import base64
import io
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from gcn_jax.charts import BOTTOM, LEFT, RIGHT, TOP, chart, line, linear_axis, log_axis, thinned
from gcn_jax.data.images import encode_label
from gcn_jax.data.specs import VOID, DatasetSpec
from gcn_jax.metrics import SCORES

_MOST_CELLS = 4000  # of a confusion matrix, so that it stays below 1 MB: all cells of up to 63 classes
_LARGEST_SIDE = 480  # pixels of an example's pictures
_VOID_GREY = (200, 200, 200)
_WRONG_RED = (214, 32, 40)


@dataclass(frozen=True)
class Example:
    """An evaluated image to show."""

    image_id: str
    rank: str  # "best", "median" or "worst"
    miou: float  # of this image, 0..1
    image: np.ndarray  # uint8 [H, W, 3]
    label: np.ndarray  # uint8 [H, W]; 255 void
    prediction: np.ndarray  # uint8 [H, W]


def render(
    title: str,
    result: dict[str, Any],
    spec: DatasetSpec,
    records: list[dict[str, Any]],
    examples: list[Example],
    runs: dict[str, dict[str, Any]],
) -> str:
    """The page, as HTML text.

    Args:
      title: the run's name.
      result: the content of ``eval.json``.
      spec: for the classes' names and colours.
      records: the lines of ``metrics.jsonl``; may be empty.
      examples: to show, in order.
      runs: the results of all runs that were evaluated together, by name; compared if there are several.
    """
    sections = {
        "Scores": _scores(result),
        "Comparison": _comparison(runs, title) if len(runs) > 1 else "",
        "Training": _training(records),
        "Classes": _classes(result, spec),
        "Confusions": _confusions(np.array(result["confusion_matrix"], np.int64), spec.class_names),
        "Boundaries and images": f'<div class="charts">{_trimap(result)}{_histogram(result)}</div>',
        "Examples": "".join(_example(e, spec) for e in examples) or _missing("No pictures were kept."),
        "Colours": _legend(result, spec, examples),
    }
    shown = {heading: (heading.split()[0].lower(), body) for heading, body in sections.items() if body}
    links = "".join(f'<a href="#{name}">{heading}</a>' for heading, (name, _) in shown.items())
    bodies = "".join(f'<section id="{n}"><h2>{heading}</h2>{body}</section>' for heading, (n, body) in shown.items())
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} – evaluation</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><p>{_conditions(result)}</p><nav>{links}</nav></header>"
        f"<main>{bodies}</main></body></html>\n"
    )


def _percent(value: float | None, digits: int = 1) -> str:
    """A fraction as "72.1 %"; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


def _missing(sentence: str) -> str:
    return f'<p class="missing">{sentence}</p>'


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _conditions(result: dict[str, Any]) -> str:
    """What was evaluated, in words."""
    protocol, count = result["protocol"], result["num_images"]
    window, scales = protocol["window"], ", ".join(f"{scale:g}" for scale in protocol["scales"])
    words = "original size" if scales == "1" else f"mean of scales {scales}"
    words += ", with mirrored copies" if protocol["flip"] else ""
    words += f", windows of {window} px every {protocol['stride']} px" if window else ", whole images"
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
        f"<div><dt>{_capital(SCORES[key])}</dt><dd>{_percent(result[key], 2)}</dd><dd>{note}</dd></div>"
        for key, note in notes.items()
    ]
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _comparison(runs: dict[str, dict[str, Any]], title: str) -> str:
    """A table of runs by scores, the best of a column in bold."""
    best = {key: max((run[key] for run in runs.values() if run[key] is not None), default=None) for key in SCORES}
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Run", "Step", *map(_capital, SCORES.values())))
    rows = []
    for name, run in runs.items():
        texts = {key: _percent(run[key], 2) for key in SCORES}
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
        return _missing(otherwise)
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
        head = f'{_swatch(colors[name])}<span class="name">{escape(name)}</span>'
        if iou is None:
            rows.append(f'<li class="absent">{head}<span class="none">not in this data</span></li>')
            continue
        rows.append(
            f'<li title="accuracy {_percent(accuracies[name])}">{head}<span class="bars">'
            f'<i style="width:{100 * iou:.1f}%"></i><i style="width:{100 * (rim or 0):.1f}%"></i></span>'
            f'<span class="number">{_percent(iou)}</span><span class="number rim">{_percent(rim)}</span></li>'
        )
    keys = '<p class="key"><i></i> IoU<i></i> Boundary IoU</p>'
    return f'{keys}<ul class="classes">{"".join(rows)}</ul>'


def _swatch(color: Iterable[int]) -> str:
    return f'<i class="swatch" style="background:rgb({",".join(str(part) for part in color)})"></i>'


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
    blank = "" if len(order) == counts.size else f" Blank: less than {_percent(shares.flat[order[-1]], 2)}."
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
    tip = f"{tip}: {_percent(share)} ({int(counts[truth, found]):,} px)"
    number = f'<text x="{x + side / 2:g}" y="{y + side / 2:g}" dy=".35em">{100 * share:.0f}</text>'
    return (
        f'<rect class="{"right" if truth == found else ""}" x="{x}" y="{y}" width="{side}" height="{side}" '
        f'opacity="{strength}"><title>{escape(tip)}</title></rect>{number if side > 20 and share >= 0.005 else ""}'
    )


def _worst_confusions(shares: np.ndarray, names: list[str]) -> str:
    """The largest shares beside the diagonal of [C, C], in words."""
    wrong = np.where(np.eye(len(names), dtype=bool), 0.0, shares)
    pairs = [divmod(int(i), len(names)) for i in np.argsort(-wrong, axis=None, kind="stable")[:6]]
    words = [f"{escape(names[i])} for {escape(names[j])} ({_percent(wrong[i, j])})" for i, j in pairs if wrong[i, j]]
    return f"Most often taken: {', '.join(words)}." if words else "No class was taken for another."


def _trimap(result: dict[str, Any]) -> str:
    """A chart of the mean IoU of the pixels near boundaries, by how near."""
    scores = {int(width): score for width, score in result["trimap_miou"].items()}
    points = sorted((float(width), 100 * score) for width, score in scores.items() if score is not None)
    if not points:
        return _missing("No pixel near a boundary was counted: no curve of mean IoU near boundaries.")
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
        return _missing("No image was counted: no histogram of mean IoU by image.")
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
    note = f"Dashed: the median, {_percent(middle)}. "
    left_out = len(result["miou_per_image"]) - len(scores)
    note += f"Left out: {left_out:,} without a counted pixel." * bool(left_out)
    return chart("Images by their mean IoU", f"median {_percent(middle)}", x, y, "mean IoU of the image", marks, note)


def _example(example: Example, spec: DatasetSpec) -> str:
    """Image, truth, prediction and errors, side by side."""
    palette = spec.palette()
    palette[VOID] = _VOID_GREY
    height, width = example.label.shape
    factor = min(1.0, _LARGEST_SIDE / max(height, width))
    size = max(1, round(factor * width)), max(1, round(factor * height))
    photo = Image.fromarray(example.image).resize(size, Image.Resampling.LANCZOS)
    label, prediction = (
        np.asarray(Image.fromarray(map_).resize(size, Image.Resampling.NEAREST))
        for map_ in (example.label, example.prediction)
    )
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=85)
    name = escape(example.image_id)
    pictures = {
        "image": _data_uri("jpeg", buffer.getvalue()),
        "truth": _data_uri("png", encode_label(label, palette)),
        "prediction": _data_uri("png", encode_label(np.where(label == VOID, label, prediction), palette)),
        "errors": _data_uri("png", _errors(np.asarray(photo.convert("L")), label, prediction)),
    }
    figures = "".join(
        f'<figure><img src="{uri}" width="{size[0]}" height="{size[1]}" loading="lazy" alt="{what} of {name}">'
        f"<figcaption>{what}</figcaption></figure>"
        for what, uri in pictures.items()
    )
    heading = f"<h3><b>{escape(example.rank)}</b> {name} <span>mean IoU {_percent(example.miou)}</span></h3>"
    return f'<article class="example">{heading}<div class="pictures">{figures}</div></article>'


def _errors(grey: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> bytes:
    """A PNG of an example's mistakes: red over a faint photo, void flat grey; all uint8 [H, W]."""
    red = 254
    palette = np.repeat(np.linspace(120, 250, 256).astype(np.uint8)[:, None], 3, axis=1)
    palette[red], palette[VOID] = _WRONG_RED, _VOID_GREY
    shade = grey // 8 * 8  # few greys make small files
    picture = np.where(label == VOID, VOID, np.where(label == prediction, shade, red))
    return encode_label(picture.astype(np.uint8), palette)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _legend(result: dict[str, Any], spec: DatasetSpec, examples: list[Example]) -> str:
    """The colours of the classes that have a score or occur in the examples, and of void."""
    shown = {int(v) for e in examples for v in np.union1d(e.label, e.prediction)}
    entries = [
        f"<li>{_swatch(c.color)}{escape(c.name)}</li>"
        for i, c in enumerate(spec.classes)
        if i in shown or result["iou_per_class"][c.name] is not None
    ]
    entries.append(f"<li>{_swatch(_VOID_GREY)}void, not counted</li><li>{_swatch(_WRONG_RED)}wrong, in errors</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


_STYLE = """
:root { --page: #fff; --card: #f5f6f8; --text: #1b2330; --muted: #5a6575; --line: #d9dee6; --accent: #2b6cb8;
  --second: #b4631a; --right: #86b3ec; --wrong: #f09a88; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --text: #e5e9ef; --muted: #9ba7b6;
  --line: #333c49; --accent: #6aa6ee; --second: #dd9b4e; --right: #2a5c9c; --wrong: #a03d2c; } }
* { box-sizing: border-box; margin: 0; padding: 0; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { max-width: 1120px; margin: auto; padding: 32px 20px 64px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 48px 0 12px; }
h3 { font-size: 15px; font-weight: 400; margin: 24px 0 8px; }
h3 span { white-space: nowrap; }
h3 b { text-transform: capitalize; margin-right: 6px; }
header p, h3 span, figcaption, .chart p, section > p { color: var(--muted); font-size: 14px; }
section > p { margin-bottom: 8px; max-width: 75ch; }
nav { display: flex; flex-wrap: wrap; gap: 2px 16px; margin-top: 10px; font-size: 14px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.missing { padding: 16px; border: 1px dashed var(--line); border-radius: 8px; color: var(--muted); font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(5, 1fr); gap: 10px; }
.tiles div { background: var(--card); border-radius: 8px; padding: 14px 16px; }
.tiles div:first-child { grid-row: span 2; grid-column: span 2; padding: 20px 24px; align-content: center; }
.tiles dt { font-size: 14px; font-weight: 600; }
.tiles dd { font-size: 22px; line-height: 1.4; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles dd + dd { font-size: 12.5px; color: var(--muted); white-space: normal; }
.tiles div:first-child dt { font-size: 17px; }
.tiles div:first-child dd:nth-child(2) { font-size: 56px; font-weight: 600; letter-spacing: -.02em; line-height: 1.3; }
.box { width: fit-content; max-width: 100%; max-height: 90vh; overflow: auto; border: 1px solid var(--line);
  border-radius: 8px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 14px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; }
th:first-child { position: sticky; left: 0; background: var(--page); }
tbody th { font-weight: 400; white-space: normal; min-width: 7em; max-width: 24em; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--muted); font-weight: 600; white-space: normal; vertical-align: bottom; overflow-wrap: normal; }
tr[aria-current] > *, tr[aria-current] th { background: var(--card); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr)); gap: 24px; }
.charts .missing { align-self: start; }
.chart { container-type: inline-size; }
.chart figcaption { color: var(--text); font-weight: 600; }
svg { display: block; }
svg text { fill: currentColor; font-size: 11px; }
.chart svg { width: 100%; color: var(--muted); }
@container (min-width: 440px) { .chart svg text { font-size: 8.5px; } }
.grid { stroke: var(--line); }
.axis { stroke: var(--muted); }
.line { fill: none; stroke: var(--accent); stroke-width: 1.6; stroke-linejoin: round; }
circle, .column { fill: var(--accent); }
.dashed { fill: none; stroke: var(--second); stroke-width: 1.4; stroke-dasharray: 5 4; }
.key { display: flex; align-items: center; gap: 6px; }
.key i { width: 22px; height: 8px; background: var(--accent); border-radius: 2px; }
.key i + i { height: 4px; background: var(--second); margin-left: 12px; }
.classes { list-style: none; columns: 2 420px; column-gap: 40px; }
.classes li { display: flex; align-items: center; gap: 8px; padding: 3px 0; break-inside: avoid; font-size: 14px; }
.name { flex: 0 1 132px; line-height: 1.25; min-width: 0; }
.bars { flex: 1 1 80px; border-left: 1px solid var(--line); }
.bars i { display: block; height: 8px; border-radius: 0 2px 2px 0; background: var(--accent); }
.bars i + i { height: 4px; margin-top: 2px; background: var(--second); }
.number { flex: 0 0 54px; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.rim, .none { color: var(--muted); }
.swatch { flex: none; display: inline-block; width: 14px; height: 14px; border-radius: 3px;
  border: 1px solid var(--muted); }
.heat > div { display: grid; grid-template-columns: max-content max-content; width: max-content; }
.heat svg, .corner { background: var(--page); }
.corner { position: sticky; left: 0; top: 0; z-index: 2; padding: 8px; font-size: 12px; color: var(--muted); width: 0;
  min-width: 100%; align-content: end; white-space: nowrap; }
.columns { position: sticky; top: 0; z-index: 1; }
.rows { position: sticky; left: 0; z-index: 1; }
.rows text { text-anchor: end; }
.cells { border: solid var(--line); border-width: 1px 0 0 1px; box-sizing: content-box; }
.cells rect { fill: var(--wrong); }
.cells .right { fill: var(--right); }
.cells rect:hover { stroke: var(--text); opacity: 1; }
.cells text { text-anchor: middle; font-size: 10px; pointer-events: none; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(46%, 240px), 1fr)); gap: 10px; }
.pictures img { display: block; width: 100%; height: auto; border-radius: 4px; image-rendering: pixelated; }
.pictures figure:first-child img { image-rendering: auto; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 6px 18px; font-size: 14px; }
.legend li { display: flex; align-items: center; gap: 6px; }
@media (max-width: 760px) {
  body { padding: 20px 16px 48px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles div:first-child { grid-row: auto; }
  .name { flex-basis: 30%; }
  tbody th { max-width: 38vw; }
}
"""
