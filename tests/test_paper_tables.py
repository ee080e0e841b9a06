"""The tables of examples/paper_tables.py, from results that are made up; and a list of runs that was interrupted."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
import paper_tables  # noqa: E402
import run_list  # noqa: E402


def results(per_image, **scores):
    """The `eval.json`s of one run's seeds, from the accuracies of its images, [seeds, images]."""
    kept = {"miou": 0.5, "internal_accuracy": 0.5, "boundary_accuracy": 0.5, "boundary_iou": 0.5, **scores}
    own = [
        {f"i{i}": None if np.isnan(value) else float(value) for i, value in enumerate(values)} for values in per_image
    ]
    images = {f"{score}_per_image": own for score in ("internal_accuracy", "boundary_accuracy")}
    return [
        {**kept, "trimap_miou": {"3": 0.25}, **{key: values[seed] for key, values in images.items()}}
        for seed in range(len(per_image))
    ]


def test_a_claim_needs_all_seeds_and_a_small_p():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.9, (3, 80))
    noise = rng.normal(0, 0.05, (3, 80))
    noise -= noise.mean(1, keepdims=True)
    answers = {}
    for name, gain in {"up": (0.03, 0.02, 0.04), "down": (-0.03, -0.02, -0.04), "mixed": (0.1, -0.01, 0.1)}.items():
        both = {"a": results(base), "b": results(base + noise + np.array(gain)[:, None])}
        answers[name] = paper_tables.test(both, "internal_accuracy", "a", "b").split(" | ")
    assert [cells[-1] for cells in answers.values()] == ["shows", "does not show", "can't be told"]
    assert answers["up"][0] == "+3.00 (+3.00, +2.00, +4.00)"
    noise -= noise.mean()
    both = {"a": results(base), "b": results(base + rng.permuted(noise, axis=1) * 0.1)}
    assert paper_tables.test(both, "internal_accuracy", "a", "b").endswith("can't be told")


def test_an_image_without_an_inside_is_left_out():
    base = np.full((3, 10), 0.5)
    base[:, 0] = np.nan
    better = base + np.linspace(0.01, 0.02, 10)
    cells = paper_tables.test({"a": results(base), "b": results(better)}, "internal_accuracy", "a", "b").split(" | ")
    assert cells[1] == "9"
    np.testing.assert_allclose(float(cells[2]), 2 / 2**9, rtol=0.05)  # all 9 signs alike, both sides


def test_means_and_deviations_are_of_the_seeds():
    runs = results(np.full((3, 4), 0.5))
    for run, miou in zip(runs, (0.5, 0.52, 0.54), strict=True):
        run["miou"] = miou
    line = paper_tables.table({"gcn_7": runs}).splitlines()[2]
    assert line.startswith("| GCN, k = 7 | 52.0 ± 2.0 | 50.0 ± 0.0 |")


def test_a_list_of_runs_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """The second run fails once: the first is not trained again, and what is returned is what the runs left."""
    calls, failing = [], {"b_1"}

    def fake(command, **_):
        workdir = pathlib.Path(next(a for a in command if a.startswith("--workdir=")).removeprefix("--workdir="))
        mode = command[-1].removeprefix("--mode=")
        calls.append((workdir.name, mode))
        if mode == "eval":
            (workdir / "eval.json").write_text(json.dumps({"arguments": command[2:-1]}))
        return subprocess.CompletedProcess(command, int(mode == "train" and workdir.name in failing))

    monkeypatch.setattr(run_list.subprocess, "run", fake)
    runs = {"a": ["--x=1"], "b": ["--x=2"]}
    with pytest.raises(SystemExit, match=r"b_1: --mode=train failed; see .*b_1\.log"):
        run_list.run_all(tmp_path, ["--common"], runs, (0, 1))
    failing.clear()
    found = run_list.run_all(tmp_path, ["--common"], runs, (0, 1))
    jobs = [(f"{name}_{seed}", mode) for name in runs for seed in (0, 1) for mode in ("train", "eval")]
    assert calls == [*jobs[:-1], *jobs[-2:]]
    assert found["b"][1]["arguments"][:3] == ["--common", "--x=2", "--config.seed=1"]
