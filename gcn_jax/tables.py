"""Tables as lines of text, for a terminal."""

import unicodedata
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lays out a table as lines of text: the first column to the left, all others, which hold numbers, to the right."""
    widths = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    blanks = [[" " * (w - width(cell)) for cell, w in zip(row, widths, strict=True)] for row in rows]
    return [
        "  ".join([row[0] + blank[0], *(b + cell for cell, b in zip(row[1:], blank[1:], strict=True))])
        for row, blank in zip(rows, blanks, strict=True)
    ]


def width(text: str) -> int:
    """How many columns of a terminal a text takes: two for a Chinese letter, none for a mark that is set on another."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.category(letter) in ("Mn", "Me", "Cf") for letter in text)


def table(*blocks: Sequence[Sequence[str]]) -> str:
    """A table as text, with a rule of dashes between its blocks of rows; the first block is the head."""
    lines = aligned([row for block in blocks for row in block])
    rule = "-" * max(map(width, lines))
    text: list[str] = []
    for block in blocks:
        text += [rule] if text else []
        text += lines[: len(block)]
        lines = lines[len(block) :]
    return "\n".join(text)
