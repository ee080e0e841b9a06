"""All decoders on photographs: the same backbone, images, steps and rates, and what came of it.

    python examples/compare_decoders.py --data_dir=ANIMALS --init_from=thin.safetensors --runs=RUNS docs/results

Trains and evaluates `configs/animals.py:table` with each of `config.model.decoder`, 200 steps and one seed: enough to
see that each learns, not which is best. A run that is done is not made again, so that this goes on where it was
stopped. The last folder gets, in `decoders/`, what each run left: its `metrics.jsonl` and `eval.json`; the table is
printed. `--only=gcn,pspnet` takes some of the decoders alone.
"""

import json
import pathlib
import statistics

from run_list import Results, keep, parse, run_all, workdir_of

from gcn_jax.models import DECODERS, build_model

SEED = 0
# Statistics of the norms that are new; those of the backbone are part of its kernels.
NORMS = ("--config.reestimate.batches=20", "--config.reestimate.batch_size=6", "--config.reestimate.part=decoder")
SCORES = {
    "miou": "mean IoU",
    "internal_accuracy": "internal accuracy",
    "boundary_accuracy": "boundary accuracy",
    "boundary_iou": "Boundary IoU",
}


def arguments(decoder: str) -> list[str]:
    """The arguments of a decoder's run."""
    has_norms = hasattr(build_model(2, "resnet14", decoder=decoder).decoder, "norm")
    others = ["--config.loss.auxiliary=1.0"] if decoder == "lrr" else []
    return [f"--config.model.decoder={decoder}", *others, *(NORMS if has_norms else ())]


def speed(workdir: pathlib.Path) -> float:
    """Images a second in training, the median of the logged."""
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return statistics.median(record["images_per_second"] for record in records if "images_per_second" in record)


def effective_side(workdir: pathlib.Path) -> float:
    """Of the receptive field in the middle of an image, pixels."""
    (run,) = json.loads((workdir / "receptive_field.json").read_text())["runs"].values()
    return run["pixels"][0]["effective_side"]


def table(folder: pathlib.Path, results: Results) -> str:
    """Scores in percent, effective side of the receptive field and speed, as a Markdown table."""
    head = ["decoder", *SCORES.values(), "effective side (px)", "images a second"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, (result,) in results.items():
        workdir = workdir_of(folder, name, SEED)
        scores = [f"{100 * result[score]:.1f}" for score in SCORES]
        cells = [f"`{name}`", *scores, f"{effective_side(workdir):.0f}", f"{speed(workdir):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Trains, evaluates and prints."""
    args = parse(__doc__.splitlines()[0], DECODERS, "decoders")
    where = [f"--config.data_dir={args.data_dir}", f"--config.init_from={args.init_from}"]
    budget = ["--config.num_steps=200", "--config.eval_every=200", "--config.model.boundary_refine=True"]
    runs = {name: arguments(name) for name in args.only}
    modes = ("train", "receptive_field", "eval")
    results = run_all(args.runs, ["--config=configs/animals.py:table", *where, *budget], runs, (SEED,), modes)
    keep(args.runs, runs, (SEED,), args.output / "decoders")
    print(table(args.runs, results))


if __name__ == "__main__":
    main()
