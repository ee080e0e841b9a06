"""The report's section on receptive fields."""

import io
from dataclasses import dataclass

from PIL import Image

from gcn_jax.report.values import Row, Table, capitalized, data_uri


@dataclass(frozen=True)
class Field:
    """A picture of receptive fields."""

    png: bytes
    rows: list[tuple[str, ...]]  # its numbers as a table: the head, then each run and pixel


@dataclass(frozen=True)
class FieldPicture:
    """What the page shows of a field.

    Attributes:
      address: the picture's ``data:`` URI.
      width, height: its size, pixels.
      said: its numbers in words, for readers who cannot see it.
      table: its numbers.
    """

    address: str
    width: int
    height: int
    said: str
    table: Table


def field_picture(field: Field) -> FieldPicture:
    """The picture and its table."""
    head, *rows = field.rows
    said = "; ".join(
        f"{row[0]}: {', '.join(f'{name} {cell}' for name, cell in zip(head[1:], row[1:], strict=True))}" for row in rows
    )
    with Image.open(io.BytesIO(field.png)) as picture:
        width, height = picture.size
    table = Table("Receptive fields in numbers", [capitalized(name) for name in head], [Row(r[0], r[1:]) for r in rows])
    return FieldPicture(data_uri("png", field.png), width, height, said, table)
