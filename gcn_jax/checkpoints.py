"""Checkpoints: asynchronous, atomic, the newest few and the best. The only module that knows Orbax.

A workdir holds ``config.json`` (see `gcn_jax.config`), ``checkpoints/<step>/`` and, once evaluated, ``best.json``.
"""

import itertools
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo, PreservationPolicy

from gcn_jax.errors import UserError
from gcn_jax.steps import PyTree, TrainState


def make_workdir(workdir: pathlib.Path) -> None:
    """Makes the folder, unless it is there; raises `UserError` if it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written ({error.strerror})") from error


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """The steps of a workdir's checkpoints, ascending."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal())


class Checkpoints:
    """The checkpoints of one workdir; a context manager, which ends when everything is on disk.

    Args:
      workdir: of the run.
      keep: how many of the newest stay; the best stays besides.
    """

    def __init__(self, workdir: pathlib.Path, keep: int):
        self._best_path = workdir / "best.json"
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_NewestAndBest(keep, self), cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)

    def save(self, state: TrainState, iterator_state: dict[str, Any]) -> None:
        """Starts to save; the state may be donated or changed as soon as this returns. No-op if the step is there."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(iterator_state))
            self._manager.save(step, args=args)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest checkpoint, laid out on devices as `like`; None if there is none.

        Raises:
          UserError: if it holds a state of another structure.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except (ValueError, KeyError, TypeError) as error:
            folder = self._manager.directory / str(step)
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{folder}: not a checkpoint of this config's model and optimizer ({reason})") from error
        return restored["state"], restored["data"]

    def mark(self, step: int, miou: float) -> None:
        """Notes the score of a saved step; the best step so far is kept."""
        best = self.best()
        if best is None or miou > best[1]:
            partial = self._best_path.with_suffix(".part")
            partial.write_text(json.dumps({"step": step, "miou": miou}) + "\n")
            partial.replace(self._best_path)

    def best(self) -> tuple[int, float] | None:
        """The best step and its mean IoU."""
        return _read_best(self._best_path)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()


class _NewestAndBest(PreservationPolicy):
    """Keeps the newest checkpoints and the one that ``best.json`` names."""

    def __init__(self, keep: int, checkpoints: Checkpoints):
        self._keep, self._checkpoints = keep, checkpoints

    def should_preserve(self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: Any) -> Sequence[bool]:
        best = self._checkpoints.best()
        newest = [checkpoint.step for checkpoint in checkpoints][-self._keep :]
        return [c.step in newest or (best is not None and c.step == best[0]) for c in checkpoints]


def _read_best(path: pathlib.Path) -> tuple[int, float] | None:
    try:
        best = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return best["step"], best["miou"]


def load_variables(workdir: pathlib.Path, which: str, *, averaged: bool) -> tuple[int, dict[str, PyTree]]:
    """Reads a checkpoint's model variables alone, onto the default device.

    Args:
      workdir: of the run.
      which: "best", by mean IoU (the newest if none was evaluated), or "latest".
      averaged: take the averaged parameters, of a run that keeps them.

    Returns:
      The step, and ``{"params": ..., "batch_stats": ...}``.

    Raises:
      UserError: if there is no checkpoint.
    """
    for attempt in itertools.count():
        steps = saved_steps(workdir)
        if not steps:
            raise UserError(f"{workdir}: holds no checkpoint; train first: --mode=train")
        best = _read_best(workdir / "best.json")
        step = best[0] if which == "best" and best and best[0] in steps else steps[-1]
        path = (workdir / "checkpoints" / str(step) / "state").absolute()
        try:
            return step, _read_variables(path, "ema_params" if averaged else "params")
        except Exception:  # of many kinds, where a training that goes on has just removed what is being read
            if path.is_dir() or attempt == 10:
                raise
    raise AssertionError


def _read_variables(path: pathlib.Path, params: str) -> dict[str, PyTree]:
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        wanted = {
            key: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree[key])
            for key in (params, "batch_stats")
        }
        restored = checkpointer.restore(
            path,
            args=ocp.args.PyTreeRestore(
                wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
            ),
        )
    return {"params": restored[params], "batch_stats": restored["batch_stats"]}
