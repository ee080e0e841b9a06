"""The paper's tables 1, 2, 3 and 5 at a small scale: each head three times with one budget, with error bars and tests.

    pip install matplotlib==3.11.2
    python examples/paper_tables.py --data_dir=ANIMALS --init_from=thin.safetensors --runs=runs/tables docs/results

Trains and evaluates configs/animals.py:table, one run after the other; a run that is done is not trained again. The
last folder gets `tables.png` and, in `tables/`, what each run left: its `metrics.jsonl` and `eval.json`; the tables are
printed. `--only=baseline,gcn_7` takes some of the runs alone.

Tests: for each image the mean over the seeds of its accuracy inside objects, or near boundaries, with one head and with
the other; Wilcoxon's signed-rank test of the differences over the images, two-sided. A claim "shows" if p < 0.05 and
the mean over images of the difference is positive with each seed; "does not show" if p < 0.05 and it is negative with
each; else it "can't be told".
"""

import pathlib
from typing import Any

import numpy as np
from run_list import Results, common, keep, parse, run_all
from scipy.stats import wilcoxon

SEEDS = (0, 1, 2)
# Each run's name, its title, and its arguments after --config.model.
RUNS = {
    "baseline": ("1x1 baseline", ("head=conv1x1",)),
    "gcn_7": ("GCN, k = 7", ("kernel_size=7",)),
    "gcn_7_br": ("GCN, k = 7, + BR", ("kernel_size=7", "boundary_refine=True")),
    "gcn_3": ("GCN, k = 3", ("kernel_size=3",)),
    "conv_7": ("7x7", ("head=conv", "kernel_size=7")),
    "stack_7": ("stack of 3x3, k = 7", ("head=stack3x3", "kernel_size=7", "head_width=64")),
    "gcn_11": ("GCN, k = 11", ("kernel_size=11",)),
    "conv_3": ("3x3", ("head=conv", "kernel_size=3")),
    "gcn_7_concat": ("GCN, k = 7, concatenated", ("kernel_size=7", "branches=concat")),
    "strips_7": ("SLaK's parallel strips, k = 7", ("head=strips", "kernel_size=7")),
}
SCORES = {
    "miou": "mean IoU",
    "internal_accuracy": "internal accuracy",
    "boundary_accuracy": "boundary accuracy",
    "boundary_iou": "Boundary IoU",
}
TRIMAP = "3"  # px on each side of a boundary
# What the paper claims: the score of each image that the second run lifts, as against the first.
CLAIMS = (
    ("GCN lifts the inside (table 5)", "internal_accuracy", "baseline", "gcn_7"),
    ("BR lifts the boundary (table 5)", "boundary_accuracy", "gcn_7", "gcn_7_br"),
    ("GCN is above a stack of 3x3 (table 3)", "internal_accuracy", "stack_7", "gcn_7"),
    ("GCN is above a k x k convolution (table 2)", "internal_accuracy", "conv_7", "gcn_7"),
    ("a larger k lifts the inside (table 1)", "internal_accuracy", "gcn_3", "gcn_7"),
)


def values(results: list[dict[str, Any]], score: str) -> np.ndarray:
    """A score of each seed, in percent."""
    found = [result["trimap_miou"][TRIMAP] if score == "trimap" else result[score] for result in results]
    return 100 * np.array(found)


def table(results: Results) -> str:
    """Mean and standard deviation of each run's scores, as a Markdown table."""
    columns = {**SCORES, "trimap": f"mean IoU up to {TRIMAP} px from a boundary"}
    lines = [f"| | {' | '.join(columns.values())} |", f"| --- |{' --- |' * len(columns)}"]
    for name, runs in results.items():
        cells = [f"{values(runs, score).mean():.1f} ± {values(runs, score).std(ddof=1):.1f}" for score in columns]
        lines.append(f"| {RUNS[name][0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test(results: Results, score: str, first: str, second: str) -> str:
    """A paired test of a score of the images, as cells of a Markdown table: difference, p and the answer."""
    images = results[first][0][f"{score}_per_image"]
    both = []
    for name in (first, second):
        own = [[result[f"{score}_per_image"][image] for image in images] for result in results[name]]
        both.append(np.array(own, np.float64))  # None, of an image without such pixels, becomes NaN
    difference = 100 * (both[1] - both[0])
    difference = difference[:, np.isfinite(difference).all(0)]
    by_seed, p = difference.mean(1), wilcoxon(difference.mean(0)).pvalue
    answer = "can't be told"
    if p < 0.05 and (by_seed > 0).all():
        answer = "shows"
    elif p < 0.05 and (by_seed < 0).all():
        answer = "does not show"
    seeds = ", ".join(f"{d:+.2f}" for d in by_seed)
    return f"{by_seed.mean():+.2f} ({seeds}) | {difference.shape[1]} | {p:.3g} | {answer}"


def tests(results: Results) -> str:
    """All claims whose runs are there, as a Markdown table."""
    lines = ["| claim | mean difference (each seed) | images | p | answer |", "| --- | --- | --- | --- | --- |"]
    for claim, score, first, second in CLAIMS:
        if first in results and second in results:
            lines.append(f"| {claim} | {test(results, score, first, second)} |")
    return "\n".join(lines)


def draw(results: Results, path: pathlib.Path) -> None:
    """Each run's seeds, and their mean, by three scores."""
    import matplotlib.pyplot as plt  # needed for this alone

    scores = ("miou", "internal_accuracy", "boundary_accuracy")
    figure, axes = plt.subplots(
        1, len(scores), figsize=(10, 0.7 + 0.32 * len(results)), layout="constrained", sharey=True
    )
    for axis, score in zip(axes, scores, strict=True):
        for place, runs in enumerate(results.values()):
            own = values(runs, score)
            axis.plot(own, [place] * len(own), "o", color="#0072b2", alpha=0.5, markeredgewidth=0)
            axis.plot(own.mean(), place, "|", color="black", markersize=14)
        axis.set(xlabel=f"{SCORES[score]} (%)")
        axis.grid(axis="y", linewidth=0.4)
    axes[0].set_yticks(range(len(results)), [RUNS[name][0] for name in results])
    axes[0].set_ylim(len(results) - 0.5, -0.5)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Trains, evaluates, draws and prints."""
    args = parse(__doc__.splitlines()[0], RUNS, "runs", steps=500)
    runs = {name: [f"--config.model.{argument}" for argument in RUNS[name][1]] for name in args.only}
    results = run_all(args.runs, common(args), runs, SEEDS)
    keep(args.runs, runs, SEEDS, args.output / "tables")
    draw(results, args.output / "tables.png")
    print(f"{table(results)}\n\n{tests(results)}")


if __name__ == "__main__":
    main()
