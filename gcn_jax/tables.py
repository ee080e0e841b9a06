"""Tables as lines of text, for a terminal."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lays out a table as lines of text: the first column to the left, all others, which hold numbers, to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def table(*blocks: Sequence[Sequence[str]]) -> str:
    """A table as text, with a rule of dashes between its blocks of rows; the first block is the head."""
    lines = aligned([row for block in blocks for row in block])
    rule = "-" * max(map(len, lines))
    text: list[str] = []
    for block in blocks:
        text += [rule] if text else []
        text += lines[: len(block)]
        lines = lines[len(block) :]
    return "\n".join(text)
