"""A report's page as tests make it, and read it back."""

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from gcn_jax.data.specs import ClassSpec, DatasetSpec
from gcn_jax.report import page as report

EVIL = "<b>&\"x' onload=1"
SPEC = DatasetSpec(
    "tiny", tuple(map(ClassSpec, ("road", EVIL, "sky", "tram"), [(9, 9, 9), (200, 0, 9), (0, 0, 250), (1, 2, 3)]))
)
# The last class is neither in truth nor in prediction; "sky" is only predicted.
COUNTS = [[12345, 400, 5, 0], [30, 70, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
RESULT = {
    "step": 1200,
    "num_images": 5,
    "data": "cityscapes/val",
    "protocol": {"scales": [1.0], "flip": False, "window": 0, "stride": 0},
    "miou": 0.51234, "pixel_accuracy": 0.9, "mean_accuracy": 0.83, "frequency_weighted_iou": 0.81239,
    "boundary_accuracy": 0.4, "internal_accuracy": 0.955, "boundary_iou": None, "loss": 0.34567, "boundary_width": 7,
    "trimap_miou": {"1": 0.2, "2": 0.25, "5": None, "20": 0.45},
    "iou_per_class": {"road": 0.25, EVIL: 0.75, "sky": 0.0, "tram": None},
    "accuracy_per_class": {"road": 0.3, EVIL: 0.8, "sky": None, "tram": None},
    "boundary_iou_per_class": {"road": 0.125, EVIL: None, "sky": 0.0, "tram": None},
    "calibration": {
        "ece": 0.0321,
        "bins": [
            {"count": 0, "confidence": None, "accuracy": None},
            {"count": 100, "confidence": 0.5, "accuracy": 0.25},
            {"count": 300, "confidence": 0.9, "accuracy": 0.95},
        ],
    },
    "confusion_matrix": COUNTS,
    "miou_per_image": {"a": 0.12, "b": 0.13, "c": 0.97, "d": 1.0, "e": None},
}  # fmt: skip
RECORDS = [
    {"step": 100, "loss": 2.0, "learning_rate": 0.01},
    {"step": 200, "loss": float("nan"), "learning_rate": 0.005},
    {"step": 200, "miou": 0.3, "pixel_accuracy": 0.5},
    {"step": 300, "loss": 0.5, "learning_rate": 0.0},
    {"step": 400, "loss": 1.1, "learning_rate": 0.0},
]


class Parser(HTMLParser):
    """Builds a tree of a page, strictly: every element is closed, in order."""

    EMPTY = ("meta", "img", "br")

    def __init__(self):
        super().__init__()
        self.builder, self.open = ElementTree.TreeBuilder(), ["root"]
        self.builder.start("root", {})

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"repeated attributes: {attrs}"
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in self.EMPTY:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.builder.end(tag)

    def handle_startendtag(self, tag, attrs):
        self.builder.start(tag, dict(attrs))
        self.builder.end(tag)

    def handle_data(self, data):
        self.builder.data(data)


def parse(page):
    parser = Parser()
    parser.feed(page)
    parser.close()
    assert parser.open == ["root"]
    parser.builder.end("root")
    return parser.builder.close()


def render(title="run", result=RESULT, spec=SPEC, records=RECORDS, examples=(), runs=None, field=None, best_by="miou"):
    return report.render(title, result, spec, records, list(examples), runs or {title: result}, field, best_by)


def text(element):
    return "".join(element.itertext())


def section(page, name):
    (found,) = parse(page).findall(f".//section[@id='{name}']")
    return found


def picture(img):
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", img.get("src")).groups()
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        assert image.format.lower() == kind
        assert image.size == (int(img.get("width")), int(img.get("height")))
        return np.asarray(image.convert("RGB"))
