"""All decoders on photographs: the same backbone, images, steps and rates, and what came of it.

    python examples/compare_decoders.py --data_dir=ANIMALS --init_from=thin.safetensors --runs=RUNS DIR

Trains and evaluates `configs/animals.py:table` with each of `config.model.decoder`, 200 steps and one seed: enough to
see that each learns, not which is best. New norms follow the batch, the backbone's keep their statistics; the rates are
those of `gcn`, except for two. A run that is done is not made again, so that this goes on where it was stopped.
DIR gets what each run left, its `metrics.jsonl` and `eval.json`; the table is printed. `--only=gcn,pspnet` takes some
of the decoders alone, `--steps=500` trains longer.
"""

import json
import pathlib
from typing import Any

import numpy as np
from run_list import Results, common, keep, parse, run_all, workdir_of

from gcn_jax.models import DECODERS, build_model

SEED = 0
# A fifth of the rate, the backbone's unchanged, for deep stacks of convolutions without norms.
SLOWER = ["--config.optimizer.learning_rate=2e-4", "--config.optimizer.backbone_rate=0.25"]
OWN = {  # arguments of single decoders
    "lrr": ["--config.loss.auxiliary=1.0"],
    **dict.fromkeys(("dilated_large", "refinenet"), SLOWER),
}
SCORES = {
    "miou": "mean IoU",
    "internal_accuracy": "internal accuracy",
    "boundary_accuracy": "boundary accuracy",
    "boundary_iou": "Boundary IoU",
}


def arguments(decoder: str) -> list[str]:
    """The arguments of a decoder's run."""
    has_norms = hasattr(build_model(2, "resnet14", decoder=decoder).decoder, "norm")
    norms = ["--config.model.decoder_norm=train"] if has_norms else []
    return [f"--config.model.decoder={decoder}", *OWN.get(decoder, []), *norms]


def effective_side(workdir: pathlib.Path) -> float:
    """Of the receptive field in the middle of an image, pixels."""
    (run,) = json.loads((workdir / "receptive_field.json").read_text())["runs"].values()
    return run["pixels"][0]["effective_side"]


def of_one_class(result: dict[str, Any]) -> float:
    """The mean IoU of a prediction that is the most frequent class everywhere: what a run that learns nothing gets."""
    pixels = np.sum(result["confusion_matrix"], axis=1)
    return pixels.max() / pixels.sum() / np.count_nonzero(pixels)


def table(folder: pathlib.Path, results: Results) -> str:
    """Scores in percent, how far the first is above that of one class, and the receptive field, as a Markdown table."""
    first, *others = SCORES.values()
    head = ["decoder", first, "above one class", *others, "effective side (px)"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, (result,) in results.items():
        own, *rest = (100 * result[score] for score in SCORES)
        numbers = [own, own - 100 * of_one_class(result), *rest]
        cells = [f"`{name}`", *(f"{number:.1f}" for number in numbers)]
        lines.append(f"| {' | '.join([*cells, f'{effective_side(workdir_of(folder, name, SEED)):.0f}'])} |")
    return "\n".join(lines)


def main() -> None:
    """Trains, evaluates and prints."""
    args = parse(__doc__.splitlines()[0], DECODERS, "decoders", steps=200)
    shared = [*common(args), "--config.model.boundary_refine=True"]
    runs = {name: arguments(name) for name in args.only}
    modes = ("train", "receptive_field", "eval")
    results = run_all(args.runs, shared, runs, (SEED,), modes)
    keep(args.runs, runs, (SEED,), args.output)
    print(table(args.runs, results))


if __name__ == "__main__":
    main()
