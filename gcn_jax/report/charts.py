"""The report's charts: data with axes, and where each value lies in the drawing; `templates/chart.html` draws them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_MOST_POINTS = 600  # of a curve
_MOST_DOTS = 40  # of a line whose points tell their values


@dataclass(frozen=True)
class Plot:
    """A drawing's size and the sides of its plot area, in units of the drawing."""

    width: int = 360
    height: int = 220
    left: int = 44
    right: int = 342
    top: int = 10
    bottom: int = 184


PLOT = Plot()


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


@dataclass(frozen=True)
class Chart:
    """A chart: a line, columns, or both, in data units.

    Attributes:
      title: above it.
      summary: what it shows, for readers who cannot see it.
      x, y: its axes.
      x_name: below the x axis.
      line: its points (x, y).
      tips: a text of each point of the line, which is a dot then; or none.
      columns: (start, end, height, tip) of each.
      level: a dashed line across, as (y, text).
      middle: x of a dashed line from bottom to top.
      has_diagonal: whether a dashed line goes from the lower left to the upper right.
      note: a sentence below it.
    """

    title: str
    summary: str
    x: Axis
    y: Axis
    x_name: str
    line: Sequence[tuple[float, float]] = ()
    tips: Sequence[str] = ()
    columns: Sequence[tuple[float, float, float, str]] = ()
    level: tuple[float, str] | None = None
    middle: float | None = None
    has_diagonal: bool = False
    note: str = ""

    def at_x(self, value: float) -> float:
        """Where a value of the x axis lies in the drawing."""
        return self.x.at(value, PLOT.left, PLOT.right)

    def at_y(self, value: float) -> float:
        """Where a value of the y axis lies in the drawing."""
        return self.y.at(value, PLOT.bottom, PLOT.top)


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


def few_tips(tips: Sequence[str]) -> Sequence[str]:
    """The texts of a line's points, if they are few enough to be dots; otherwise none."""
    return tips if len(tips) <= _MOST_DOTS else ()


def thin_out(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` points, in order: the lowest and the highest of each stretch, so that no peak is lost."""
    if len(points) <= _MOST_POINTS:
        return points
    length = math.ceil(2 * len(points) / _MOST_POINTS)
    stretches = [points[i : i + length] for i in range(0, len(points), length)]
    return [p for s in stretches for p in sorted({min(s, key=lambda p: p[1]), max(s, key=lambda p: p[1])})]
