"""Kills training at random moments and compares what comes out with an undisturbed run, bit by bit.

    python -m tests.faults [SEED]

20 kills of a process, then 5 of one of two processes that train together; the tests do the same with fewer.
"""

import json
import os
import pathlib
import random
import signal
import socket
import sys
import tempfile
import time
import warnings

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from gcn_jax.checkpoints import digests
from gcn_jax.checkpoints.manager import saved_steps
from tests import command_line

TIMEOUT = 10  # seconds, of config.distributed.timeout
SMALL = (
    "--config=configs/shapes.py",
    "--config.batch_size=2",
    "--config.eval_every=1000000",
    "--config.checkpoint_every=1",
    "--config.log_every=5",
    "--config.optimizer.schedule=fixed",  # so that runs of any length share their compiled step
    "--config.optimizer.learning_rate=0.01",
    "--config.model.backbone=resnet14",
    "--config.model.width=4",
    "--config.model.kernel_size=3",
    "--config.data.eval=shapes/val",
)


class Job:
    """One or more processes that train in a workdir; each start of it is a start of all."""

    def __init__(self, workdir, cache, num_steps, num_processes=1):
        self.workdir, self._num_processes = workdir, num_processes
        self.args = (*SMALL, f"--config.num_steps={num_steps}", f"--workdir={workdir}", f"--config.cache_dir={cache}")

    def start(self):
        """The processes, as forks."""
        if self._num_processes == 1:
            return [command_line.Fork(*self.args)]
        common = (f"coordinator=localhost:{free_port()}", f"num_processes={self._num_processes}", f"timeout={TIMEOUT}")
        return [
            command_line.Fork(*self.args, *(f"--config.distributed.{value}" for value in (*common, f"process_id={i}")))
            for i in range(self._num_processes)
        ]

    def finish(self):
        """Starts and lets it end."""
        for fork in self.start():
            status, (_, err) = fork.end()
            assert status == 0, err

    def newest(self):
        """The step of the newest checkpoint, 0 if there is none."""
        return max(saved_steps(self.workdir), default=0)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def state(workdir, step):
    """Every array and number of a checkpoint, by its path."""
    folder = (workdir / "checkpoints" / str(step)).absolute()
    with ocp.PyTreeCheckpointer() as checkpointer, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Orbax finds the layout on devices by itself
        restore_args = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            checkpointer.metadata(folder / "state").item_metadata.tree,
        )
        tree = checkpointer.restore(folder / "state", restore_args=restore_args)
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return leaves | {"data": json.loads((folder / "data" / "metadata").read_text())}


def assert_same(workdir, other, step):
    """The states of two runs, bit by bit."""
    ours, theirs = state(workdir, step), state(other, step)
    assert ours.keys() == theirs.keys()
    assert sum("trace" in key for key in ours) > 50, "the momentum must be among what is compared"
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], key, strict=True) if key != "data" else None
    assert ours["data"] == theirs["data"]


def kill_and_compare(folder, seed, num_kills, num_processes=1, say=print):
    """Trains undisturbed, and again with kills of a random process at random moments; compares the last states."""
    rng, num_steps = random.Random(seed), 10 + 12 * num_kills
    undisturbed, job = (
        Job(folder / name, folder / "cache", num_steps, num_processes) for name in ("undisturbed", "killed")
    )
    undisturbed.finish()
    start_seconds = 0.0
    for kill in range(1, num_kills + 1):
        victim, before = rng.randrange(num_processes), job.newest()
        # Every third kill comes at any moment of a start, the others at any moment of some steps and their saves.
        latest = rng.uniform(0, start_seconds) if kill % 3 == 2 else 300.0
        goal, delay = before + rng.randint(1, 6), rng.uniform(0, 0.2)
        forks, begin = job.start(), time.monotonic()
        while time.monotonic() < begin + latest and job.newest() < goal:
            assert all(fork.process.is_alive() for fork in forks), [fork.texts()[1] for fork in forks]
            if job.newest() == before:
                start_seconds = time.monotonic() - begin
            time.sleep(0.002)
        time.sleep(delay)
        forks[victim].process.kill()
        killing = time.monotonic()
        for i, fork in enumerate(forks):
            status, (_, err) = fork.end(3 * TIMEOUT)
            assert (status == -signal.SIGKILL) if i == victim else status, f"process {i} ended with {status}: {err}"
        steps, took = saved_steps(job.workdir), time.monotonic() - killing
        others = f"; the other ended {took:.1f} s later" if num_processes > 1 else ""
        moment = f"{killing - begin:.2f} s after the start"
        say(f"kill {kill}: process {victim}, {moment}, newest checkpoint {job.newest()}{others}")
        assert before <= job.newest() < num_steps
        for step in steps[-2:]:  # older ones may be half removed
            assert not digests.damage(job.workdir / "checkpoints" / str(step)), "no half of one has the name of one"
    job.finish()
    assert not list((job.workdir / "checkpoints").glob("*.damaged*"))
    assert_same(undisturbed.workdir, job.workdir, num_steps)
    say(f"after {num_kills} kills the last state is that of the undisturbed run, bit by bit")


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)  # Orbax's warnings
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with tempfile.TemporaryDirectory() as folder:
        for name, kills, processes in (("one", 20, 1), ("two", 5, 2)):
            print(f"{kills} kills of training by {name} process(es), seed {seed}", flush=True)
            kill_and_compare(pathlib.Path(folder, name), seed, kills, processes, lambda text: print(text, flush=True))
