"""What the sections of a report share: percentages, names, pictures' addresses and tables."""

import base64
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as "72.1 %"; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def capitalized(name: str) -> str:
    """A name with a capital first letter, the others as they are: "Mean IoU"."""
    return name[0].upper() + name[1:]


def shortened(name: str, length: int) -> str:
    """A name, or its start and an ellipsis if it has more letters than `length`."""
    return name if len(name) <= length else name[: length - 1] + "…"


def isolated(name: str) -> str:
    """A name within a sentence, marked, if it is written to the left, so that the words around it stay in place."""
    is_leftward = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in name)
    return f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}" if is_leftward else name


def data_uri(kind: str, data: bytes) -> str:
    """An image file's content as the address of a picture; kind: "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      name: its first cell, a head.
      cells: the other cells.
      best: which of them, counted from 0, are the best of their columns: in bold.
      is_current: whether the row is about the run that the page is about.
    """

    name: str
    cells: Sequence[str]
    best: Collection[int] = ()
    is_current: bool = False


@dataclass(frozen=True)
class Table:
    """A table: a label for readers who cannot see it, the heads of its columns, its rows."""

    label: str
    head: Sequence[str]
    rows: Sequence[Row]
