"""Draws the pictures of docs/results.md from a run of configs/animals.py, and keeps the run's numbers beside them.

    pip install matplotlib==3.11.2 scikit-image==0.26.0
    python docs/results/figures.py --data_dir=animals runs/animals

The run needs its `eval.json`. Written to the folder of this file: `photographs.jpg`, free photographs that the two
packages ship and their masks, with a short form in docs/pictures; `labels.png`, masks of images of the validation
split, chosen by rank; and, in `animals/`, the run's `metrics.jsonl` and `eval.json`.
"""

import argparse
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import matplotlib.cbook
import matplotlib.pyplot as plt
import numpy as np
import skimage.data
from PIL import Image

import gcn_jax
from gcn_jax.checkpoints import saved_config
from gcn_jax.config import settings
from gcn_jax.data.pictures import overlay, stack
from gcn_jax.data.sources import open_source
from gcn_jax.data.specs import VOID

HERE = pathlib.Path(__file__).parent
SIDE = 500  # px, the longest side of VOC's photographs
MULTI_SCALE = "multi-scale, mirrored"
PROTOCOLS: dict[str, dict[str, Any]] = {
    "one pass": {},
    MULTI_SCALE: {"scales": (0.4, 0.5, 0.6), "flip": True},
    "... and the CRF": {"scales": (0.4, 0.5, 0.6), "flip": True, "crf": "voc"},
}
# Of the classes, in place of VOC's, which are dark: background is not drawn.
COLORS = ((0, 0, 0), (230, 60, 0), (0, 158, 115), (86, 100, 255), (204, 50, 200), (255, 200, 0), (0, 220, 240))
QUANTILES = (0.95, 0.75, 0.5, 0.25, 0.05)  # of the validation images, by their own mean IoU: what is shown


def photographs() -> dict[str, Image.Image]:
    """All photographs of scenes in the two packages that are in the public domain or CC0, as their docs state."""
    names = ("chelsea", "astronaut", "camera", "coffee", "rocket")
    found = {name: Image.fromarray(getattr(skimage.data, name)()) for name in names}
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        found["grace_hopper"] = Image.open(file).convert("RGB")
    for name, image in found.items():
        factor = SIDE / max(image.size)
        size = round(image.width * factor), round(image.height * factor)
        found[name] = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return found


def show_photographs(workdir: pathlib.Path, protocols: Sequence[str], path: pathlib.Path) -> None:
    """Each photograph, and its masks by some of the protocols."""
    images = {name: np.asarray(image) for name, image in photographs().items()}
    segmenters = [gcn_jax.load(workdir, **PROTOCOLS[protocol]) for protocol in protocols]
    names, occurring = segmenters[0].spec.class_names, set()
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(COLORS)] = COLORS
    size = 13, 0.4 + 2.05 * (1 + len(protocols))
    figure, axes = plt.subplots(1 + len(protocols), len(images), figsize=size, layout="constrained")
    for column, (name, image) in zip(axes.T, images.items(), strict=True):
        column[0].imshow(image)
        column[0].set_title(name, fontsize=9)
        for axis, segmenter in zip(column[1:], segmenters, strict=True):
            label = segmenter.predict(image)
            occurring |= set(np.unique(label)) - {0}
            axis.imshow(overlay(image, label, palette))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[:, 0], ("photograph", *protocols), strict=True):
        axis.set_ylabel(title, fontsize=9)
    for i in sorted(occurring):
        axes[-1, 0].plot([], [], "s", color=palette[i] / 255, label=names[i])
    figure.legend(loc="outside lower center", ncols=len(occurring), fontsize=9, frameon=False)
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 88})


def show_labels(workdir: pathlib.Path, data_dir: str) -> None:
    """Truth and prediction of some validation images, side by side; no photograph."""
    segmenter, scores = gcn_jax.load(workdir), json.loads((workdir / "eval.json").read_text())["miou_per_image"]
    config = saved_config.load(workdir)
    config.data_dir = data_dir
    source = open_source("eval", settings.datasets(config))
    ranked = sorted((name for name, score in scores.items() if score is not None), key=scores.__getitem__)
    rows = []
    for quantile in QUANTILES:
        sample = source[list(source.image_ids).index(ranked[round(quantile * (len(ranked) - 1))])]
        truth = sample["label"]
        maps = [truth, np.where(truth == VOID, VOID, segmenter.predict(sample["image"]))]
        wide = [np.pad(segmenter.spec.palette()[m], ((0, 0), (0, 8), (0, 0)), constant_values=255) for m in maps]
        row = Image.fromarray(np.concatenate(wide, axis=1))
        rows.append(np.asarray(row.resize((row.width // 2, row.height // 2), Image.Resampling.NEAREST)))
        print(f"row: {sample['image_id']}, mean IoU {100 * scores[sample['image_id']]:.1f} %")
    Image.fromarray(stack(rows)).quantize(64).save(HERE / "labels.png", optimize=True)


def main() -> None:
    """Draws and copies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("workdir", type=pathlib.Path)
    args = parser.parse_args()
    (HERE / "animals").mkdir(exist_ok=True)
    for file in ("metrics.jsonl", "eval.json"):
        shutil.copy(args.workdir / file, HERE / "animals")
    show_photographs(args.workdir, list(PROTOCOLS), HERE / "photographs.jpg")
    show_photographs(args.workdir, [MULTI_SCALE], HERE.parent / "pictures" / "photographs.jpg")
    show_labels(args.workdir, args.data_dir)


if __name__ == "__main__":
    main()
