"""Training: the whole loop, readable from top to bottom."""

import pathlib
import signal
from contextlib import ExitStack, closing
from types import FrameType

import jax
import ml_collections
import numpy as np
from clu import parameter_overview

from gcn_jax import checkpoints as checkpoints_lib
from gcn_jax import compilation
from gcn_jax import config as config_lib
from gcn_jax.checkpoints import Checkpoints
from gcn_jax.data.pipeline import TrainBatches
from gcn_jax.data.sources import open_sources
from gcn_jax.errors import UserError
from gcn_jax.evaluate import Evaluator, as_json, table
from gcn_jax.logs import Progress, RunLog, say
from gcn_jax.mesh import check_divides, make_mesh, put_batch, replicated
from gcn_jax.metrics import SCORES
from gcn_jax.models import init_variables
from gcn_jax.optim import learning_rate, make_optimizer
from gcn_jax.steps import PyTree, init_state, make_train_step


class TrainingError(RuntimeError):
    """Training cannot go on; the last good checkpoint is kept."""


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains, or goes on training, in a workdir.

    The order at each step is fixed: save state and iterator, evaluate, next batch, train, log. The iterator never
    moves between a step and its save, which makes a resumed run equal, bit for bit, to one that was never stopped.

    Where the weights come from: the workdir's newest checkpoint, else ``config.init_from``, else random.

    Raises:
      UserError: before any long work, naming the config key or file.
      TrainingError: if the loss or the gradient is not finite.
    """
    mesh = make_mesh(config)
    check_divides(config, mesh)
    is_resumed = bool(checkpoints_lib.saved_steps(workdir))
    check_start(config, workdir, is_resumed)
    checkpoints_lib.make_workdir(workdir)
    train_source, eval_source = open_sources(config)
    say(f"training on {len(train_source)} images of {config.data.train}")
    say(f"evaluating on {len(eval_source)} images of {config.data.eval}")
    say(f"{mesh.size} {jax.devices()[0].device_kind} device(s), mesh {dict(mesh.shape)}")

    model, optimizer = config_lib.model_from(config), make_optimizer(config)
    variables = start_weights(config) if config.init_from and not is_resumed else init_variables(model, config.seed)
    state = jax.device_put(init_state(variables, optimizer, config), replicated(mesh))
    say(f"{parameter_overview.count_parameters(state.params):,} parameters")
    train_step = jax.jit(
        make_train_step(model, optimizer, config), donate_argnums=0, compiler_options=compilation.options()
    )
    evaluator = Evaluator(eval_source, mesh, config)
    shard = (jax.process_index(), jax.process_count())
    batches, rate = TrainBatches(train_source, config, shard), learning_rate(config)

    with Checkpoints(workdir, config.keep_checkpoints) as checkpoints, StopSignals() as stop, ExitStack() as opened:
        if restored := checkpoints.restore(state):
            state, iterator_state = restored
            batches.set_state(iterator_state)
            say(f"resuming from step {int(state.step)} of {workdir}")
        config_lib.save(config, workdir)
        start = int(state.step)
        log = opened.enter_context(closing(RunLog(workdir, start)))
        progress = Progress(start, config.num_steps, config.batch_size)
        unread: list[dict[str, jax.Array]] = []  # metrics of the steps since the last log; they stay on the device
        for step in range(start, config.num_steps + 1):
            is_last = step == config.num_steps
            is_eval_due = is_last or (step > 0 and step % config.eval_every == 0)
            is_save_due = is_eval_due or stop.received or (step > 0 and step % config.checkpoint_every == 0)
            is_log_due = is_last or step % config.log_every == 0
            if unread and (is_save_due or is_log_due):
                means = check_finite(step, unread, workdir)
                if is_log_due:
                    means["learning_rate"] = float(rate((step - 1) // config.optimizer.accumulate))
                    log.scalars(step, progress.report(step, means))
                    unread = []
            if is_save_due:
                checkpoints.save(state, batches.get_state())
            if is_eval_due and not log.has(step, "miou"):
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


def check_finite(step: int, unread: list[dict[str, jax.Array]], workdir: pathlib.Path) -> dict[str, float]:
    """The means of the steps' metrics up to `step`; raises `TrainingError` naming the first that is not finite."""
    values = {key: np.array([metrics[key] for metrics in unread]) for key in unread[0]}
    is_finite = np.isfinite(list(values.values())).all(axis=0)
    if not is_finite.all():
        first = int(np.argmin(is_finite))
        found = ", ".join(f"{key} {array[first]}" for key, array in values.items())
        raise TrainingError(
            f"step {step - len(unread) + first + 1}: not finite ({found}); nothing was saved since, the last good "
            f"checkpoint is in {workdir}; lower config.optimizer.learning_rate or set config.optimizer.clip_norm"
        )
    return {key: float(array.mean()) for key, array in values.items()}


def check_start(config: ml_collections.ConfigDict, workdir: pathlib.Path, is_resumed: bool) -> None:
    """Raises `UserError` unless the weights that the run would start from are there and fit the config's model."""
    if is_resumed:
        advice = "choose another --workdir, or delete this one to start anew"
        config_lib.check_same_model(config, workdir, "--workdir", advice)
    elif config.init_from:
        source = pathlib.Path(config.init_from)
        advice = "train that first, name another workdir, or start from random weights with --config.init_from="
        if not checkpoints_lib.saved_steps(source):
            raise UserError(f"config.init_from={source}: holds no checkpoint; {advice}")
        config_lib.check_same_model(config, source, "config.init_from", advice)


def start_weights(config: ml_collections.ConfigDict) -> dict[str, PyTree]:
    """The best weights of the run in ``config.init_from``."""
    source = pathlib.Path(config.init_from)
    averaged = config_lib.load(source).optimizer.ema_decay > 0
    step, variables = checkpoints_lib.load_variables(source, "best", averaged=averaged)
    say(f"starting from step {step} of {source}")
    return variables


class StopSignals:
    """Notes SIGTERM and SIGINT while it is open; a second one has its usual effect.

    Attributes:
      received: the signal's name, "" if there was none.
    """

    received = ""

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = signal.Signals(number).name
        say(f"{self.received}: saving, then stopping")
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
