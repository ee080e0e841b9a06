"""The evaluations of a training: which step is the best, and whether it is time to stop."""

import ml_collections
from jax.sharding import Mesh

from gcn_jax.checkpoints.best import LOSS, Best
from gcn_jax.checkpoints.manager import Checkpoints
from gcn_jax.config import settings
from gcn_jax.console import say
from gcn_jax.data.samples import Source
from gcn_jax.evaluation.evaluator import Evaluator
from gcn_jax.evaluation.result import as_json, conditions, score_table
from gcn_jax.evaluation.score import logged_as, score, scores_of
from gcn_jax.inference.labeller import Labeller
from gcn_jax.runtime import agreement
from gcn_jax.runtime.mesh import gather, local_mesh
from gcn_jax.runtime.stop_signals import StopSignals
from gcn_jax.training.run_log import RunLog
from gcn_jax.training.step import Recipe, TrainState


class Evaluations:
    """The evaluations of a training, told, logged, and noted for the choice of the best checkpoint.

    Args:
      config: of the run.
      recipe: of the training step.
      mesh: of all devices.
      source: of the images to evaluate on.
      checkpoints: of the run.
      run_log: of the run.
      stop: ends an evaluation early.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        recipe: Recipe,
        mesh: Mesh,
        source: Source,
        checkpoints: Checkpoints,
        run_log: RunLog,
        stop: StopSignals,
    ):
        self._data, self._checkpoints, self._log, self._stop = config.data.eval, checkpoints, run_log, stop
        self._best_by, self._patience = config.eval.best_by, config.stop.patience
        self._spec, self._protocol = settings.spec_from(config), settings.protocol(config)
        self._images = agreement.digest_of([str(conditions(self._protocol)), *sorted(source.image_ids)])
        labeller = Labeller(recipe.model, recipe.preprocessing, self._protocol, local_mesh(mesh))
        reading, pictures = settings.reading(config), config.eval.num_pictures
        self._evaluator = Evaluator(source, labeller, self._spec, reading, pictures)

    def evaluate(self, step: int, state: TrainState) -> None:
        """Evaluates a saved step, unless that was done before the run was resumed; ends early if it is to stop."""
        if gather(step in self._log.steps("miou"))[0]:
            return
        found = self._evaluator(state.eval_variables(), should_stop=lambda: bool(self._stop.received))
        if found is None:
            return
        result = as_json(found, step, self._data, self._protocol, self._spec.class_names)
        value = score(result, self._best_by)
        if value is None:
            say(f"warning: nothing was counted for config.eval.best_by={self._best_by}: step {step} is not compared")
        else:
            self._checkpoints.mark(Best(step, result["miou"] or 0.0, self._images, self._best_by, value))
        self._log.pictures(step, found.pictures)
        scores = {name: score(result, name) for name in dict.fromkeys((*scores_of(result), LOSS, self._best_by))}
        self._log.scalars(step, {logged_as(name): value for name, value in scores.items() if value is not None})
        say(f"evaluated at step {step}\n{score_table(result)}")

    def is_over(self, step: int) -> bool:
        """Whether ``config.stop.patience`` evaluations up to this step brought no better score; says so."""
        if not self._patience:
            return False
        best = self._checkpoints.best()
        now = Best(step, 0.0, self._images, self._best_by, 0.0)
        since = best.step if best else 0
        worse = [evaluated for evaluated in self._log.steps("miou") if evaluated > since]
        count = gather(len(worse) if best is None or best.is_comparable(now) else 0)[0]
        if count < self._patience:
            return False
        say(
            f"stopped early at step {step}: {count} evaluations since step {since} brought no better {self._best_by}; "
            f"to go on, set --config.stop.patience=0 or above {count}"
        )
        return True
