"""Training: the whole loop, readable from top to bottom."""

import os
import pathlib
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from types import FrameType

import jax
import ml_collections
import numpy as np
from clu import parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import manager as checkpoints_lib
from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.manager import Checkpoints
from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.checkpoints.model_metadata import is_model_file
from gcn_jax.checkpoints.pretrained import read_backbone
from gcn_jax.console import bar, say
from gcn_jax.data.batches import TrainBatches
from gcn_jax.data.sources import Source, open_sources
from gcn_jax.errors import TrainingError, UserError
from gcn_jax.evaluation.counts import SCORES
from gcn_jax.evaluation.evaluator import Evaluator
from gcn_jax.evaluation.result import as_json, table
from gcn_jax.files import make_workdir
from gcn_jax.models import GCN, init_variables
from gcn_jax.models.preprocessing import PyTree, normalize
from gcn_jax.runtime import agreement
from gcn_jax.runtime.mesh import check_divides, gather, make_mesh, put, put_batch, replicated, shard
from gcn_jax.training.batch_norm import reestimate_statistics
from gcn_jax.training.optimizer import learning_rate, make_optimizer
from gcn_jax.training.run_log import Progress, RunLog
from gcn_jax.training.step import init_state, jit_train_step


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains, or goes on training, in a workdir.

    The order at each step is fixed: save state and iterator, evaluate, next batch, train, log. The iterator never
    moves between a step and its save, which makes a resumed run equal, bit for bit, to one that was never stopped.

    Where the weights come from: the workdir's newest checkpoint, else ``config.init_from`` (all of them from a run or
    an exported model, the backbone's from a file of pretrained weights), else random.

    Raises:
      UserError: before any long work, naming the config key or file.
      TrainingError: if the loss or the gradient is not finite, the disk is full, or another process has died.
    """
    is_first = jax.process_index() == 0
    with agreement.agreed(agreement.of_config(config)):
        mesh = make_mesh(config)
        check_divides(config, mesh)
        was_resumed = bool(checkpoints_lib.saved_steps(workdir))
        check_start(config, workdir, was_resumed)
    if is_first:
        checkpoints_lib.set_damaged_aside(workdir)
    is_resumed = gather(bool(checkpoints_lib.saved_steps(workdir)))[0]
    data: dict[str, str] = {}
    with agreement.agreed(data):
        if was_resumed and not is_resumed:
            check_start(config, workdir, is_resumed)
        model, optimizer = config_lib.model_from(config), make_optimizer(config)
        variables = init_variables(model, config.seed)
        if config.init_from and not is_resumed:
            variables = start_weights(config, variables)
        make_workdir(workdir)
        train_source, eval_source = open_sources(config)
        data.update(agreement.of_data(config, train_source, eval_source))
    agreement.check_shared(workdir)
    say(f"training on {len(train_source)} images of {config.data.train}")
    say(f"evaluating on {len(eval_source)} images of {config.data.eval}")
    say(f"{mesh.size} {jax.devices()[0].device_kind} device(s), mesh {dict(mesh.shape)}")

    if config.reestimate.batches and not is_resumed:
        variables = with_own_statistics(config, model, variables, train_source, mesh)
    state = jax.device_put(init_state(variables, optimizer, config), replicated(mesh))
    say(f"{parameter_overview.count_parameters(state.params):,} parameters")
    train_step = jit_train_step(model, optimizer, config, mesh)
    evaluator = Evaluator(eval_source, mesh, config)
    batches, rate = TrainBatches(train_source, config, shard(mesh)), learning_rate(config)

    with (
        failures_told(workdir),
        Checkpoints(workdir, config.keep_checkpoints) as checkpoints,
        StopSignals() as stop,
        ExitStack() as opened,
    ):
        if restored := checkpoints.restore(state):
            state, iterator_state = restored
            batches.set_state(iterator_state)
            say(f"resuming from step {int(state.step)} of {workdir}")
        if is_first:
            saved_config.save(config, workdir)
        start = int(state.step)
        log = opened.enter_context(closing(RunLog(workdir, start, is_first)))
        progress = Progress(start, config.num_steps, config.batch_size)
        unread: list[dict[str, jax.Array]] = []  # metrics of the steps since the last log; they stay on the device
        for step in range(start, config.num_steps + 1):
            stop.agree(step)
            is_last = step == config.num_steps
            is_eval_due = is_last or (step > 0 and step % config.eval_every == 0)
            is_save_due = is_eval_due or stop.received or (step > 0 and step % config.checkpoint_every == 0)
            is_log_due = is_last or step % config.log_every == 0
            if unread and (is_save_due or is_log_due):
                means = check_finite(step, unread, workdir)
                checkpoints.check()
                if is_log_due:
                    means["learning_rate"] = float(rate((step - 1) // config.optimizer.accumulate))
                    log.scalars(step, progress.report(step, means))
                    unread = []
            if is_save_due:
                checkpoints.save(state, batches.get_state())
            if is_eval_due and not gather(log.has(step, "miou"))[0]:
                evaluation = evaluator(state.eval_variables(), should_stop=lambda: bool(stop.received))
                if evaluation is not None:
                    result = as_json(evaluation, config, step)
                    checkpoints.mark(step, result["miou"] or 0.0)
                    log.pictures(step, evaluation.pictures)
                    log.scalars(step, {key: result[key] for key in SCORES if result[key] is not None})
                    say(f"evaluated at step {step}\n{table(result)}")
                progress.skip_to(step)
            if is_last or (is_save_due and stop.received):  # a signal since then waits for the next step's save
                break
            state, metrics = train_step(state, put_batch(next(batches), mesh))
            unread.append(metrics)
            if step == start:
                jax.block_until_ready(metrics)
                say(f"first step done, {progress.seconds():.1f} s after the start of the loop, compiling included")
                progress.skip_to(step + 1)
        best = checkpoints.best()
    if stop.received:
        say(f"stopped by {stop.received} at step {step}; the same command goes on from there")
    elif best:
        say(f"done: {workdir}; best mean IoU {best[1]:.4f} at step {best[0]}")


@contextmanager
def failures_told(workdir: pathlib.Path) -> Iterator[None]:
    """Turns what a full disk or a dead process leads to into a `TrainingError`."""
    try:
        yield
    except OSError as error:
        path, reason = error.filename or workdir, error.strerror or error
        raise TrainingError(f"{path}: {reason}; {checkpoints_lib.last_good(workdir)}") from error
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or isinstance(error, UserError):
            raise
        raise TrainingError(
            f"another process may have died ({str(error).splitlines()[0]}); start all of them again, and they go on "
            f"from the last checkpoint in {workdir}"
        ) from error


def check_finite(step: int, unread: list[dict[str, jax.Array]], workdir: pathlib.Path) -> dict[str, float]:
    """The means of the steps' metrics up to `step`; raises `TrainingError` naming the first that is not finite."""
    values = {key: np.array([metrics[key] for metrics in unread]) for key in unread[0]}
    is_finite = np.isfinite(list(values.values())).all(axis=0)
    if not is_finite.all():
        first = int(np.argmin(is_finite))
        found = ", ".join(f"{key} {array[first]}" for key, array in values.items())
        raise TrainingError(
            f"step {step - len(unread) + first + 1}: not finite ({found}); nothing was saved since, "
            f"{checkpoints_lib.last_good(workdir)}; lower config.optimizer.learning_rate or set "
            "config.optimizer.clip_norm"
        )
    return {key: float(array.mean()) for key, array in values.items()}


def check_start(config: ml_collections.ConfigDict, workdir: pathlib.Path, is_resumed: bool) -> None:
    """Raises `UserError` unless the weights that the run would start from are there and fit the config's model."""
    if is_resumed:
        advice = "choose another --workdir, or delete this one to start anew"
        saved_config.check_same_model(config, workdir, "--workdir", advice)
    elif config.init_from:
        source = _init_from(config)
        advice = "train that first, name another workdir or file, or start from random weights: --config.init_from="
        if not source.is_file() and not checkpoints_lib.saved_steps(source):
            raise UserError(f"config.init_from={source}: holds no checkpoint; {advice}")
        if not source.is_file() or is_model_file(source):
            saved_config.check_same_model(config, source, "config.init_from", advice)


def _init_from(config: ml_collections.ConfigDict) -> pathlib.Path:
    return pathlib.Path(config.init_from).expanduser()


def start_weights(config: ml_collections.ConfigDict, variables: dict[str, PyTree]) -> dict[str, PyTree]:
    """The weights in ``config.init_from``: a run's best, an exported model's, or random ones but for the backbone's.

    Args:
      config: of this run.
      variables: random.

    Raises:
      UserError: naming what is wrong with the file.
    """
    source = _init_from(config)
    if source.is_file() and not is_model_file(source):
        try:
            variables, report = read_backbone(variables, source)
        except ValueError as error:
            raise UserError(f"config.init_from={error}") from error
        for line in report.lines():
            say(line)
        return variables
    step, variables = load_trained(source, "best")
    say(f"starting from step {step} of {source}")
    return variables


def with_own_statistics(
    config: ml_collections.ConfigDict, model: GCN, variables: dict[str, PyTree], source: Source, mesh: Mesh
) -> dict[str, PyTree]:
    """The variables with batch norm's statistics of ``config.reestimate.batches`` training batches."""
    drawn = config.copy_and_resolve_references()
    drawn.update(batch_size=config.reestimate.batch_size, num_steps=config.reestimate.batches)
    batches = TrainBatches(source, drawn, shard(mesh))
    normalized = jax.jit(lambda images: normalize(images, config))
    with bar("statistics", config.reestimate.batches, "batch") as progress:

        def images():
            for batch in batches:
                yield normalized(put(batch["image"], mesh))
                progress.update()

        try:
            return reestimate_statistics(model, jax.device_put(variables, replicated(mesh)), images())
        except ValueError as error:
            raise UserError(f"config.reestimate.batches={config.reestimate.batches}: {error}") from error


class StopSignals:
    """Notes SIGTERM, which is also how a cloud says that it will take a machine, and SIGINT, while it is open.

    A second one has its usual effect. Where several processes run, JAX heeds SIGTERM: it tells all of them, and they
    stop at the same step.

    Attributes:
      received: the signal's name, "" if there was none.
    """

    received = ""

    def __enter__(self) -> "StopSignals":
        numbers = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else (signal.SIGINT,)
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._restore()
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.received = signal.Signals(number).name
            say(f"{self.received}: saving, then stopping")

    def agree(self, step: int) -> None:
        """Heeds the notice that any of several processes has got; all call this at every step."""
        if not self.received and multihost_utils.reached_preemption_sync_point(step):
            self.received = signal.SIGTERM.name
            say(f"{self.received}: saving, then stopping")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
