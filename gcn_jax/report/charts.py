"""Charts as inline SVG, for the report: axes, lines and what surrounds them. Colours are the page's."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

_MOST_POINTS = 600  # of a curve
_WIDTH, _HEIGHT = 360, 220  # of a chart, in units of its drawing
LEFT, RIGHT, TOP, BOTTOM = 44, 342, 10, 184  # its plot area


@dataclass(frozen=True)
class Axis:
    """An axis of a chart: its ends, in data units, and its ticks, values with texts."""

    low: float
    high: float
    ticks: dict[float, str]
    is_log: bool = False

    def at(self, value: float, start: float, end: float) -> float:
        """Where a value lies between two coordinates."""
        if self.is_log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return round(start + part * (end - start), 1)


def linear_axis(values: Iterable[float], unit: str = "", least_step: float = 0.0, tight: bool = False) -> Axis:
    """An axis with about five round steps; it ends at ticks or, if tight, at the values' ends."""
    low, high = min(values := list(values)), max(values)
    if high - low <= 1e-4 * max(abs(low), abs(high)):  # as good as equal
        low, high = low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1)
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = max(least_step, next(m * power for m in (1, 2, 5, 10) if m * power >= (high - low) / 5.001))
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = {i * step: _tick(i * step, unit) for i in range(first, last + 1)}
    if not tight:
        return Axis(first * step, last * step, ticks)
    return Axis(low, high, {value: text for value, text in ticks.items() if low <= value <= high})


def log_axis(values: Iterable[float]) -> Axis:
    """An axis from one power of ten to another."""
    low, high = math.floor(math.log10(min(values := list(values)))), math.ceil(math.log10(max(values)))
    stride = math.ceil((high - low) / 6)
    return Axis(10.0**low, 10.0**high, {10.0**i: f"{10.0**i:g}" for i in range(low, high + 1, stride)}, is_log=True)


def _tick(value: float, unit: str) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{letter}{unit}"
    return f"{value:.6g}{unit}"


def chart(title: str, summary: str, x: Axis, y: Axis, x_name: str, marks: str, note: str = "") -> str:
    """A chart with its axes; `marks` is the SVG of what it shows, `summary` says it to those who cannot see it."""
    parts = []
    for value, text in y.ticks.items():
        at = y.at(value, BOTTOM, TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {at}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at}" dy=".35em" text-anchor="end">{text}</text>')
    for value, text in x.ticks.items():
        at = x.at(value, LEFT, RIGHT)
        parts.append(f'<path class="axis" d="M{at} {BOTTOM}v4"/>')
        parts.append(f'<text x="{at}" y="{BOTTOM + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>{marks}')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{x_name}</text>')
    label = escape(f"{title}: {summary}")
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    below = f"<p>{note}</p>" if note else ""
    return f'<figure class="chart"><figcaption>{title}</figcaption>{svg}{below}</figure>'


def line(points: list[tuple[float, float]], x: Axis, y: Axis, x_unit: str) -> str:
    """A line through (x, y) points; few of them are dots too, which tell their values."""
    places = [(x.at(a, LEFT, RIGHT), y.at(b, BOTTOM, TOP)) for a, b in points]
    line = f'<polyline class="line" points="{" ".join(f"{a},{b}" for a, b in places)}"/>'
    if len(points) > 40:
        return line
    texts = [f"{x_unit} {a:,g}: {b:.4g}" if x_unit == "step" else f"{a:g} {x_unit}: {b:.1f} %" for a, b in points]
    return line + "".join(
        f'<circle cx="{a}" cy="{b}" r="3"><title>{text}</title></circle>'
        for (a, b), text in zip(places, texts, strict=True)
    )


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` points, in order: the lowest and the highest of each stretch, so that no peak is lost."""
    if len(points) <= _MOST_POINTS:
        return points
    length = math.ceil(2 * len(points) / _MOST_POINTS)
    stretches = [points[i : i + length] for i in range(0, len(points), length)]
    return [p for s in stretches for p in sorted({min(s, key=lambda p: p[1]), max(s, key=lambda p: p[1])})]
