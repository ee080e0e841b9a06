"""Trains and evaluates a list of runs, one after the other, and goes on where it was stopped."""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
Results = dict[str, list[dict[str, Any]]]


def parse(about: str, names: Iterable[str], what: str, steps: int) -> argparse.Namespace:
    """The command line of a script that trains on photographs, and how many steps a run has by default.

    Returns:
      ``data_dir``, ``init_from``, ``runs`` and ``output``, absolute paths; ``only``, the names; ``steps``. Runs of as
      many steps have a folder of their own in ``--runs``: one that is done must not pass for a longer one.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(
        "--data_dir", type=_path, required=True, help="the folder that examples/animals_folder.py makes"
    )
    parser.add_argument("--init_from", type=_path, required=True, help="the file that examples/thin_backbone.py makes")
    parser.add_argument("--runs", type=_path, required=True, help="folder of the runs, in STEPS_steps")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(names), help=f"the {what} to take")
    parser.add_argument("--steps", type=int, default=steps, help="of each run")
    parser.add_argument("output", type=_path, help="folder for what is written")
    args = parser.parse_args()
    args.runs /= f"{args.steps}_steps"
    return args


def common(args: argparse.Namespace) -> list[str]:
    """The arguments of ``run.py`` that all runs of `parse`'s command line have."""
    paths = [f"--config.data_dir={args.data_dir}", f"--config.init_from={args.init_from}"]
    return [
        "--config=configs/animals.py:table",
        *paths,
        f"--config.num_steps={args.steps}",
        f"--config.eval_every={args.steps}",
    ]


def _path(text: str) -> pathlib.Path:
    return pathlib.Path(text).resolve()


def workdir_of(folder: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """The workdir of a run of the list."""
    return folder / f"{name}_{seed}"


def run_all(
    folder: pathlib.Path,
    shared: Sequence[str],
    runs: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    modes: Sequence[str] = ("train", "eval"),
) -> Results:
    """Trains and evaluates each run with each seed; a run whose workdir holds its ``eval.json`` is done.

    Args:
      folder: for the runs' workdirs and logs.
      shared: the arguments of ``run.py`` that all have.
      runs: for each run its name and its own arguments.
      seeds: each run is trained once with each.
      modes: of ``run.py``, one after the other; "eval" is the last.

    Returns:
      For each run the content of its ``eval.json``, seed by seed.

    Raises:
      SystemExit: naming the log of a run that failed; the runs before it are kept.
    """
    jobs = [(name, seed) for name in runs for seed in seeds]
    for place, (name, seed) in enumerate(jobs, 1):
        workdir = workdir_of(folder, name, seed)
        if (workdir / "eval.json").exists():
            continue
        print(f"{place}/{len(jobs)}: {workdir}", flush=True)
        arguments = [*shared, *runs[name], f"--config.seed={seed}", f"--workdir={workdir}"]
        workdir.mkdir(parents=True, exist_ok=True)
        with (folder / f"{workdir.name}.log").open("a") as log:
            for mode in modes:
                command = [sys.executable, "run.py", *arguments, f"--mode={mode}"]
                if subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False).returncode:
                    raise SystemExit(f"{workdir}: --mode={mode} failed; see {log.name}")
    return {
        name: [json.loads((workdir_of(folder, name, seed) / "eval.json").read_text()) for seed in seeds]
        for name in runs
    }


def keep(folder: pathlib.Path, names: Iterable[str], seeds: Sequence[int], output: pathlib.Path) -> None:
    """Copies what each run left, its ``metrics.jsonl`` and ``eval.json``, to ``output/NAME_SEED``."""
    for name in names:
        for seed in seeds:
            workdir = workdir_of(folder, name, seed)
            kept = output / workdir.name
            kept.mkdir(parents=True, exist_ok=True)
            for file in ("metrics.jsonl", "eval.json"):
                shutil.copy(workdir / file, kept)
