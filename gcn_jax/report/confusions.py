"""The report's heat map of the confusion matrix: which class is taken for which."""

import math
from dataclasses import dataclass

import numpy as np

from gcn_jax.report.values import isolated, percent, shortened
from gcn_jax.tables import width

_MOST_CELLS = 4000  # so that the page stays below 1 MB: all cells of up to 63 classes


@dataclass(frozen=True)
class Cell:
    """A cell of the heat map: its place, how strong its colour is, its tip, and the number in it, if any."""

    truth: int
    found: int
    opacity: str
    tip: str
    number: str


@dataclass(frozen=True)
class Confusions:
    """The heat map and what is said about it.

    Attributes:
      label: for readers who cannot see it.
      worst: the classes that are most often taken for another, in words.
      names: of the classes, shortened.
      side: of a cell, pixels.
      margin: what the names need, pixels.
      cells: those that are drawn, the largest shares first.
      blank_below: the share below which cells are not drawn; empty if all are.
    """

    label: str
    worst: str
    names: list[str]
    side: int
    margin: int
    cells: list[Cell]
    blank_below: str


def confusion_map(counts: np.ndarray, names: list[str]) -> Confusions:
    """The heat map of int64 [C, C] pixel counts, each row as parts of its sum; rows are truth, columns prediction."""
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = 26 if len(names) <= 30 else 13
    order = np.argsort(-shares, axis=None, kind="stable")[:_MOST_CELLS]
    short = [shortened(name, 18) for name in names]
    return Confusions(
        label=f"Confusion matrix of {len(names)} classes, rows truth, columns prediction",
        worst=_worst(shares, names),
        names=short,
        side=side,
        margin=14 + round(6.6 * max(map(width, short))),
        cells=[_cell(*divmod(int(i), len(names)), shares, counts, names, has_number=side > 20) for i in order],
        blank_below="" if len(order) == counts.size else percent(shares.flat[order[-1]], 2),
    )


def _cell(truth: int, found: int, shares: np.ndarray, counts: np.ndarray, names: list[str], has_number: bool) -> Cell:
    share = float(shares[truth, found])
    tip = " -> predicted ".join(isolated(shortened(names[i], 40)) for i in (truth, found))
    return Cell(
        truth,
        found,
        opacity=f"{max(math.sqrt(share), 0.05):.2f}" if share else "0",  # the square root makes rare mistakes visible
        tip=f"truth {tip}: {percent(share)} ({int(counts[truth, found]):,} px)",
        number=f"{100 * share:.0f}" if has_number and share >= 0.005 else "",
    )


def _worst(shares: np.ndarray, names: list[str]) -> str:
    """The six largest shares off the diagonal of [C, C], in words."""
    wrong = np.where(np.eye(len(names), dtype=bool), 0.0, shares)
    pairs = [divmod(int(i), len(names)) for i in np.argsort(-wrong, axis=None, kind="stable")[:6]]
    words = [f"{isolated(names[i])} for {isolated(names[j])} ({percent(wrong[i, j])})" for i, j in pairs if wrong[i, j]]
    return f"Most often taken: {', '.join(words)}." if words else "No class was taken for another."
