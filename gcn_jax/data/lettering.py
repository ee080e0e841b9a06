"""Names in pictures, in whatever script they are: each is drawn in fonts that have its letters."""

import contextlib
import functools
import importlib.util
import itertools
import math
import pathlib
import unicodedata
from collections.abc import Iterator, Sequence

from PIL import ImageDraw, ImageFont, features

_PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")  # of the extra `fonts`: Noto's
_FOLDERS = (
    "~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts",
    "~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
_MOST_FILES = 500
_UNLIKE = ("bold", "black", "light", "thin", "italic", "oblique", "mono", "serif", "condensed", "emoji", "math")

Font = ImageFont.FreeTypeFont


def write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    width: int,
    otherwise: str,
    *,
    size: int = 14,
    keeps_end: bool = False,
) -> None:
    """Writes a line of text in black; what is too long is cut, with an ellipsis in its place.

    Args:
      draw: of the picture.
      corner: left and top of the line.
      text: to write.
      width: that the line may have, pixels.
      otherwise: what to write if no font has the text's letters; in ASCII.
      size: of the letters, pixels.
      keeps_end: whether a long text loses its start instead of its end.
    """
    text = text if can_write(text) else otherwise
    pieces = _pieces(text, size)
    while _length(pieces) > width and text:
        text = text[1:] if keeps_end else text[:-1]
        pieces = _pieces(f"…{text}" if keeps_end else f"{text}…", size)
    left, base = float(corner[0]), corner[1] + size
    for piece, font in pieces:
        draw.text((left, base), piece, "black", font, anchor="ls")
        left += font.getlength(piece)


def length(text: str, otherwise: str, size: int = 14) -> int:
    """How many pixels `write` needs for a text, uncut."""
    return math.ceil(_length(_pieces(text, size) or _pieces(otherwise, size)))


def _length(pieces: list[tuple[str, Font]]) -> float:
    return sum(font.getlength(piece) for piece, font in pieces)


def can_write(text: str) -> bool:
    """Whether there are fonts that have all letters of a text, and what it takes to join them."""
    return bool(_pieces(text, 14))


def advice(texts: Sequence[str]) -> str:
    """What to do about texts that cannot be written; "" if there are none."""
    missing = [text for text in dict.fromkeys(texts) if not can_write(text)]
    if not missing:
        return ""
    named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    if any(map(_is_joined, missing)) and not features.check("raqm"):
        return f"to write {named}, Pillow needs the library FriBiDi: apt install libfribidi0, brew install fribidi"
    return f'no font has the letters of {named}: pip install -c requirements.txt ".[fonts]"'


def _pieces(text: str, size: int) -> list[tuple[str, Font]]:
    """A text in pieces, from left to right, each with a font that has its letters; none if a letter is in no font."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if _is_joined(text) and not features.check("raqm"):
        return []
    if font := _font_of(text, size):
        return [(text, font)]
    pieces: list[tuple[str, Font]] = []
    for letter in text:
        if pieces and _has(pieces[-1][1], letter):
            pieces[-1] = (pieces[-1][0] + letter, pieces[-1][1])
        elif font := _font_of(letter, size):
            pieces.append((letter, font))
        else:
            return []
    strong = (unicodedata.bidirectional(letter) for letter in text)
    return pieces[::-1] if next((kind for kind in strong if kind in ("L", "R", "AL")), "L") != "L" else pieces


def _is_joined(text: str) -> bool:
    """Whether a text's letters run to the left or are set upon each other, for which Pillow needs the library Raqm."""
    return any(unicodedata.bidirectional(c) in ("R", "AL") or unicodedata.category(c) in ("Mn", "Mc") for c in text)


@functools.lru_cache(maxsize=4096)
def _font_of(text: str, size: int) -> Font | None:
    """The first font that has all letters of a text."""
    fonts = (_load(path, size) for path in itertools.chain([None], _files()))
    return next((font for font in fonts if font and all(_has(font, letter) for letter in text)), None)


@functools.lru_cache(maxsize=4096)
def _has(font: Font, letter: str) -> bool:
    """Whether a font has a letter: if not, it draws it as it draws U+10FFFF, which is no letter."""
    if letter.isspace() or unicodedata.category(letter) == "Cf":
        return True
    drawn, missing = font.getmask(letter), font.getmask("\U0010ffff")
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


@functools.cache
def _files() -> list[pathlib.Path]:
    """The font files of the extra `fonts` and of this machine, upright sans-serif ones first."""
    specs = [importlib.util.find_spec(package) for package in _PACKAGES]
    folders = [folder for spec in specs if spec for folder in spec.submodule_search_locations or ()]
    return [path for some in (folders, _FOLDERS) for path in sorted(_files_below(some), key=_likeness)][:_MOST_FILES]


def _files_below(folders: Sequence[str]) -> Iterator[pathlib.Path]:
    for folder in folders:
        for path in pathlib.Path(folder).expanduser().rglob("*"):
            if path.suffix.lower() in (".ttf", ".otf", ".ttc"):
                yield path


def _likeness(path: pathlib.Path) -> tuple[int, str]:
    name = path.name.lower()
    return sum(word in name for word in _UNLIKE), name


@functools.cache
def _load(path: pathlib.Path | None, size: int) -> Font | None:
    """A font of regular weight; None: Pillow's own. Returns None if Pillow cannot read the file."""
    if path is None:
        font = ImageFont.load_default(size)
        assert isinstance(font, Font), "Pillow's packages have FreeType"
        return font
    try:
        font = ImageFont.truetype(path, size)
        font.getmask("a")
    except OSError:
        return None
    with contextlib.suppress(OSError):  # it has only one weight
        axes = font.get_variation_axes()
        font.set_variation_by_axes([400 if axis["name"] == b"Weight" else axis["default"] or 0 for axis in axes])
    return font
