"""The report's page, read back by parsers and by a browser."""

import html
import io
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import tomllib

import jinja2
import markupsafe
import numpy as np
import pytest
from PIL import Image

import gcn_jax
from gcn_jax.data.specs import VOC, ClassSpec, DatasetSpec
from gcn_jax.files import write_text
from gcn_jax.report import page as report
from tests.pages import EVIL, RESULT, SPEC, parse, picture, render, section, text


def example(height=40, width=60, num_classes=4, **changes):
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, num_classes, (height // 10, width // 10)), np.ones((10, 10))).astype(np.uint8)
    prediction = np.where(rng.random(label.shape) < 0.2, (label + 1) % num_classes, label).astype(np.uint8)
    label[5:9] = 255
    image = np.kron(rng.integers(0, 256, (height // 10, width // 10, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    fields = {"image_id": "a", "rank": "best", "miou": 0.123, "image": image, "label": label, "prediction": prediction}
    fields |= changes
    return report.Example(**fields, is_wrong=fields["label"] != fields["prediction"])


def chart(page, title):
    (found,) = (f for f in parse(page).iterfind(".//figure[@class='chart']") if text(f.find("figcaption")) == title)
    return found.find("svg")


def read_off(svg, x, y):
    """The data at a place of a chart, as a reader does it: between the ticks."""
    units = {"%": 0.01, "k": 1e3, "M": 1e6}
    sides = {"middle": [], "end": []}
    for tick in svg.iterfind("text"):
        if match := re.fullmatch(r"(-?[\d.e-]+)([%kM]?)", text(tick)):
            value = float(match[1]) * units.get(match[2], 1)
            sides[tick.get("text-anchor")].append(
                (float(tick.get("x" if tick.get("text-anchor") == "middle" else "y")), value)
            )
    (a, at_a), (b, at_b) = sides["middle"][0], sides["middle"][-1]
    (c, at_c), (d, at_d) = sides["end"][0], sides["end"][-1]
    assert len(sides["middle"]) in range(3, 12)
    assert len(sides["end"]) in range(3, 9)
    return at_a + (x - a) / (b - a) * (at_b - at_a), at_c + (y - c) / (d - c) * (at_d - at_c)


def line(svg):
    return [tuple(map(float, pair.split(","))) for pair in svg.find("polyline").get("points").split()]


def test_page_is_well_formed_and_loads_nothing():
    page = render(examples=[example()], runs={"run": RESULT, "other": RESULT})
    tree = parse(page)
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(
        r"<(script|link|iframe|object|base)|@import|url\(|://|\son\w+=", page.replace(str(markupsafe.escape(EVIL)), "")
    )
    ids = {section.get("id") for section in tree.iterfind(".//section")}
    assert ids == {
        "scores",
        "comparison",
        "training",
        "classes",
        "confusions",
        "boundaries",
        "confidence",
        "examples",
        "colours",
    }
    for element in tree.iter():
        assert element.get("src", "data:").startswith("data:")
        assert element.get("href", "#scores").removeprefix("#") in ids
    for img in tree.iterfind(".//img"):
        picture(img)
        assert img.get("alt")
    for svg in tree.iterfind(".//svg"):
        assert svg.get("aria-hidden") == "true" or (svg.get("role") == "img" and svg.get("aria-label"))


def test_scores_are_those_of_the_result():
    found = {text(tile.find("dt")): text(tile.find("dd")) for tile in section(render(), "scores").iterfind("dl/div")}
    assert found == {
        "Mean IoU": "51.23 %", "Pixel accuracy": "90.00 %", "Mean class accuracy": "83.00 %",
        "Frequency-weighted IoU": "81.24 %", "Boundary accuracy": "40.00 %", "Internal accuracy": "95.50 %",
        "Boundary IoU": "–", "Loss": "0.3457",
    }  # fmt: skip
    assert "≤ 7 px" in text(section(render(), "scores"))


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ({"scales": (1.0,), "flip": False, "window": 0, "stride": 0}, "original size, whole images"),
        (
            {"scales": [0.75, 1.0, 1.25], "flip": True, "window": 513, "stride": 342},
            "mean of scales 0.75, 1, 1.25, with mirrored copies, windows of 513 px every 342 px",
        ),
        (
            {"scales": [1.0], "flip": False, "window": 0, "crf": "10,3,1,4,67,3", "stride": 0},
            "original size, whole images, CRF 10,3,1,4,67,3",
        ),
        (
            {"scales": [1.0], "flip": False, "window": 0, "stride": 0, "temperature": 1.37123},
            "original size, whole images, temperature 1.37",
        ),
    ],
)
def test_conditions_are_said(protocol, words):
    header = parse(render(result={**RESULT, "protocol": protocol})).find(".//header/p")
    assert text(header) == f"5 images of cityscapes/val · step 1,200 · {words}"


def test_users_texts_are_escaped():
    page = render(
        title=EVIL,
        result={**RESULT, "data": EVIL},
        examples=[example(image_id=EVIL, rank=EVIL)],
        runs={EVIL: RESULT, "other": RESULT},
    )
    tree = parse(page)
    assert text(tree.find(".//h1")) == EVIL
    assert text(tree.find(".//title")).startswith(EVIL)
    assert EVIL in text(tree.find(".//header/p"))
    assert EVIL in [text(cell) for cell in tree.iterfind(".//tbody/tr/th")]
    assert EVIL in text(tree.find(".//h3"))
    assert f"truth of {EVIL}" in [img.get("alt") for img in tree.iterfind(".//img")]
    assert EVIL in [text(name) for name in tree.iterfind(".//span[@class='name']")]
    assert not [e for e in tree.iter() if "onload" in e.attrib]
    assert not [e for e in tree.iter("b") if text(e).startswith("&")]


def page_of(texts):
    """A page of which each text that comes from users is another of `texts`: 14 of at most 18 letters."""
    texts = iter(texts)
    title, other, image_id, rank, data, crf = (next(texts) for _ in range(6))
    spec = DatasetSpec("tiny", tuple(ClassSpec(next(texts), c.color) for c in SPEC.classes))
    renamed = dict(zip(SPEC.class_names, spec.class_names, strict=True))
    scores = {
        key: {renamed[name]: value for name, value in RESULT[key].items()}
        for key in ("iou_per_class", "accuracy_per_class", "boundary_iou_per_class")
    }
    result = {**RESULT, **scores, "data": data, "protocol": {**RESULT["protocol"], "crf": crf}}
    picture = io.BytesIO()
    Image.new("RGB", (8, 4)).save(picture, "PNG")
    field = report.Field(picture.getvalue(), [(next(texts), next(texts)), (next(texts), next(texts))])
    runs = {title: result, other: result}
    return render(title, result, spec, examples=[example(image_id=image_id, rank=rank)], runs=runs, field=field)


def contents(element):
    """All that a page holds, in order: tags, names of attributes, values, texts."""
    for e in element.iter():
        yield from (e.tag, *(part for item in e.items() for part in item), e.text or "", e.tail or "")


def test_no_text_changes_the_page_around_it():
    plain = [f"{i:0>16}" for i in range(14)]
    hostile = [f"</b \"'{{{{x}}}}&lt;{i:x}" for i in range(14)]
    assert {len(t) for t in hostile} == {len(t) for t in plain}  # so that all places are the same
    expected = list(contents(parse(page_of(plain))))
    for before, after in zip(plain, hostile, strict=True):
        assert any(before in part for part in expected), before
        expected = [part.replace(before, after) for part in expected]
    assert list(contents(parse(page_of(hostile)))) == expected


def test_no_template_can_forget_to_escape():
    assert report.TEMPLATES.autoescape is True
    assert report.TEMPLATES.undefined is jinja2.StrictUndefined
    folder = pathlib.Path(report.__file__).parent
    templates = sorted((folder / "templates").glob("*"))
    assert templates
    for path in (*templates, *folder.glob("*.py"), folder / "style.css"):
        ways_around = r"\|\s*(safe|xmlattr|tojson|urlize|forceescape)\b|{%-?\s*autoescape|\bMarkup\b|__html__|={{"
        assert not re.search(ways_around, path.read_text()), path


def test_the_style_is_the_file():
    """Jinja2 reads it as a template: nothing in it may look like one."""
    style = (pathlib.Path(report.__file__).parent / "style.css").read_text()
    assert text(parse(render()).find(".//style")).strip() == style.strip()


def test_the_wheel_holds_templates_and_style():
    package = pathlib.Path(gcn_jax.__file__).parent
    project = tomllib.loads((package.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["gcn_jax"]
    held = {path for pattern in patterns for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert held == files


def test_classes_are_ordered_by_iou():
    rows = section(render(), "classes").findall("ul/li")
    assert [text(row.find("span")) for row in rows] == [EVIL, "road", "sky", "tram"]
    numbers = [[text(n) for n in row.findall("span")[2:]] for row in rows]
    assert numbers == [["75.0 %", "–"], ["25.0 %", "12.5 %"], ["0.0 %", "0.0 %"], []]
    assert text(rows[-1]) == "tramnot in this data"
    assert [bar.get("style") for bar in rows[1].findall("span[@class='bars']/i")] == ["width:25.0%", "width:12.5%"]
    assert rows[0].find("i").get("style") == "background:rgb(200,0,9)"


def test_confusions_are_shares_of_the_truth():
    cells = section(render(), "confusions").findall(".//svg[@class='cells']/rect")
    tips = {text(cell): cell for cell in cells}
    assert len(cells) == len(tips) == 16
    road, evil = (
        tips["truth road -> predicted road: 96.8 % (12,345 px)"],
        tips[f"truth {EVIL} -> predicted road: 30.0 % (30 px)"],
    )
    assert (road.get("class"), evil.get("class")) == ("right", "")
    assert (road.get("x"), road.get("y")) == ("0", "0")
    assert (evil.get("x"), evil.get("y")) == ("0", evil.get("height"))  # truth in rows
    assert float(road.get("opacity")) > float(evil.get("opacity")) > 0
    assert tips["truth tram -> predicted sky: 0.0 % (0 px)"].get("opacity") == "0"
    assert f"{EVIL} for road (30.0 %), road for {EVIL} (3.1 %), road for sky (0.0 %)." in text(
        section(render(), "confusions")
    )


def test_many_classes_stay_small():
    rng = np.random.default_rng(0)
    spec = DatasetSpec(
        "big", tuple(ClassSpec(f"a swivel chair and a table, both {i:9}", (i, i, i)) for i in range(150))
    )
    counts = rng.integers(0, 10**6, (150, 150))
    scores = {f"{key}_per_class": dict.fromkeys(spec.class_names, 0.5) for key in ("iou", "accuracy", "boundary_iou")}
    page = render(result={**RESULT, **scores, "confusion_matrix": counts.tolist()}, spec=spec)
    cells = section(page, "confusions").findall(".//svg[@class='cells']/rect")
    assert len(page) < 1e6
    shares = sorted((counts / counts.sum(1, keepdims=True)).ravel())[::-1]
    shown = [float(re.search(r": ([\d.]+) %", text(cell))[1]) for cell in cells]
    np.testing.assert_allclose(shown, 100 * np.array(shares[: len(cells)]), atol=0.051)
    assert f"Blank: less than {100 * shares[len(cells)]:.2f} %" in text(section(page, "confusions"))


def test_curves_can_be_read_off():
    loss, rate = chart(render(), "Loss"), chart(render(), "Learning rate")
    np.testing.assert_allclose(
        [read_off(loss, *p) for p in line(loss)], [(100, 2), (300, 0.5), (400, 1.1)], atol=1, rtol=0.01
    )
    found = [read_off(rate, *p)[1] for p in line(rate)]
    np.testing.assert_allclose(found, [0.01, 0.005, 0, 0], atol=1e-4)
    assert "1 not finite" in text(section(render(), "training"))


def test_curves_of_the_validation_loss_and_of_the_score_that_chooses_the_best():
    values = {"validation_loss": (0.8, 0.6, 0.7), "iou_per_class.sky": (0.05, 0.25, 0.15)}
    records = [
        {"step": 100 * (i + 1), "miou": 0.3, **{name: of_steps[i] for name, of_steps in values.items()}}
        for i in range(3)
    ]
    page = render(records=records, best_by="iou_per_class.sky")
    for title, found in zip(("Validation loss", "IoU of sky"), values.values(), strict=True):
        svg = chart(page, title)
        read = [read_off(svg, *point) for point in line(svg)]
        np.testing.assert_allclose(
            read, [(100 * (i + 1), value) for i, value in enumerate(found)], atol=0.01, rtol=0.01
        )
    for best_by in ("miou", "loss"):
        assert "of sky" not in text(section(render(records=records, best_by=best_by), "training"))
    assert "No IoU of tram was logged" in text(section(render(best_by="iou_per_class.tram"), "training"))


def test_a_point_alone_is_a_dot():
    svg = chart(render(), "Mean IoU")
    (dot,) = svg.findall("circle")
    np.testing.assert_allclose(read_off(svg, float(dot.get("cx")), float(dot.get("cy"))), (200, 0.3), rtol=0.01)


def test_wide_losses_are_logarithmic():
    values = [500.0, 40.0, 3.0, 0.2]
    svg = chart(render(records=[{"step": i + 1, "loss": v} for i, v in enumerate(values)]), "Loss")
    ticks = {text(t): float(t.get("y")) for t in svg.iterfind("text") if t.get("text-anchor") == "end"}
    assert list(ticks) == ["0.1", "1", "10", "100", "1000"]
    decade = ticks["1"] - ticks["10"]
    np.testing.assert_allclose([10 ** ((ticks["1"] - y) / decade) for _, y in line(svg)], values, rtol=0.02)


def test_long_curves_are_thinned_but_keep_their_peaks():
    records = [{"step": i, "loss": 1.0 + (i == 7777) - 0.5 * (i == 12345)} for i in range(1, 20001)]
    svg = chart(render(records=records), "Loss")
    places = [read_off(svg, *p) for p in line(svg)]
    assert len(places) <= 600
    assert max(places, key=lambda p: p[1]) == pytest.approx((7777, 2.0), rel=0.01)
    assert min(places, key=lambda p: p[1]) == pytest.approx((12345, 0.5), rel=0.01)


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [0.1, 0.1 + 1e-9], [7.0, 7.002], [-3.0, 5e30], [1e-12, 2e-12], [0.0, 1e4]]
)
def test_any_curve_has_few_ticks(values):
    svg = chart(render(records=[{"step": i, "loss": v} for i, v in enumerate(values)]), "Loss")
    ticks = [text(t) for t in svg.iterfind("text") if t.get("text-anchor") == "end"]
    assert 3 <= len(ticks) <= 8
    assert len(set(ticks)) == len(ticks)
    assert all(0 <= c <= 360 for p in line(svg) for c in p)


def test_missing_curves_are_said():
    found = text(section(render(records=[{"step": 1, "loss": math.inf}]), "training"))
    assert "No loss was logged: no curve of the loss." in found
    assert "No learning rate was logged: no curve of it." in found
    assert "No evaluation during training yet: no curve of mean IoU." in found
    nothing = {"trimap_miou": {"1": None}, "miou_per_image": {"a": None}, "miou": None, "pixel_accuracy": None}
    nothing["calibration"] = {"ece": None, "bins": [{"count": 0, "confidence": None, "accuracy": None}]}
    page = render(result={**RESULT, **nothing, "confusion_matrix": np.zeros((4, 4), int).tolist()}, records=[])
    assert not parse(page).findall(".//figure")
    assert "no curve of mean IoU near boundaries" in text(section(page, "boundaries"))
    assert "no histogram" in text(section(page, "boundaries"))
    assert "no curve of how reliable" in text(section(page, "confidence"))
    assert "no histogram of the confidence" in text(section(page, "confidence"))
    assert "No pictures" in text(section(page, "examples"))
    assert "No class was taken for another." in text(section(page, "confusions"))


def test_reliability():
    svg = chart(render(), "Reliability")
    assert svg.get("aria-label") == "Reliability: expected calibration error 3.2 %"
    np.testing.assert_allclose([read_off(svg, *p) for p in line(svg)], [(0.5, 0.25), (0.9, 0.95)], atol=0.01)
    (dashed,) = svg.findall("path[@class='dashed']")
    x0, y0, x1, y1 = map(float, re.findall(r"[\d.]+", dashed.get("d")))
    np.testing.assert_allclose([read_off(svg, x0, y0), read_off(svg, x1, y1)], [(0, 0), (1, 1)], atol=0.01)
    tips = [text(circle.find("title")) for circle in svg.findall("circle")]
    assert tips == ["confidence 50.0 %: 25.0 % right", "confidence 90.0 %: 95.0 % right"]
    svg = chart(render(), "Pixels by their confidence")
    columns = [re.findall(r"[\d.]+", column.get("d")) for column in svg.findall("path[@class='column']")]
    found = [read_off(svg, (float(left) + float(right)) / 2, float(top)) for left, _, top, right, _ in columns]
    np.testing.assert_allclose(found, [(1 / 6, 0), (1 / 2, 0.25), (5 / 6, 0.75)], atol=0.01)


def test_mean_iou_near_boundaries():
    svg = chart(render(), "Mean IoU near boundaries")
    found = [read_off(svg, *p) for p in line(svg)]
    np.testing.assert_allclose(found, [(1, 0.2), (2, 0.25), (20, 0.45)], rtol=0.01, atol=0.03)
    (dashed,) = svg.findall("path[@class='dashed']")
    assert read_off(svg, 0, float(re.search(r" ([\d.]+)H", dashed.get("d"))[1]))[1] == pytest.approx(0.51234, abs=0.002)


def test_histogram_counts_images():
    svg = chart(render(), "Images by their mean IoU")
    columns = [re.findall(r"[\d.]+", column.get("d")) for column in svg.findall("path[@class='column']")]
    found = [read_off(svg, (float(left) + float(right)) / 2, float(top)) for left, _, top, right, _ in columns]
    expected = [(0.025 + 0.05 * i, {2: 2, 19: 2}.get(i, 0)) for i in range(20)]
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert "median, 55.0 %" in text(section(render(), "boundaries"))
    assert "1 without a counted pixel" in text(section(render(), "boundaries"))


def test_comparison_marks_the_best():
    other = {**RESULT, "step": 7, "miou": 0.6, "pixel_accuracy": 0.9, "internal_accuracy": None, "boundary_iou": 0.1}
    table = section(render(runs={"run": RESULT, "other": other}), "comparison").find(".//table")
    heads = [text(cell) for cell in table.iterfind("thead/tr/th")]
    assert heads[:5] == ["Run", "Step", "Mean IoU", "Pixel accuracy", "Mean class accuracy"]
    assert heads[5:] == ["Frequency-weighted IoU", "Boundary accuracy", "Internal accuracy", "Boundary IoU"]
    rows = [[text(cell) for cell in row] for row in table.iterfind("tbody/tr")]
    assert rows[0] == ["run", "1,200", "51.23 %", "90.00 %", "83.00 %", "81.24 %", "40.00 %", "95.50 %", "–"]
    assert rows[1] == ["other", "7", "60.00 %", "90.00 %", "83.00 %", "81.24 %", "40.00 %", "–", "10.00 %"]
    bold = [[cell.find("b") is not None for cell in row][2:] for row in table.iterfind("tbody/tr")]
    assert bold == [[False, *[True] * 5, False], [*[True] * 5, False, True]]
    assert 'id="comparison"' not in render()


def test_example_pictures_show_what_is_wrong():
    shown = example()
    image, truth, prediction, errors = map(picture, section(render(examples=[shown]), "examples").iterfind(".//img"))
    is_void = shown.label == 255
    palette = np.array([c.color for c in SPEC.classes], np.uint8)
    assert abs(image.astype(int) - shown.image).mean() < 12
    np.testing.assert_array_equal(truth[~is_void], palette[shown.label[~is_void]])
    np.testing.assert_array_equal(prediction[~is_void], palette[shown.prediction[~is_void]])
    is_red = errors[..., 0].astype(int) > errors[..., 1].astype(int) + 50
    np.testing.assert_array_equal(is_red, (shown.label != shown.prediction) & ~is_void)
    assert is_red.any()
    for map_ in (truth, prediction, errors):
        assert len(np.unique(map_[is_void].reshape(-1, 3), axis=0)) == 1
        assert np.ptp(map_[is_void]) == 0  # grey
    assert np.ptp(errors[~is_red].astype(int), axis=-1).max() == 0
    assert "mean IoU 12.3 %" in text(section(render(examples=[shown]), "examples"))


def test_large_pictures_are_scaled_down():
    images = section(render(examples=[example(600, 1000)]), "examples").findall(".//img")
    pictures = [picture(img) for img in images]
    assert {p.shape for p in pictures} == {(288, 480, 3)}
    colors = {tuple(color) for color in np.unique(pictures[1].reshape(-1, 3), axis=0).tolist()}
    assert colors - {c.color for c in SPEC.classes} == {(200, 200, 200)}  # not mixed


def test_legend_names_what_is_shown():
    def names(examples):
        return [text(entry) for entry in section(render(examples=examples), "colours").iterfind("ul/li")]

    rest = ["void, not counted", "wrong, in errors"]
    assert names([]) == ["road", EVIL, "sky", *rest]
    assert names([example()]) == ["road", EVIL, "sky", "tram", *rest]


WRAPPER = """<!DOCTYPE html><iframe style="width: %dpx; height: 800px; border: 0" srcdoc="%s"></iframe><pre></pre>
<script>
window.onload = () => {
  const page = document.querySelector("iframe").contentDocument, style = getComputedStyle(page.body);
  const root = page.documentElement;
  document.querySelector("pre").textContent = "found" + JSON.stringify({
    seen: root.clientWidth, needed: root.scrollWidth, text: style.color, page: style.backgroundColor,
    sections: [...page.querySelectorAll("section")].map(s => s.id),
    empty: [...page.querySelectorAll("section, svg, img")].filter(e => !e.getBoundingClientRect().height).length,
  }) + "end";
}</script>"""


@pytest.fixture
def dump(tmp_path):
    """Opens a file in a headless browser; returns the page as it then is, and the errors that it logged."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for path in map(shutil.which, names) if path), None)
    if browser is None:
        pytest.skip(f"needs one of {', '.join(names)}")

    def opened(path, scheme="light"):
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
        flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,900", "--dump-dom"]
        flags += [f"--blink-settings=preferredColorScheme={('dark', 'light').index(scheme)}"]
        done = subprocess.run([browser, *flags, path.as_uri()], capture_output=True, timeout=60, check=True)
        return done.stdout.decode(), [entry for entry in done.stderr.decode().splitlines() if "CONSOLE" in entry]

    return opened


@pytest.fixture
def browse(dump, tmp_path):
    """Opens a page in a frame of a headless browser; returns what it measured and the errors it logged."""

    def opened(page, width, scheme="light"):
        path = tmp_path / "wrapper.html"
        path.write_text(WRAPPER % (width, html.escape(page)), encoding="utf-8")
        found, errors = dump(path, scheme)
        return json.loads(html.unescape(re.search("found({.*})end", found)[1])), errors

    return opened


def full_page():
    spec = DatasetSpec(
        "long", (*VOC.classes[:19], ClassSpec("m" * 80, (1, 1, 1)), ClassSpec("many words " * 9, (2, 2, 2)))
    )
    counts = np.random.default_rng(0).integers(0, 10**7, (21, 21))
    scores = {f"{key}_per_class": dict.fromkeys(spec.class_names, 1.0) for key in ("iou", "accuracy", "boundary_iou")}
    result = {**RESULT, **scores, "confusion_matrix": counts.tolist()}
    examples = [example(image_id="x" * 100), example(500, 1000, 21)]
    picture = io.BytesIO()
    Image.new("RGB", (1216, 500)).save(picture, "PNG")
    field = report.Field(picture.getvalue(), [("run", "50 % within (px)"), ("w" * 90, "12.3")])
    return render("w" * 90, result, spec, examples=examples, runs={"w" * 90: result, "other": result}, field=field)


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1200, "light")])
def test_browser_shows_the_page(browse, width, scheme):
    found, errors = browse(full_page(), width, scheme)
    assert not errors
    assert found["seen"] == found["needed"] == width
    assert len(found["sections"]) == 10
    assert found["empty"] == 0
    light, dark = (np.mean([int(v) for v in re.findall(r"\d+", found[key])]) for key in ("page", "text"))
    if scheme == "dark":
        light, dark = dark, light
    assert light > 200
    assert dark < 60


def page_of_names(*names):
    """A page whose classes, title, runs and images have these four names."""
    spec = DatasetSpec("x", tuple(ClassSpec(name, (i, 0, 0)) for i, name in enumerate(names)))
    scores = {f"{key}_per_class": dict.fromkeys(names, 0.5) for key in ("iou", "accuracy", "boundary_iou")}
    result = {**RESULT, **scores, "miou_per_image": dict.fromkeys(names, 0.5)}
    return render(names[0], result, spec, examples=[example(image_id=names[1])], runs=dict.fromkeys(names, result))


SCRIPTS = (
    "\u9053\u8def\u6807\u5fd7" * 4,
    "\u0637\u0631\u064a\u0642 2",
    "\u0938\u0921\u093c\u0915",
    os.fsdecode(b"caf\xe9"),
)


def test_names_stand_in_their_own_direction():
    page = page_of_names(*SCRIPTS)
    isolated = {text(name) for name in parse(page).iterfind(".//bdi")}
    assert set(SCRIPTS) <= isolated
    arabic = f"\u2068{SCRIPTS[1]}\u2069"
    assert f"truth {arabic} -> predicted {SCRIPTS[0]}: " in html.unescape(page)
    assert f"{arabic} for {SCRIPTS[0]} (" in text(section(page, "confusions"))


def test_browser_shows_names_of_all_scripts(dump, browse, tmp_path):
    """From the file that is written, whose letters are UTF-8, and escapes in place of what is not."""
    page = page_of_names(*SCRIPTS)
    write_text(tmp_path / "report.html", page)
    shown, errors = dump(tmp_path / "report.html")
    assert not errors
    assert all(shown.count(name) > 5 for name in (*SCRIPTS[:3], "caf\\udce9"))
    found, _ = browse((tmp_path / "report.html").read_text(encoding="utf-8"), 360)
    assert found["seen"] == found["needed"] == 360


def test_browser_would_tell_of_mistakes(browse):
    wrong = '<div style="width: 2000px">wide</div><script>console.error("seen")</script>'
    found, errors = browse(full_page().replace("</main>", f"{wrong}</main>"), 360)
    assert found["needed"] >= 2000 > found["seen"]
    assert len(errors) == 1
