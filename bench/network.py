"""Compares the network with its PyTorch twin; used by `bench.forward` and `bench.train_step`.

There are three contestants: ours, the twin, and the twin in channels_last. Each has a process of its own, so that it
has its own peak memory and thread pools. They run one call at a time, in turns. The first calls, which compile, are
reported separately.
"""

import argparse
import functools
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from bench.timing import compare

_CONTEXT = multiprocessing.get_context("spawn")
_STAGES = {"resnet14": (1, 1, 1, 1), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
_CLASSES = 21


def images_and_labels(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """A random batch: uint8 [B, S, S, 3] and uint8 [B, S, S]."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
    return image, rng.integers(0, _CLASSES, (batch, size, size)).astype(np.uint8)


@dataclass(frozen=True)
class Work:
    """What a contestant does.

    Attributes:
      call: one step or forward pass; it returns when the device is done.
      flops: counts the operations of a call. It takes a while, so it is called after the first call has been timed.
      peak: the most operations that the device can do per second in its dtype; None: not known.
      facts: what else is known after the calls, by name.
    """

    call: Callable[[], Any]
    flops: Callable[[], float] | None = None
    peak: float | None = None
    facts: Callable[[], dict[str, Any]] = dict


def config_and_recipe(args: argparse.Namespace, decoder: str = "gcn") -> tuple[Any, Any]:
    """The config and the recipe of this project's network of VOC's classes."""
    from gcn_jax import config as config_lib
    from gcn_jax.config import settings

    config = config_lib.default()
    config.data.update(train="voc_segmentation/train", eval="voc_segmentation/val", size=args.size)
    config.num_steps = 1000
    config.model.update(backbone=args.backbone, kernel_size=args.kernel_size, dtype=args.dtype, remat=args.remat)
    config.model.decoder = decoder
    return config, settings.recipe(config)


def training_step(recipe: Any, data: dict[str, np.ndarray]) -> tuple[Callable[[], None], Any, tuple[Any, Any]]:
    """Training on one batch, again and again, from random weights.

    Returns:
      A function that computes one step; the compiled program; and the shapes of its state and batch.
    """
    import jax

    from gcn_jax.models import init_variables
    from gcn_jax.training.small_arrays import for_step
    from gcn_jax.training.step import init_state, jit_train_step

    state, batch = [for_step(init_state(init_variables(recipe.model, 0), recipe))[0]], jax.device_put(data)
    compiled = jit_train_step(recipe).lower(state[0], batch).compile()

    def train() -> None:
        state[0], metrics = compiled(state[0], batch)
        jax.block_until_ready((state[0], metrics))

    return train, compiled, jax.eval_shape(lambda *inputs: inputs, state[0], batch)


def ours(kind: str, args: argparse.Namespace, batch: int) -> Work:
    """One training step, or one forward pass, of this project."""
    import jax

    from gcn_jax.models import init_variables
    from gcn_jax.models.preprocessing import normalize
    from gcn_jax.planning.compiled_step import compiler_report
    from gcn_jax.planning.device_limits import device_limits
    from gcn_jax.runtime.compilation import platform_jit, return_memory
    from gcn_jax.training.small_arrays import is_joined
    from gcn_jax.training.step import make_train_step

    return_memory()
    _, recipe = config_and_recipe(args)
    model = recipe.model
    image, label = images_and_labels(args.size, batch)
    limits = device_limits(jax.devices()[0])
    peak = limits.flops_of(args.dtype) if limits else None
    if kind == "forward":
        variables, image = jax.device_put((init_variables(model, 0), image))

        def score(v: Any, x: Any) -> Any:
            return model.apply(v, normalize(x, recipe.preprocessing), train=False)

        forward = platform_jit(score, model.dtype).lower(variables, image).compile()
        flops = functools.partial(_flops, score, variables, image)
        return Work(lambda: jax.block_until_ready(forward(variables, image)), flops, peak)
    train, compiled, shapes = training_step(recipe, {"image": image, "label": label})

    def facts() -> dict[str, Any]:
        stats = jax.devices()[0].memory_stats() or {}
        plan = compiler_report(compiled, jax.devices()[0].platform)
        return {
            "peak GB": stats.get("peak_bytes_in_use", 0) / 1e9,
            "GB by the plan": plan["memory"]["total"] / 1e9,
            "launches": sum(plan.get("launches", {}).values()),
            "of them in command buffers, by the plan": plan.get("command_buffers", {}).get("launches", 0),
            **({f"ms of {name}, by the plan": 1e3 * seconds for name, seconds in _predicted(plan, limits).items()}),
        }

    return Work(train, lambda: _flops(make_train_step(recipe, is_joined()), *shapes), peak, facts)


def _predicted(plan: dict[str, Any], limits: Any) -> dict[str, float]:
    """A GPU's seconds of memory traffic and launches, as `--mode=plan` estimates them."""
    from gcn_jax.planning.gpu_targets import launch_seconds

    if limits is None or "launches" not in plan:
        return {}
    memory = plan["cost"]["main_memory_bytes"] / limits.bandwidth
    return {"memory traffic": memory, "launches": launch_seconds(plan["launches"], plan["command_buffers"])}


def _flops(function: Callable[..., Any], *args: Any) -> float:
    """The number of operations of a function in the form that a GPU gets, with plain convolutions."""
    import jax

    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).cost_analysis()["flops"]


def twin(kind: str, args: argparse.Namespace, batch: int, channels_last: bool, is_compiled: bool = False) -> Work:
    """The same in PyTorch: batch norm with fixed statistics and learnt scale and bias, SGD with momentum and decay."""
    import torch

    from bench.twin import Twin

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model: Any = Twin(_CLASSES, _STAGES[args.backbone], 64, args.kernel_size).eval()
    model = model.to(device, memory_format=layout)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, in which XLA computes float32, too
    if is_compiled:
        model = torch.compile(model)
    image, label = images_and_labels(args.size, batch)
    pixels = torch.from_numpy(image).to(device)
    truth = torch.from_numpy(label).long().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 2.6e-5, momentum=0.99, weight_decay=5e-4)
    lower = torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16")

    def scores() -> Any:
        normal = ((pixels.permute(0, 3, 1, 2).float() - 116.0) / 57.0).contiguous(memory_format=layout)
        with lower:
            return model(normal)

    def forward() -> None:
        with torch.no_grad():
            scores()
        if device == "cuda":
            torch.cuda.synchronize()

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(scores().float(), truth, ignore_index=255).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    def facts() -> dict[str, Any]:
        return {"peak GB": torch.cuda.max_memory_allocated() / 1e9} if device == "cuda" else {}

    return Work(forward if kind == "forward" else train, facts=facts)


def _serve(connection: Connection, make: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    """Runs in a contestant's process: makes the first two calls, then times one call whenever it is asked to."""
    start = time.perf_counter()
    work = make(*arguments)
    call = work.call
    call()
    first = time.perf_counter() - start
    call()
    connection.send((first, work.flops and work.flops(), work.peak))
    while asked := connection.recv():
        if asked == "facts":
            connection.send(work.facts())
            continue
        start = time.perf_counter()
        call()
        connection.send(time.perf_counter() - start)


class Contestant:
    """A contestant's process. Calling this object makes the process do its work once, and returns the seconds it took.

    Raises:
      ChildProcessError: if the process has ended; the message has its status.
    """

    def __init__(self, make: Callable[..., Work], *arguments: Any):
        self._connection, other = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(other, make, arguments), daemon=True)
        self._process.start()
        other.close()  # the process has it, too; if we kept it open, we would not notice that the process ended
        self.first_seconds, self.flops, self.peak = self._receive()
        self.seconds: list[float] = []

    def __call__(self) -> float:
        self._connection.send("call")
        self.seconds.append(self._receive())
        return self.seconds[-1]

    def facts(self) -> dict[str, Any]:
        """What the contestant tells of itself."""
        self._connection.send("facts")
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            raise ChildProcessError(f"its process ended with status {self._process.exitcode}") from None

    def flops_per_second(self, flops: float) -> float:
        """Operations per second, by the median time of a call."""
        return flops / statistics.median(self.seconds)

    def peak_gigabytes(self) -> float:
        """The most memory that the process has held so far, in GB (Linux)."""
        status = pathlib.Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e6

    def close(self) -> None:
        self._connection.send(False)
        self._process.join()


def main(kind: str, description: str | None) -> None:
    """Measures the times of a kind of work, "forward" or "train_step", and prints them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet152", choices=list(_STAGES))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--kernel_size", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contestants share a GPU's memory
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    cases, contestants = {}, []
    for batch in args.batches:
        name = f"{args.dtype}, batch {batch}"
        case = {"ours": Contestant(ours, kind, args, batch)}
        for contestant, channels_last in (("PyTorch", False), ("PyTorch, channels_last", True)):
            try:
                case[contestant] = Contestant(twin, kind, args, batch, channels_last)
            except ChildProcessError as error:
                print(f"{name}: {contestant} is left out: {error}", file=sys.stderr)
        if len(case) == 1:
            sys.exit(f"{name}: nothing is left to compare with")
        contestants += [(name, contestant, process) for contestant, process in case.items()]
        cases[name] = case

    def details() -> dict[str, Any]:
        told = {}
        for name, contestant, process in contestants:
            speed = process.flops_per_second(cases[name]["ours"].flops)  # the net's operations, the same for all
            memory = process.peak_gigabytes()
            facts = {"first_call_s": process.first_seconds, "peak_gb": memory, "gflops_per_s": speed / 1e9}
            text = f"first call {process.first_seconds:.1f} s, peak {memory:.2f} GB, {speed / 1e9:.0f} GFLOP/s"
            if peak := cases[name]["ours"].peak:
                facts["mfu"] = speed / peak
                text += f", {facts['mfu']:.1%} of the device's bfloat16 peak (MFU)"
            print(f"{name:<28}{contestant:<24}{text}")
            told[f"{name}, {contestant}"] = facts
        return {"details": told}

    rounds = dict.fromkeys(cases, args.rounds)
    compare(kind, cases, rounds=rounds, versions=("jax", "flax", "torch", "numpy"), details=details)
    for _, _, process in contestants:
        process.close()
