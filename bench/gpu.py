"""Measures everything on the GPU of this machine: `python -m bench.gpu`, at most 8 minutes.

    pip install -c requirements.txt ".[cuda]" torch && python -m bench.gpu [--cases step_bfloat16_16 crf ...]

Steps of ResNet-152, k = 15, 512x512 in bfloat16 and float32 at batch 16, 1 and 4, beside the PyTorch twin (in
channels_last, with autocast, also with torch.compile), with what the plan says of them; the demo; an evaluation; the
CRF; and whether a run that was killed ends with the same bits. Each case is a process of its own with a limit of time:
one that fails, hangs or finds no time left takes no other with it. What is measured is printed at once as a table, and
at the end as a line of JSON. Without a GPU it measures the CPU; `--backbone=resnet14 --size=64` suit that.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench import network

ROOT = pathlib.Path(__file__).parents[1]
STEPS = [f"step_{dtype}_{batch}" for dtype in ("bfloat16", "float32") for batch in (16, 1, 4)]
CASES = ["device", *STEPS[:2], "demo", "resume", "evaluation", "crf", *STEPS[2:]]
_TINY = ("--config=configs/shapes.py", "--config.eval_every=1000000", "--config.checkpoint_every=10")
Measured = Callable[[str, Any], None]  # prints what was measured: its name and value


def device(args: argparse.Namespace, tell: Measured) -> None:
    """Which device it is, and which versions."""
    import jax

    tell("device", jax.devices()[0].device_kind)
    tell("devices", jax.device_count())
    for package in ("jax", "flax", "torch", "nvidia-cudnn-cu13"):
        if importlib.util.find_spec(package.split("-")[0]):
            try:
                tell(package, importlib.metadata.version(package))
            except importlib.metadata.PackageNotFoundError:
                continue


def step(dtype: str, batch: int, args: argparse.Namespace, tell: Measured) -> None:
    """The time of a training step, ours and PyTorch's, in turns; and what the plan says of ours."""
    options = argparse.Namespace(**vars(args), dtype=dtype, remat=False)
    makers: dict[str, tuple[Any, ...]] = {"ours": (network.ours, "train_step", options, batch)}
    twin = (network.twin, "train_step", options, batch, True)
    if importlib.util.find_spec("torch"):
        makers["PyTorch"] = twin
    else:
        tell("PyTorch", "left out: torch is not installed")
    ready = _started(makers, tell)
    _in_turns(ready, args.rounds, tell)
    for name, contestant in ready.items():
        for fact, value in contestant.facts().items():
            tell(f"{name}: {fact}", value)
    if "PyTorch" in makers and dtype == "bfloat16":  # last, since its compiler may not work here, or take long
        ready |= _started({"PyTorch, compiled": (*twin, True)}, tell)
        if "PyTorch, compiled" in ready:
            _in_turns(ready, args.rounds, tell)


def _started(makers: dict[str, tuple[Any, ...]], tell: Measured) -> dict[str, network.Contestant]:
    """Those contestants that can be started; their compilers run at the same time."""
    ready: dict[str, network.Contestant] = {}
    with ThreadPoolExecutor(len(makers)) as pool:
        starting = {name: pool.submit(network.Contestant, *maker) for name, maker in makers.items()}
        for name, future in starting.items():
            try:
                ready[name] = future.result()
                tell(f"{name}: first call, s", ready[name].first_seconds)
            except ChildProcessError as error:
                tell(name, f"left out: {error}")
    return ready


def _in_turns(ready: dict[str, network.Contestant], rounds: int, tell: Measured) -> None:
    """Times all that are ready, and tells the medians, and our ratio to each of the others."""
    times: dict[str, list[float]] = {name: [] for name in ready}
    for i in range(rounds):
        for name in list(ready)[:: -1 if i % 2 else 1]:
            times[name].append(ready[name]())
    seconds = {name: statistics.median(values) for name, values in times.items()}
    for name, value in seconds.items():
        tell(f"{name}: ms", 1e3 * value)
    if ours := ready.get("ours"):
        if ours.peak and ours.flops:
            tell("ours: MFU", ours.flops / seconds["ours"] / ours.peak)
        for name in set(ready) - {"ours"}:
            tell(f"ours / {name}", seconds["ours"] / seconds[name])


def demo(args: argparse.Namespace, tell: Measured) -> None:
    """The demo's training and evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        shared = (f"--workdir={folder}/run", f"--config.cache_dir={folder}/cache", *args.demo)
        start = time.perf_counter()
        _run("--config=configs/shapes.py", *shared)
        tell("training, s", time.perf_counter() - start)
        _run("--config=configs/shapes.py", "--mode=eval", *shared)
        tell("mean IoU", json.loads(pathlib.Path(folder, "run/eval.json").read_text("utf-8"))["miou"])


def resume(args: argparse.Namespace, tell: Measured) -> None:
    """Whether a run that was killed (SIGKILL), and went on, ends with the bits of one that was not."""
    from gcn_jax.checkpoints.manager import load_variables

    with tempfile.TemporaryDirectory() as folder:
        both = (*_TINY, f"--config.cache_dir={folder}/cache", *args.demo, "--config.num_steps=40")
        _run(*both, f"--workdir={folder}/whole")
        killed = subprocess.Popen(_command(*both, f"--workdir={folder}/killed"), cwd=ROOT, stdout=subprocess.DEVNULL)
        while killed.poll() is None and not list(pathlib.Path(folder, "killed/checkpoints").glob("[12]0")):
            time.sleep(0.02)
        killed.kill()
        killed.wait()
        tell("killed", killed.returncode == -signal.SIGKILL)
        _run(*both, f"--workdir={folder}/killed")
        import jax

        states = [load_variables(pathlib.Path(folder, name), "latest", averaged=False) for name in ("whole", "killed")]
        leaves = [jax.tree.leaves(variables) for _, variables in states]
        equal = [np.array_equal(one, other) for one, other in zip(*leaves, strict=True)]
        tell("same bits", bool(states[0][0] == states[1][0] and all(equal)))


def evaluation(args: argparse.Namespace, tell: Measured) -> None:
    """Images a second of an evaluation's labelling, from and to the host."""
    from gcn_jax.inference.labeller import Labeller
    from gcn_jax.models import init_variables

    for dtype in ("bfloat16", "float32"):
        config, recipe = network.config_and_recipe(argparse.Namespace(**vars(args), dtype=dtype, remat=False))
        from gcn_jax.config import settings
        from gcn_jax.runtime.mesh import local_mesh, make_mesh, replicated

        config.eval.batch_size = args.images
        mesh = local_mesh(make_mesh(1, 1))
        labeller = Labeller(recipe.model, recipe.preprocessing, settings.protocol(config), mesh)
        import jax

        variables = jax.device_put(init_variables(recipe.model, 0), replicated(mesh))
        images = list(network.images_and_labels(args.size, args.images)[0])
        labeller.start(variables, images)()
        start = time.perf_counter()
        waiting = [labeller.start(variables, images) for _ in range(args.rounds)]
        for wait in waiting:
            wait()
        tell(f"{dtype}: images a second", args.rounds * args.images / (time.perf_counter() - start))


def crf(args: argparse.Namespace, tell: Measured) -> None:
    """The time of the CRF for an image of VOC's size."""
    from gcn_jax import crf

    rng = np.random.default_rng(0)
    rows, columns, classes = args.crf
    coarse = rng.normal(size=(rows // 25 + 1, columns // 25 + 1, classes)).repeat(25, 0).repeat(25, 1)
    logits = coarse[:rows, :columns].astype(np.float32) * 2
    image = (logits[..., :3] * 20 + 128 + rng.normal(size=(rows, columns, 3)) * 5).clip(0, 255).astype(np.uint8)
    seconds = []
    for _ in range(args.rounds + 1):
        start = time.perf_counter()
        crf.refine(image, logits)
        seconds.append(time.perf_counter() - start)
    tell("first call, s", seconds[0])
    tell("ms", 1e3 * statistics.median(seconds[1:]))


def _command(*args: str) -> list[str]:
    return [sys.executable, "run.py", *args]


def _run(*args: str) -> None:
    """Runs a command; its last lines are in the exception if it fails."""
    done = subprocess.run(_command(*args), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"run.py {' '.join(args)} ended with {done.returncode}: {done.stderr[-300:]}")


def _functions() -> dict[str, Callable[[argparse.Namespace, Measured], None]]:
    found: dict[str, Callable[[argparse.Namespace, Measured], None]] = {
        f.__name__: f for f in (device, demo, resume, evaluation, crf)
    }
    for name in STEPS:
        _, dtype, batch = name.split("_")
        found[name] = functools.partial(step, dtype, int(batch))
    return found


def _measure(name: str, argv: list[str], seconds: float, tell: Callable[[str, str, Any], None]) -> None:
    """Runs a case in a process of its own, and all that it starts ends with it."""
    command = [sys.executable, "-m", "bench.gpu", *argv, "--child", name]
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, start_new_session=True
        )
        was_late = threading.Event()

        def end() -> None:
            was_late.set()
            os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith("{"):
                    for what, value in json.loads(line).items():
                        tell(name, what, value)
            child.wait()
        finally:
            timer.cancel()
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
        if was_late.is_set():
            tell(name, "ended", f"after {seconds:.0f} s")
        elif child.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["-"])[-1][:200]
            tell(name, "failed", f"status {child.returncode}: {last}")


def main() -> None:
    """Measures the cases one after the other, and prints what they told, whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--minutes", type=float, default=8, help="for all cases; later ones are left out")
    parser.add_argument("--backbone", default="resnet152")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--kernel_size", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--images", type=int, default=4, help="of an evaluation's batch")
    parser.add_argument("--crf", type=int, nargs=3, default=[375, 500, 21], help="rows, columns, classes")
    parser.add_argument("--demo", nargs="*", default=[], help="further flags of the runs, as config.num_steps=20")
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.demo = [flag if flag.startswith("--") else f"--{flag}" for flag in args.demo]
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contestants share a GPU's memory
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if args.child:
        _functions()[args.child](args, lambda what, value: print(json.dumps({what: value}), flush=True))
        return
    found: dict[str, dict[str, Any]] = {}

    def tell(case: str, what: str, value: Any) -> None:
        found.setdefault(case, {})[what] = value
        text = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{case:<20}{what:<44}{text}", flush=True)

    end = time.monotonic() + 60 * args.minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for name in args.cases:
            if (left := end - time.monotonic()) > 10:
                _measure(name, sys.argv[1:], left, tell)
            else:
                tell(name, "left out", "no time left; see --minutes and --cases")
    finally:
        print(json.dumps({"name": "gpu", "cases": found}), flush=True)


if __name__ == "__main__":
    main()
