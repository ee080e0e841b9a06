"""How far does a head see? Trains the paper's heads on `far_ends` and draws their accuracy by the bars' length.

    pip install matplotlib==3.11.2
    python examples/far_ends_figure.py runs/far_ends docs/results

The first folder gets the runs, 2 minutes each on 2 CPU cores; one that is there already is not trained again. The
second gets `far_ends.png`, `far_ends.json`, which holds the figure's numbers, and in `far_ends/` what each run left:
its `metrics.jsonl` and `eval.json`. What is measured is the accuracy of
the pixels behind a bar's head, which alone tells the class; guessing among the three classes gives 33%.
"""

import json
import pathlib
import sys

import numpy as np
from run_list import keep, run_all, workdir_of

import gcn_jax
from gcn_jax.data import far_ends
from gcn_jax.data.shapes import SPLIT_SIZES
from gcn_jax.data.specs import VOID

SEEDS = (0, 1, 2)
HEADS = {
    "1x1": ("conv1x1", 1),
    "5x5": ("conv", 5),
    "stack of 3x3, k = 5": ("stack3x3", 5),
    "GCN, k = 3": ("gcn", 3),
    "GCN, k = 5": ("gcn", 5),
    "GCN, k = 9": ("gcn", 9),
}
COLORS = ("#767676", "#d55e00", "#cc79a7", "#56b4e9", "#0072b2", "#009e73")  # told apart by colour-blind people, too
EDGES = np.linspace(*far_ends.LENGTHS, 9)  # of the groups of lengths and of distances, pixels


def accuracy(workdir: pathlib.Path) -> np.ndarray:
    """The accuracy behind the heads, 0-1, by the bar's length and by the distance from its head: float [2, groups]."""
    segmenter = gcn_jax.load(workdir)
    right, number = np.zeros((2, 2, len(EDGES) - 1))
    for index in range(SPLIT_SIZES["val"]):
        image, label = far_ends.draw("val", index)
        is_right = segmenter.predict(image) == label
        for bar in far_ends.bars("val", index):
            behind = bar.from_head() - far_ends.WIDTH
            counted = (bar.distance() < 0) & (behind > 0) & (label != VOID)
            for row, values in enumerate((np.full(label.shape, bar.length), behind)):
                number[row] += np.histogram(values[counted], EDGES)[0]
                right[row] += np.histogram(values[counted & is_right], EDGES)[0]
    return right / number


def draw(measured: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Both accuracies of each head, float [seeds, 2, groups]: the mean, and one standard deviation either way."""
    import matplotlib.pyplot as plt  # needed for this alone

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    middles = (EDGES[1:] + EDGES[:-1]) / 2
    for color, (name, values) in zip(COLORS, measured.items(), strict=True):
        mean, deviation = 100 * values.mean(0), 100 * values.std(0, ddof=1)
        for row, axis in enumerate(axes):
            axis.errorbar(middles, mean[row], deviation[row], color=color, label=name, marker=".", capsize=2)
    for axis, title in zip(axes, ("length of the bar (px)", "distance from the bar's head (px)"), strict=True):
        axis.axhline(100 / 3, color="black", linewidth=0.8, linestyle=":")
        axis.set(xlabel=title, ylim=(0, 101))
    axes[0].set(ylabel="right pixels behind the head (%)")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(runs: pathlib.Path, output: pathlib.Path) -> None:
    """Trains, measures and draws."""
    arguments = {
        f"{head}_{k}": [f"--config.model.head={head}", f"--config.model.kernel_size={k}"] for head, k in HEADS.values()
    }
    results = run_all(runs, ["--config=configs/far_ends.py"], arguments, SEEDS)
    measured = {
        name: np.stack([accuracy(workdir_of(runs, f"{head}_{k}", seed)) for seed in SEEDS])
        for name, (head, k) in HEADS.items()
    }
    for (name, values), scores in zip(measured.items(), results.values(), strict=True):
        whole, longest = [100 * score["miou"] for score in scores], 100 * values[:, 0, -1]
        print(
            f"{name:20} mean IoU {np.mean(whole):5.1f} +- {np.std(whole, ddof=1):.1f}, "
            f"longest bars {np.mean(longest):5.1f} +- {np.std(longest, ddof=1):.1f}"
        )
    keep(runs, arguments, SEEDS, output / "far_ends")
    draw(measured, output / "far_ends.png")
    rows = ("by_length", "by_distance")
    content = {
        name: {row: values[:, i].round(4).tolist() for i, row in enumerate(rows)} for name, values in measured.items()
    }
    edges = {"edges": EDGES.tolist(), "seeds": list(SEEDS)}
    (output / "far_ends.json").write_text(json.dumps({**edges, "accuracy": content}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve())
