"""Draws what docs/results.md shows from the workdirs of its runs, and keeps their numbers beside it.

    pip install matplotlib==3.11.2
    python docs/results/figures.py --data_dir=DIR baseline=runs/results/baseline gcn=runs/results/gcn ...

Each run needs its `eval.json`. Written to the folder of this file: the runs' `metrics.jsonl` and `eval.json`, curves
`training.png`, the boundaries' `trimap.png`, the sample label maps `labels.png`; the table of scores is printed.
"""

import argparse
import json
import pathlib
import shutil
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import gcn_jax
from gcn_jax.checkpoints import saved_config
from gcn_jax.config import settings
from gcn_jax.data.pictures import stack
from gcn_jax.data.sources import open_source
from gcn_jax.data.specs import VOID
from gcn_jax.evaluation.counts import SCORES
from gcn_jax.training.run_log import read_records

HERE = pathlib.Path(__file__).parent
COLORS = ("#767676", "#0072b2", "#d55e00", "#009e73")  # told apart by colour-blind people, too
QUANTILES = (0.98, 0.9, 0.8, 0.65, 0.5)  # of the last run's images, by their own mean IoU: what is shown


def curves(records: dict[str, list[dict[str, float]]]) -> None:
    """Loss and mean IoU by step."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for color, (name, lines) in zip(COLORS, records.items(), strict=False):
        for axes, key, factor, marker in ((left, "loss", 1, ""), (right, "miou", 100, ".")):
            steps, values = np.transpose([(line["step"], line[key]) for line in lines if key in line])
            axes.plot(steps, factor * values, color=color, label=name, marker=marker)
    left.set(xlabel="step", ylabel="training loss, mean of 10 steps")
    right.set(xlabel="step", ylabel="mean IoU (%)")
    right.legend()
    figure.savefig(HERE / "training.png", dpi=110)


def trimaps(results: dict[str, dict[str, Any]]) -> None:
    """Mean IoU of the pixels near boundaries."""
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    for color, (name, result) in zip(COLORS, results.items(), strict=False):
        widths, values = zip(*((int(w), 100 * miou) for w, miou in result["trimap_miou"].items()), strict=True)
        axes.plot(widths, values, color=color, marker=".", label=name)
    axes.set(xlabel="up to px from a boundary", ylabel="mean IoU (%)")
    axes.legend()
    figure.savefig(HERE / "trimap.png", dpi=110)


def label_maps(workdirs: dict[str, pathlib.Path], results: dict[str, dict[str, Any]], data_dir: str) -> None:
    """Truth and each run's labels of some images, side by side; no photograph."""
    segmenters = [gcn_jax.load(workdir) for workdir in workdirs.values()]
    config = saved_config.load(list(workdirs.values())[-1])
    config.data_dir = data_dir
    source = open_source("eval", settings.datasets(config))
    scores = list(results.values())[-1]["miou_per_image"]
    ranked = sorted((name for name, score in scores.items() if score is not None), key=scores.__getitem__)
    palette = segmenters[-1].spec.palette()
    rows = []
    for quantile in QUANTILES:
        sample = source[list(source.image_ids).index(ranked[round(quantile * (len(ranked) - 1))])]
        truth = sample["label"]
        maps = [truth, *(np.where(truth == VOID, VOID, s.predict(sample["image"])) for s in segmenters)]
        wide = [np.pad(palette[label], ((0, 0), (0, 8), (0, 0)), constant_values=255) for label in maps]
        row = Image.fromarray(np.concatenate(wide, axis=1))
        rows.append(np.asarray(row.resize((row.width // 2, row.height // 2), Image.Resampling.NEAREST)))
        print(f"row: {sample['image_id']}, mean IoU {100 * scores[sample['image_id']]:.1f} %")
    Image.fromarray(stack(rows)).quantize(64).save(HERE / "labels.png", optimize=True)


def main() -> None:
    """Draws, copies and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("runs", nargs="+", metavar="NAME=WORKDIR")
    args = parser.parse_args()
    workdirs = {name: pathlib.Path(path) for name, path in (run.split("=", 1) for run in args.runs)}
    results = {name: json.loads((workdir / "eval.json").read_text()) for name, workdir in workdirs.items()}
    for name, workdir in workdirs.items():
        (HERE / name).mkdir(exist_ok=True)
        for file in ("metrics.jsonl", "eval.json"):
            shutil.copy(workdir / file, HERE / name)
    curves({name: read_records(workdir) for name, workdir in workdirs.items()})
    trimaps(results)
    label_maps(workdirs, results, args.data_dir)
    print("| | " + " | ".join(results) + " |\n|" + " --- |" * (len(results) + 1))
    for key, title in SCORES.items():
        print(f"| {title} | " + " | ".join(f"{100 * result[key]:.2f}" for result in results.values()) + " |")


if __name__ == "__main__":
    main()
