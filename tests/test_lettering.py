"""Names in pictures: the letters of every script, or something else that can be read; never boxes, never too long."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from gcn_jax.data import lettering
from gcn_jax.data.pictures import contact_sheet
from gcn_jax.data.specs import ClassSpec, DatasetSpec
from gcn_jax.tables import table

SCRIPTS = {
    "Chinese": "道路", "Japanese": "横断歩道", "Korean": "도로 표지판", "Arabic": "طريق سريع 2", "Hebrew": "כביש 2",
    "Hindi": "सड़क किनारा", "Thai": "ถนน 2 (a)", "Bengali": "রাস্তা", "Greek": "δρόμος", "Russian": "дорога",
    "Vietnamese": "đường phố", "Turkish": "ığşç", "mixed": "road 道路 طريق",
}  # fmt: skip


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine on which Pillow's own font is the only one."""
    lettering._font_of.cache_clear()
    monkeypatch.setattr(lettering, "_files", list)
    yield
    lettering._font_of.cache_clear()


@pytest.fixture
def noto(monkeypatch):
    """A machine whose fonts are those of the extra alone."""
    pytest.importorskip("manimgx_fonts")
    pytest.importorskip("manimgx_fonts_cjk")
    lettering._font_of.cache_clear()
    files = [path for path in lettering._files() if "manimgx" in str(path)]
    monkeypatch.setattr(lettering, "_files", lambda: files)
    yield files
    lettering._font_of.cache_clear()


def written(text, width=400, **options):
    """Where a text is dark, bool [30, 500]."""
    picture = Image.new("L", (500, 30), 255)
    lettering.write(ImageDraw.Draw(picture), (10, 4), text, width, "class 7", **options)
    return np.asarray(picture) < 128


def drawn(text, font):
    """The same by Pillow alone."""
    picture = Image.new("L", (500, 30), 255)
    ImageDraw.Draw(picture).text((10, 18), text, "black", font, anchor="ls")
    return np.asarray(picture) < 128


def sheet(names):
    spec = DatasetSpec("x", tuple(ClassSpec(name, (i, 0, 0)) for i, name in enumerate(names)))
    labels = np.arange(len(names), dtype=np.uint8).repeat(8)[None, None].repeat(8, 1)
    return contact_sheet(np.zeros((1, *labels.shape[1:], 3), np.uint8), labels, ["a.jpg"], spec)


def test_latin_letters_need_no_file(no_fonts):
    np.testing.assert_array_equal(written("a road, no. 2…"), drawn("a road, no. 2…", ImageFont.load_default(14)))
    assert lettering.advice(["road", "sky", "road"]) == ""


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_without_a_font_the_number_is_written(no_fonts, text):
    assert not lettering.can_write(text)
    np.testing.assert_array_equal(written(text), written("class 7"))
    np.testing.assert_array_equal(sheet(["road", text]), sheet(["road", "class 1"]))
    assert lettering.advice(["road", text, text]).startswith(f"no font has the letters of {text}: pip install -c")


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_with_the_extra_every_script_is_written(noto, text):
    if not features.check("raqm"):
        pytest.skip("needs FriBiDi")
    assert lettering.can_write(text)
    assert (written(text) != written("class 7")).any()
    fonts = [ImageFont.truetype(path, 14) for path in noto]
    same = [font for font in fonts if (drawn(text, font) == written(text)).all()]
    needs_several = text in (SCRIPTS["Thai"], SCRIPTS["Hebrew"], SCRIPTS["mixed"])
    is_thin = any(letter > "\u2e80" for letter in text)  # that font's file begins with its thinnest weight
    assert bool(same) != (needs_several or is_thin)


def test_arabic_runs_to_the_left_and_is_joined(noto):
    if not features.check("raqm"):
        pytest.skip("needs FriBiDi")
    (piece,) = lettering._pieces("طريق", 14)
    apart = sum(piece[1].getlength(letter) for letter in "طريق")
    assert lettering.length("طريق", "x") < 0.9 * apart
    columns = np.flatnonzero(written("כביש 22222222").any(axis=0))
    digits = np.flatnonzero(written("22222222").any(axis=0))
    assert columns[0] == digits[0], "what is read first stands at the right"


def test_without_fribidi_it_says_so(noto, monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    assert lettering.can_write(SCRIPTS["Chinese"])
    for script in ("Arabic", "Hebrew", "Hindi", "Bengali"):
        assert not lettering.can_write(SCRIPTS[script])
        assert "Pillow needs the library FriBiDi" in lettering.advice([SCRIPTS[script]])


@pytest.mark.parametrize("text", ["a very long name " * 9, "x" * 300, *(9 * name for name in SCRIPTS.values())])
@pytest.mark.parametrize("keeps_end", [False, True])
def test_long_names_are_cut(text, keeps_end):
    columns = np.flatnonzero(written(text, 100, keeps_end=keeps_end).any(axis=0))
    assert columns.min() >= 9
    assert columns.max() <= 111
    if text.isascii():
        assert columns.max() > 95
        other = f"{'b' * 40}{text}" if keeps_end else f"{text}{'b' * 40}"
        np.testing.assert_array_equal(written(text, 100, keeps_end=keeps_end), written(other, 100, keeps_end=keeps_end))


@pytest.mark.parametrize("longest", ["road", "a name of some forty letters, all of them", "x" * 200])
def test_legend_has_room_for_its_names(no_fonts, longest):
    """The square of the second entry, of colour 1, begins at the right of the first one's name."""
    row = sheet([longest, "sky"])[-30]
    second = np.flatnonzero((row == (1, 0, 0)).all(axis=-1))[0]
    end = min(12 + 22 + lettering.length(longest, ""), len(row) // 3)
    assert max(162, end) <= second <= max(162, end) + 14
    assert (row[second - 12 : second - 1] == 255).all()


def test_tables_are_aligned_by_what_letters_take():
    """A Chinese letter takes two columns of a terminal, a mark on another letter none."""
    lines = table([["class", "n"]], [["道路", "1"], ["กี", "2"], ["road", "3"]]).splitlines()
    assert lines == ["class  n", "--------", "道路   1", "กี      2", "road   3"]
