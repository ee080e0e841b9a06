"""``--mode=train``: the whole training, readable from top to bottom."""

import pathlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import jax
import ml_collections
import numpy as np
import optax
from clu import parameter_overview
from jax.sharding import Mesh

from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.manager import Checkpoints, last_good, saved_steps, set_damaged_aside
from gcn_jax.config import settings
from gcn_jax.console import say
from gcn_jax.data.batches import TrainBatches
from gcn_jax.data.samples import Source
from gcn_jax.data.sources import open_sources, open_splits, trained_pixels
from gcn_jax.errors import TrainingError, UserError
from gcn_jax.evaluation.score import check_score, titled
from gcn_jax.files import RunFile, make_workdir, write_json
from gcn_jax.models import init_variables
from gcn_jax.models.initial import with_zero_scores
from gcn_jax.modes.evaluations import Evaluations
from gcn_jax.modes.run_images import check_unseen, keep_split, settle_folder
from gcn_jax.modes.start_weights import check_start, start_weights, with_own_patterns, with_own_statistics
from gcn_jax.runtime import agreement
from gcn_jax.runtime.mesh import check_divides, gather, make_mesh, put_batch, read_share, replicated
from gcn_jax.runtime.stop_signals import StopSignals
from gcn_jax.training import small_arrays
from gcn_jax.training.due import Due
from gcn_jax.training.loggers import check_installed
from gcn_jax.training.optimizer import learning_rate
from gcn_jax.training.profile import Profile
from gcn_jax.training.run_log import Progress, RunLog
from gcn_jax.training.step import Recipe, TrainState, init_state, jit_train_step


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path, profile_steps: int = 0) -> None:
    """Trains, or goes on training, in a workdir.

    Where the weights come from: the workdir's newest checkpoint, otherwise ``config.init_from`` (all of them from a run
    or an exported model, the backbone's from a file of pretrained weights), otherwise random.

    Args:
      config: of the run.
      workdir: of the run.
      profile_steps: how many steps to record for TensorBoard's profiler.

    Raises:
      UserError: before any long work, naming the config key or file.
      TrainingError: if the loss or the gradient is not finite, the disk is full, or another process has died.
    """
    start = prepare(config, workdir)
    with (
        failures_told(workdir),
        Checkpoints(workdir, config.keep_checkpoints) as checkpoints,
        StopSignals() as stop,
    ):
        step = train(config, workdir, start, checkpoints, stop, profile_steps)
        best = checkpoints.best()
    if stop.received:
        say(f"stopped by {stop.received} at step {step}; the same command goes on from there")
    elif best:
        say(f"done: {workdir}; best {titled(best.score)} {best.value:.4f} at step {best.step}")


@dataclass(frozen=True)
class Start:
    """What a training starts with: its devices, its data, and its state if no checkpoint is there.

    Attributes:
      images: what to write to ``images.json``.
    """

    mesh: Mesh
    recipe: Recipe
    state: TrainState
    train_source: Source
    eval_source: Source
    images: dict[str, list[str]]


def prepare(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Start:
    """Checks all that can be checked, in all processes alike, and makes what the training starts with."""
    with agreement.agreed(agreement.of_config(config)):
        check_installed(config.loggers)
        keep_split(config, workdir)
        mesh = make_mesh(config.mesh.data, config.mesh.space)
        check_divides(mesh, settings.batch_sizes(config), config.data.size)
        was_resumed = bool(saved_steps(workdir))
        check_start(config, workdir, was_resumed)
        check_score(config.eval.best_by, settings.spec_from(config))
    if jax.process_index() == 0:
        set_damaged_aside(workdir)
    is_resumed = gather(bool(saved_steps(workdir)))[0]
    found: dict[str, str] = {}
    with agreement.agreed(found):
        if was_resumed and not is_resumed:
            check_start(config, workdir, is_resumed)
        data = settings.datasets(config)
        variables = init_variables(settings.model_from(config), config.seed)
        if config.init_scores == "zero":
            variables["params"] = with_zero_scores(variables["params"])
        if config.init_from and not is_resumed:
            variables = start_weights(config, variables)
        make_workdir(workdir)
        splits = open_splits(data)
        train_source, eval_source = open_sources(data, splits)
        settle_folder(config, splits)
        recipe = settings.recipe(config, trained_pixels(data, splits) if config.loss.class_weights else None)
        images = check_unseen(workdir, train_source, eval_source, is_resumed=is_resumed)
        found.update(agreement.of_data(data, train_source, eval_source), preprocessing=repr(recipe.preprocessing))
    agreement.check_shared(workdir)
    say(f"training on {len(train_source)} images of {data.train}")
    say(f"evaluating on {len(eval_source)} images of {data.eval}")
    say(f"{mesh.size} {jax.devices()[0].device_kind} device(s), mesh {dict(mesh.shape)}")
    if config.model.decoder == "lrr" and not is_resumed:
        variables = with_own_patterns(config, variables, train_source)
    if config.reestimate.batches and not is_resumed:
        variables = with_own_statistics(config, recipe, variables, train_source, mesh)
    state = jax.device_put(init_state(variables, recipe), replicated(mesh))
    say(f"{parameter_overview.count_parameters(state.params):,} parameters")
    return Start(mesh, recipe, state, train_source, eval_source, images)


def train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    start: Start,
    checkpoints: Checkpoints,
    stop: StopSignals,
    profile_steps: int,
) -> int:
    """Trains from the newest checkpoint, or the start, to the end or a signal; returns the step it has come to.

    The order at each step is fixed: save, evaluate, next batch, step, log. The iterator never moves between a step and
    its save, which makes a resumed run equal, bit for bit, to one that was never stopped.
    """
    state, mesh = start.state, start.mesh
    batches = TrainBatches(
        start.train_source,
        settings.augmentation(config),
        settings.reading(config),
        batch_size=config.batch_size,
        num_batches=config.num_steps,
        seed=config.seed,
        share=read_share(mesh),
        rare_share=config.data.rare_share,
    )
    if restored := checkpoints.restore(state):
        state, iterator_state = restored
        batches.set_state(iterator_state)
        say(f"resuming from step {int(state.step)} of {workdir}")
    if jax.process_index() == 0:
        saved_config.save(config, workdir)
        write_json(workdir / RunFile.IMAGES, start.images)
    first, train_step = int(state.step), jit_train_step(start.recipe, mesh, config.repeatable)
    state, separated = small_arrays.for_step(state, mesh)
    due = Due(config.num_steps, config.log_every, config.eval_every, config.checkpoint_every)
    with (
        closing(RunLog(workdir, first, jax.process_index() == 0, config.loggers, config.to_dict())) as run_log,
        Profile(workdir / RunFile.PROFILE, first, profile_steps) as profile,
    ):
        log = StepLog(config, workdir, first, run_log)
        evaluation = Evaluations(config, start.recipe, mesh, start.eval_source, checkpoints, run_log, stop)
        for step in range(first, config.num_steps + 1):
            stop.agree(step)
            is_saved = due.save(step) or bool(stop.received)
            if is_saved or due.log(step):
                log.tell(step, is_due=due.log(step))
                checkpoints.check()
            if is_saved:
                checkpoints.save(separated(state), batches.get_state())
            if due.evaluate(step):
                evaluation.evaluate(step, separated(state))
                log.skip_to(step)
            if due.end(step) or (is_saved and stop.received):  # a signal since then waits for the next step's save
                break
            if (step == first or due.evaluate(step)) and evaluation.is_over(step):
                break
            batch = put_batch(next(batches), mesh, start.recipe.model.takes_inside)
            with profile.step(step), jax.transfer_guard("disallow"):
                state, metrics = train_step(state, batch)
            log.add(step, metrics)
    return step


class StepLog:
    """The metrics of the steps since the last log. They stay on the device until they are told or checked."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, first: int, run_log: RunLog):
        solver = settings.solver(config)
        self._rate: optax.Schedule = learning_rate(solver)
        self._solver, self._is_clipping_told = solver, False
        self._workdir, self._first, self._log = workdir, first, run_log
        self._progress = Progress(first, config.num_steps, config.batch_size)
        self._unread: list[dict[str, jax.Array]] = []

    def tell(self, step: int, is_due: bool) -> None:
        """Reads the metrics of the steps up to this, and logs their means if that is due.

        Raises:
          TrainingError: if one of them is not finite.
        """
        if not self._unread:
            return
        means = check_finite(step, self._unread, self._workdir)
        if is_due:
            means["learning_rate"] = float(self._rate((step - 1) // self._solver.accumulate))
            self._tell_clipping()
            self._log.scalars(step, self._progress.report(step, means))
            self._unread = []

    def _tell_clipping(self) -> None:
        """Says once if most steps since the last log are far shorter than the learning rate says."""
        norms, limit = np.array([metrics["grad_norm"] for metrics in self._unread]), self._solver.clip_norm
        if self._is_clipping_told or not limit or self._solver.name != "sgd" or np.mean(norms > limit) <= 0.5:
            return
        self._is_clipping_told = True
        say(
            f"note: {np.sum(norms > limit)} of {len(norms)} steps were clipped, config.optimizer.clip_norm={limit:g}; "
            f"the gradient's norm is about {np.median(norms):.3g}; if the loss falls too slowly, set clip_norm near "
            f"that, start with config.init_scores=zero, or take config.optimizer.name=adamw"
        )

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step; waits for the run's first, which compiles, and says how long it took."""
        self._unread.append(metrics)
        if step == self._first:
            jax.block_until_ready(metrics)
            seconds = self._progress.seconds()
            say(f"first step done, {seconds:.1f} s after the start of the loop, compiling included")
            self.skip_to(step + 1)

    def skip_to(self, step: int) -> None:
        """Measures the speed from here on, after something that is not a step."""
        self._progress.skip_to(step)


@contextmanager
def failures_told(workdir: pathlib.Path) -> Iterator[None]:
    """Turns what a full disk or a dead process leads to into a `TrainingError`."""
    try:
        yield
    except OSError as error:
        path, reason = error.filename or workdir, error.strerror or error
        raise TrainingError(f"{path}: {reason}; {last_good(workdir)}") from error
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
            f"{last_good(workdir)}; lower config.optimizer.learning_rate or set "
            "config.optimizer.clip_norm"
        )
    return {key: float(array.mean()) for key, array in values.items()}
