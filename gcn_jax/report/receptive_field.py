"""The report's section on receptive fields."""

import io
from dataclasses import dataclass
from html import escape

from PIL import Image

from gcn_jax.report.html import data_uri


@dataclass(frozen=True)
class Field:
    """A picture of receptive fields."""

    png: bytes
    rows: list[tuple[str, ...]]  # its numbers as a table: the head, then each run and pixel


def receptive_field(field: Field) -> str:
    """The picture and its table."""
    head, *rows = field.rows
    said = "; ".join(
        f"{row[0]}: {', '.join(f'{name} {cell}' for name, cell in zip(head[1:], row[1:], strict=True))}" for row in rows
    )
    with Image.open(io.BytesIO(field.png)) as picture:
        width, height = picture.size
    heads = "".join(f'<th scope="col">{escape(name[0].upper() + name[1:])}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        "<p>Where the input changes the score of an output pixel: the gradient's absolute value, averaged over images. "
        "Lengths are pixels of the network's input.</p>"
        f'<img class="field" src="{data_uri("png", field.png)}" width="{width}" height="{height}" '
        f'alt="{escape(f"Receptive fields. {said}")}">'
        '<div class="box" tabindex="0" role="region" aria-label="Receptive fields in numbers">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )
