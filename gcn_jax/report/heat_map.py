"""Heat maps of receptive fields, with a mark at the output pixel, circles around it and a scale."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gcn_jax.data import lettering

_SIDE, _GAP, _LINE = 384, 16, 20  # pixels: of a map, between maps, of a line of text
_SHARE_TICKS = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)
# From black through violet, red and orange to pale yellow, in Oklab (Ottosson, 2020): lightness rises all the way, so
# that it reads the same in grey and to colour-blind eyes.
_CONTROL_POINTS = (
    (0.13, 0.003, -0.020),
    (0.32, 0.044, -0.122),
    (0.52, 0.167, -0.030),
    (0.68, 0.126, 0.114),
    (0.84, 0.026, 0.148),
    (0.97, -0.016, 0.058),
)
_LAB_TO_CONES = np.array(
    [[1.0, 1.0, 1.0], [0.3963377774, -0.1055613458, -0.0894841775], [0.2158037573, -0.0638541728, -1.2914855480]]
)
_CONES_TO_RGB = np.array(
    [
        [4.0767416621, -1.2684380046, -0.0041960863],
        [-3.3077115913, 2.6097574011, -0.7034186147],
        [0.2309699292, -0.3413193965, 1.7076147010],
    ]
)


@dataclass(frozen=True)
class Panel:
    """A map to draw.

    Attributes:
      title: above the map, such as the run's name; only the end of a long one is shown.
      values: float [S, S], not negative; drawn relative to their maximum.
      row, column: the pixel that the values are about.
      radius_50, radius_90: of the circles around that pixel, in pixels.
      caption: below it.
    """

    title: str
    values: np.ndarray
    row: int
    column: int
    radius_50: float
    radius_90: float
    caption: str


def ramp(count: int = 256) -> np.ndarray:
    """Colours in steps that look even to the eye: uint8 [count, 3], sRGB."""
    points = np.array(_CONTROL_POINTS)
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, lengths[-1], count)
    lab = np.stack([np.interp(at, lengths, points[:, i]) for i in range(3)], axis=-1)
    linear = (lab @ _LAB_TO_CONES) ** 3 @ _CONES_TO_RGB
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)


def sheet(columns: list[list[Panel]]) -> np.ndarray:
    """A picture, uint8 [H, W, 3]: columns of panels side by side, and below them what the colours and marks mean."""
    font = ImageFont.load_default(14)
    height = max(map(len, columns)) * (_SIDE + 2 * _LINE + _GAP)
    width = _GAP + len(columns) * (_SIDE + _GAP)
    picture = Image.new("RGB", (width, _GAP + height + 5 * _LINE), "white")
    draw = ImageDraw.Draw(picture)
    for i, column in enumerate(columns):
        for j, panel in enumerate(column):
            left, top = _GAP + i * (_SIDE + _GAP), _GAP + j * (_SIDE + 2 * _LINE + _GAP)
            lettering.write(draw, (left, top), panel.title, _SIDE, f"run {i + 1}", keeps_end=True)
            picture.paste(_draw_panel(panel, font), (left, top + _LINE))
            draw.text((left, top + _LINE + _SIDE + 2), panel.caption, "black", font)
    _draw_key(draw, _GAP + height, font)
    return np.asarray(picture)


def _draw_panel(panel: Panel, font) -> Image.Image:
    """The map with its marks, `_SIDE` pixels wide."""
    length = len(panel.values)
    small = Image.fromarray(panel.values.astype(np.float32))
    method = Image.Resampling.BOX if length > _SIDE else Image.Resampling.NEAREST
    values = np.asarray(small.resize((_SIDE, _SIDE), method))
    colors = ramp()
    shades = np.sqrt(values / values.max())  # the square root makes a field's faint parts visible
    picture = Image.fromarray(colors[np.rint(shades * (len(colors) - 1)).astype(int)])

    layer = Image.new("RGBA", (2 * _SIDE, 2 * _SIDE))  # drawn twice as large, then halved: smooth lines
    draw, unit = ImageDraw.Draw(layer), 2 * _SIDE / length
    x, y = (panel.column + 0.5) * unit, (panel.row + 0.5) * unit
    bar = _round_length(length / 4)
    for color, line in (((0, 0, 0, 150), 6), ((255, 255, 255, 255), 3)):
        for start, end in ((10, 26), (-26, -10)):
            draw.line((x + start, y, x + end, y), color, line)
            draw.line((x, y + start, x, y + end), color, line)
        _draw_circle(draw, (x, y), panel.radius_50 * unit, color, line, 360)
        _draw_circle(draw, (x, y), panel.radius_90 * unit, color, line, 6)
        draw.line((20, 2 * _SIDE - 20, 20 + bar * unit, 2 * _SIDE - 20), color, line + 2)
    layer = layer.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    picture.paste(layer, mask=layer)
    text = ImageDraw.Draw(picture)
    text.text((10, _SIDE - 32), f"{bar:g} px", "white", font, stroke_width=1, stroke_fill="black")
    return picture


def _draw_circle(draw, middle: tuple[float, float], radius: float, color, line: int, dash: int) -> None:
    """A dashed circle; `dash` is the length of a dash in degrees, 360 for a whole circle."""
    box = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
    for start in range(0, 360, 2 * dash):
        draw.arc(box, start, start + dash, color, line)


def _round_length(most: float) -> float:
    """The largest of 1, 2 or 5 times a power of ten that is not above a length."""
    power = 10.0 ** np.floor(np.log10(most))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= most)


def _draw_key(draw, top: int, font) -> None:
    """Draws what colours and lines mean."""
    colors = ramp(_SIDE)
    for i, color in enumerate(colors):
        draw.line((_GAP + i, top, _GAP + i, top + 12), tuple(color.tolist()))
    for share in _SHARE_TICKS:
        draw.text((_GAP + share**0.5 * (_SIDE - 1), top + 14), f"{100 * share:g}", "black", font, anchor="ma")
    lines = ("% of the map's maximum; cross: the output pixel;", "circles hold 50 % and 90 % (dashed) of the gradient")
    for i, text in enumerate(lines):
        draw.text((_GAP, top + 34 + i * _LINE), text, "black", font)
