"""Compares the time for the metrics of an image, and for a whole evaluation, with the usual tools.

    python -m bench.evaluate --data_dir=DIR

The metrics are of one image of 1024x2048 pixels and 19 classes, with arrays in memory. The truth is the first image of
Cityscapes' val split in DIR (without DIR it is drawn); the prediction is the truth moved by some pixels. Ours computes
everything at once: confusion, trimaps, boundary regions. The others are cityscapesscripts' evaluator (with its C
extension if it is installed; PyPI's package does not hold its source, so that a loop in C stands in for it if there is
a compiler), SciPy's distance transform and erosions, and OpenCV's precise distance transform.

The evaluation is of 50 images of VOC's val split in DIR (without DIR, of drawn images of VOC's size) with ResNet-152,
k = 15. It is compared with only the network's forward passes, on padded images in memory.
"""

import argparse
import ctypes
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813
from PIL import Image
from scipy import ndimage

from bench.pipeline import draw_voc
from bench.timing import compare
from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.data import shapes
from gcn_jax.data.samples import Selection
from gcn_jax.data.sources import open_source
from gcn_jax.data.specs import CITYSCAPES_RAW_IDS, CITYSCAPES_TRAIN_IDS, VOID
from gcn_jax.data.transforms import pad
from gcn_jax.evaluation import boundary
from gcn_jax.evaluation.counts import Counts, class_iou, histogram
from gcn_jax.evaluation.evaluator import Evaluator
from gcn_jax.inference.labeller import Labeller
from gcn_jax.models import init_variables
from gcn_jax.models.preprocessing import normalize
from gcn_jax.runtime.mesh import local_mesh, make_mesh

NUM_CLASSES = 19
C_LOOP = """
void count(const unsigned char *prediction, const unsigned char *truth, unsigned n, unsigned long long *counts,
           unsigned size) {
    for (unsigned i = 0; i < n; i++) counts[size * truth[i] + prediction[i]]++;
}
"""


def timed(function: Callable[[], Any]) -> Callable[[], float]:
    """Makes a function that calls another one and returns the seconds that this took."""

    def measure() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return measure


def cityscapes_truth(data_dir: str) -> np.ndarray:
    """Raw label ids of a street scene, uint8 [1024, 2048]."""
    found = sorted(pathlib.Path(data_dir or "/nowhere").glob("**/gtFine/val/*/*_labelIds.png"))
    if found:
        with Image.open(found[0]) as image:
            return np.array(image)
    drawn = np.full((1024, 2048), 7, np.uint8)
    for i in range(72):
        top, left = 170 * (i // 12), 170 * (i % 12)
        label = shapes.draw("val", i)[1].repeat(3, 0).repeat(3, 1)[:170, :170]
        part = drawn[top : top + 170, left : left + 170]
        label = label[: part.shape[0], : part.shape[1]]
        inside = (label > 0) & (label != VOID)
        part[: label.shape[0], : label.shape[1]][inside] = CITYSCAPES_RAW_IDS[(label[inside] + i) % NUM_CLASSES]
    return drawn


class InMemory:
    """Stands in for PIL.Image in the official evaluator, so that no file is read."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self._images = {name: Image.fromarray(array) for name, array in arrays.items()}

    def open(self, name: str) -> Image.Image:
        return self._images[name]


def official_iou(truth: np.ndarray, prediction: np.ndarray) -> Callable[[], Any]:
    """cityscapesscripts' class IoUs of raw label ids."""
    official.Image = InMemory({"truth": truth, "prediction": prediction})
    official.args.evalInstLevelScore = official.args.evalPixelAccuracy = False

    def evaluate() -> list[float]:
        confusion = official.generateMatrix(official.args)
        official.evaluatePair("prediction", "truth", confusion, {}, {}, official.args)
        return [official.getIouScoreForLabel(label, confusion, official.args) for label in official.args.evalLabels]

    return evaluate


def c_loop(truth: np.ndarray, prediction: np.ndarray, folder: pathlib.Path) -> Callable[[], Any]:
    """A confusion matrix counted by a loop in C, as cityscapesscripts' extension does."""
    (folder / "count.c").write_text(C_LOOP, encoding="utf-8")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", folder / "count.so", folder / "count.c"], check=True)
    library = ctypes.CDLL(str(folder / "count.so"))
    counts = np.zeros((256, 256), np.uint64)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (prediction, truth)]
    return lambda: library.count(*pointers, truth.size, ctypes.c_void_p(counts.ctypes.data), 256)


def our_iou(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Only the IoU of each class."""
    return class_iou(histogram(label != VOID, (label, NUM_CLASSES), (prediction, NUM_CLASSES + 1)))


def scipy_distance(label: np.ndarray) -> np.ndarray:
    """The distance of each pixel to the nearest boundary."""
    return ndimage.distance_transform_edt(~boundary.on_boundary(label))


def scipy_boundaries(label: np.ndarray, prediction: np.ndarray) -> list[np.ndarray]:
    """The same counts as in `Counts`, computed by SciPy from distances and erosions of each class's masks."""
    band = np.digitize(scipy_distance(label), boundary.WIDTHS, right=True)
    is_counted = label != VOID
    cells = (band[is_counted] * NUM_CLASSES + label[is_counted]) * (NUM_CLASSES + 1) + prediction[is_counted]
    counts = [np.bincount(cells, minlength=(len(boundary.WIDTHS) + 1) * NUM_CLASSES * (NUM_CLASSES + 1))]
    times, square = boundary.erosions(*label.shape), np.ones((3, 3))
    for i in range(NUM_CLASSES):
        regions = [(m == i) & ~ndimage.binary_erosion(m == i, square, times) & is_counted for m in (label, prediction)]
        counts.append(np.array([regions[0].sum(), regions[1].sum(), (regions[0] & regions[1]).sum()]))
    return counts


def metric_cases(data_dir: str, folder: pathlib.Path) -> dict[str, dict[str, Callable[[], float]]]:
    """Functions that time the metrics of one image, computed by us and by others."""
    raw = cityscapes_truth(data_dir)
    label = CITYSCAPES_TRAIN_IDS[raw]
    prediction = np.roll(np.where(label == VOID, 0, label), (3, 5), (0, 1)).astype(np.uint8)
    raw_prediction = CITYSCAPES_RAW_IDS[prediction]
    edges = (~boundary.on_boundary(label)).astype(np.uint8)
    iou = {
        "ours": timed(partial(our_iou, label, prediction)),
        "cityscapesscripts" + ", C" * official.CSUPPORT: timed(official_iou(raw, raw_prediction)),
    }
    if shutil.which("cc"):
        iou["a loop in C"] = timed(c_loop(raw, raw_prediction, folder))
    count = partial(Counts.of_image, label=label, prediction=prediction, num_classes=NUM_CLASSES)
    return {
        "class IoU": iou,
        "distance": {
            "ours": timed(partial(boundary.distance_band, label)),
            "SciPy": timed(partial(scipy_distance, label)),
            "OpenCV": timed(partial(cv2.distanceTransform, edges, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)),
        },
        "all metrics": {"ours": timed(count), "SciPy": timed(partial(scipy_boundaries, label, prediction))},
    }


def evaluation_case(data_dir: str, folder: pathlib.Path, backbone: str) -> dict[str, Callable[[], float]]:
    """Functions that time a whole evaluation of 50 images, and only its forward passes."""
    config = config_lib.default()
    config.data.update(train="voc_segmentation/train", eval="voc_segmentation/val")
    config.update(data_dir=data_dir, cache_dir=str(folder / "cache"))
    config.model.backbone = backbone
    if not data_dir:
        draw_voc(folder, 50)
        config.data_dir = str(folder)
    source = Selection([open_source("eval", settings.datasets(config))], [(0, i) for i in range(50)])
    model, preprocessing = config_lib.model_from(config), settings.preprocessing(config)
    variables = jax.device_put(init_variables(model, 0))
    labeller = Labeller(model, preprocessing, settings.protocol(config), local_mesh(make_mesh(1, 1)))
    evaluator = Evaluator(source, labeller, settings.spec_from(config), settings.reading(config))
    size = config.data.size
    images = [pad(sample["image"], size, size, config.data.mean)[None] for sample in map(source.__getitem__, range(50))]

    @jax.jit
    def forward(images: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, normalize(images, preprocessing), train=False)
        return jnp.argmax(logits, axis=-1).astype(jnp.uint8)

    forward(images[0]).block_until_ready()
    evaluator(variables)  # compiles
    return {
        "ours": timed(partial(evaluator, variables)),
        "forward passes alone": timed(lambda: [np.asarray(forward(image)) for image in images]),
    }


def main() -> None:
    """Measures the times and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="", help="folder that holds VOCdevkit/ and cityscapes/")
    parser.add_argument("--rounds", type=int, default=15, help="of the metrics")
    parser.add_argument("--evaluations", type=int, default=3, help="rounds of the whole evaluation; 0: leave it out")
    parser.add_argument("--backbone", default="resnet152")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        cases = metric_cases(args.data_dir, folder)
        rounds = dict.fromkeys(cases, args.rounds)
        if args.evaluations:
            cases["evaluation of 50 images"] = evaluation_case(args.data_dir, folder, args.backbone)
            rounds["evaluation of 50 images"] = args.evaluations
        versions = ("jax", "numpy", "scipy", "cityscapesscripts", "opencv-python-headless")
        compare("evaluate", cases, rounds=rounds, versions=versions)


if __name__ == "__main__":
    main()
