"""Saves and restores checkpoints with Orbax, which no other module imports.

Saving is asynchronous and atomic; the newest few checkpoints and the best one are kept. A workdir holds ``config.json``
(see `saved_config`), ``checkpoints/<step>/`` and, after the first evaluation, ``best.json``. Each checkpoint holds
digests of its files. A damaged one is renamed to ``<step>.damaged``, and the one before it is used.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo, PreservationPolicy

from gcn_jax.checkpoints import digests
from gcn_jax.checkpoints.best import Best, note, read_best
from gcn_jax.console import say
from gcn_jax.errors import TrainingError, UserError
from gcn_jax.files import RunFile
from gcn_jax.models.preprocessing import PyTree
from gcn_jax.training.step import TrainState


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """The steps of a workdir's checkpoints, ascending."""
    return sorted(int(path.name) for path in (workdir / RunFile.CHECKPOINTS).glob("*") if path.name.isdecimal())


def last_good(workdir: pathlib.Path) -> str:
    """A sentence that names the newest checkpoint, for the message that ends a run."""
    *_, newest = [None, *saved_steps(workdir)]
    return (
        f"the last good checkpoint is {workdir / RunFile.CHECKPOINTS / str(newest)}"
        if newest
        else "there is no checkpoint yet"
    )


def set_damaged_aside(workdir: pathlib.Path) -> None:
    """Renames damaged checkpoints, from the newest on, until one is whole; prints a warning for each."""
    for step in reversed(saved_steps(workdir)):
        folder = workdir / RunFile.CHECKPOINTS / str(step)
        damage = digests.damage(folder)
        if not damage:
            break
        _set_aside(folder, damage)


def _set_aside(folder: pathlib.Path, damage: str) -> None:
    """Renames a damaged checkpoint and prints a warning; nothing is deleted.

    Raises:
      UserError: if it cannot be renamed.
    """
    names = (f"{folder.name}.damaged{number or ''}" for number in itertools.count())
    target = next(target for name in names if not (target := folder.with_name(name)).exists())
    try:
        folder.rename(target)
    except OSError as error:
        raise UserError(f"{folder}: damaged ({damage}), and cannot be renamed to be set aside ({error})") from error
    say(f"warning: {folder} is damaged ({damage}): set aside as {target.name}; the checkpoint before it is used")


class _DigestedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The temporary folder of a save; digests are written into it before it is renamed to ``<step>``."""

    async def finalize(self) -> None:
        if self.get_final().name.isdecimal():  # otherwise it is a folder inside the checkpoint
            # While it renames the folder, Orbax writes the time and the success into these. They hold nothing else.
            late = ("_CHECKPOINT_METADATA", "commit_success.txt")
            await asyncio.to_thread(digests.write, pathlib.Path(os.fspath(self.get())), late)
        await super().finalize()


class _Manager(ocp.CheckpointManager):
    """Does not ask JAX for preemption notices: training does. Orbax's threads ask later, which confuses the hosts."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one workdir; a context manager that waits, at its end, until everything is on disk.

    All processes of a run use it together.

    Args:
      workdir: of the run.
      keep: number of newest checkpoints to keep; the best one is kept as well.
    """

    def __init__(self, workdir: pathlib.Path, keep: int):
        self._workdir = workdir
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_NewestAndBest(keep, self),
            cleanup_tmp_directories=True,
            temporary_path_class=_DigestedPath,
        )
        self._manager = _Manager((workdir / RunFile.CHECKPOINTS).absolute(), options=options)

    def save(self, state: TrainState, iterator_state: dict[str, Any]) -> None:
        """Starts to save a checkpoint; does nothing if there is one of this step.

        The state may be donated or changed as soon as this returns.

        Args:
          state: of the training.
          iterator_state: from `TrainBatches.get_state`.

        Raises:
          TrainingError: if this save or the one before it failed.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(iterator_state))
            with self._as_training_errors():
                self._manager.save(step, args=args)

    def check(self) -> None:
        """Raises `TrainingError` if a save that was started earlier has failed."""
        with self._as_training_errors():
            self._manager.check_for_errors()
            if not self._manager.is_saving_in_progress():  # its thread may have got the error first and ended
                self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _as_training_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of many kinds: there are many layers below
            folder = pathlib.Path(self._manager.directory)
            raise TrainingError(
                f"{folder}: cannot be written ({_reason(error)}); {last_good(folder.parent)}"
            ) from error

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest checkpoint.

        Args:
          like: a state of the same structure, whose arrays are on the devices that the restored ones will be on.

        Returns:
          The state and the iterator's state; None if there is no checkpoint.

        Raises:
          UserError: if the checkpoint holds a state of another structure.
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

    def mark(self, new: Best) -> None:
        """Notes a saved step's scores, so that the best checkpoint so far is kept. Only the first process writes."""
        if jax.process_index() == 0:
            note(self._workdir, new)

    def best(self) -> Best | None:
        """The best step and its scores; None if no checkpoint was evaluated."""
        return read_best(self._workdir)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._as_training_errors():
                self._manager.close()
        except TrainingError:
            if kind is None:  # otherwise the earlier error is raised
                raise


def _reason(error: BaseException) -> str:
    """An error in a few words: the operating system's message, if one of its errors was the cause."""
    causes = [error]
    while following := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(following)
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # Tensorstore raises ValueErrors that quote it
            if os.strerror(number) in str(cause):
                return os.strerror(number)
    return str(error).strip().splitlines()[0]


class _NewestAndBest(PreservationPolicy):
    """Keeps the newest checkpoints and the one that ``best.json`` names."""

    def __init__(self, keep: int, checkpoints: Checkpoints):
        self._keep, self._checkpoints = keep, checkpoints

    def should_preserve(self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: Any) -> Sequence[bool]:
        best = self._checkpoints.best()
        newest = [checkpoint.step for checkpoint in checkpoints][-self._keep :]
        return [c.step in newest or (best is not None and c.step == best.step) for c in checkpoints]


def load_variables(workdir: pathlib.Path, which: str, *, averaged: bool) -> tuple[int, dict[str, PyTree]]:
    """Reads only the model's variables from a checkpoint, onto the default device.

    Args:
      workdir: of the run.
      which: "best" (the newest if none was evaluated) or "latest".
      averaged: whether to take the averaged parameters, if the run keeps them.

    Returns:
      The step, and ``{"params": ..., "batch_stats": ...}``.

    Raises:
      UserError: if there is no checkpoint.
    """
    passed_over: set[int] = set()
    for attempt in itertools.count():
        steps = [step for step in saved_steps(workdir) if step not in passed_over]
        if not steps:
            raise UserError(f"{workdir}: holds no checkpoint; train first: --mode=train")
        best = read_best(workdir)
        step = best.step if which == "best" and best and best.step in steps else steps[-1]
        folder = (workdir / RunFile.CHECKPOINTS / str(step)).absolute()
        if damage := _lasting_damage(folder):
            try:
                _set_aside(folder, damage)
            except UserError as error:
                say(f"warning: {error}; the checkpoint before it is used")
                passed_over.add(step)
            continue
        try:
            return step, _read_variables(folder / "state", "ema_params" if averaged else "params")
        except Exception:  # of many kinds: a running training may have just removed the checkpoint
            if (folder / "state").is_dir() or attempt == 10:
                raise
    raise AssertionError


def _lasting_damage(folder: pathlib.Path) -> str:
    """Damage that is still there a second later; other damage comes from a running training that removes the folder."""
    damage = digests.damage(folder)
    while damage:
        time.sleep(1)
        before, damage = damage, digests.damage(folder) if folder.is_dir() else ""
        if damage == before:
            break
    return damage


def _read_variables(path: pathlib.Path, params: str) -> dict[str, PyTree]:
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
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
