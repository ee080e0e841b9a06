"""The state of a training, and the pure function that computes one step of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gcn_jax.models import Network, variable_shapes
from gcn_jax.models.ops.xla import select
from gcn_jax.models.preprocessing import Preprocessing, PyTree, normalize
from gcn_jax.runtime.compilation import platform_jit
from gcn_jax.training import small_arrays
from gcn_jax.training.losses import Loss
from gcn_jax.training.optimizer import join_fixed, split_fixed

_LARGE = 4096  # from so many numbers on an array is not joined with others to compute a norm
Batch = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that training changes, except the position in the data.

    It holds no random key: a step draws no random numbers, and those for the data follow from seed and position.

    Attributes:
      step: int32 scalar, the number of batches trained on.
      params: the model's parameters, float32, trained and fixed ones.
      batch_stats: batch norm's running statistics, float32.
      opt_state: the optimizer's state, for the trained parameters.
      ema_params: the moving average of params; None if there is none.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    ema_params: PyTree

    def eval_variables(self) -> dict[str, PyTree]:
        """The variables to evaluate: with the averaged parameters, if there are any."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, "batch_stats": self.batch_stats}


@dataclass(frozen=True)
class Recipe:
    """What a training step is made of.

    Attributes:
      model: the network; the part of its backbone that `freeze` names is not trained.
      optimizer: for the trained parameters, see `split_fixed`.
      preprocessing: how images are normalised.
      loss: what is minimised.
      ema_decay: the decay per step of an exponential moving average of the parameters; 0: there is no average.
    """

    model: Network
    optimizer: optax.GradientTransformation
    preprocessing: Preprocessing
    loss: Loss = field(default_factory=Loss)
    ema_decay: float = 0.0


def init_state(variables: dict[str, PyTree], recipe: Recipe) -> TrainState:
    """The state before the first step.

    Args:
      variables: the model's initial variables, ``{"params": ..., "batch_stats": ...}``.
      recipe: of the step.
    """
    optimizer, freeze = recipe.optimizer, recipe.model.backbone.freeze
    params = jax.tree.map(jnp.asarray, variables["params"])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=jax.tree.map(jnp.asarray, variables["batch_stats"]),
        opt_state=jax.jit(optimizer.init)(split_fixed(params, freeze)[0]),  # one program, not one per shape
        ema_params=jax.tree.map(jnp.copy, params) if recipe.ema_decay else None,
    )


def global_norm(tree: PyTree) -> jax.Array:
    """The Euclidean norm of all numbers in a tree, float32."""

    def by_array(*leaves: jax.Array) -> Any:
        # Small arrays are joined, so that the program has few parts. The zero is there in case no array is small.
        flat = [leaf.reshape(-1) for leaf in leaves]
        arrays = [leaf for leaf in flat if leaf.size >= _LARGE]
        arrays.append(jnp.concatenate([jnp.zeros(1), *(leaf for leaf in flat if leaf.size < _LARGE)]))
        return sum(jnp.vdot(x, x, precision=jax.lax.Precision.HIGHEST) for x in arrays)

    def by_row(*leaves: jax.Array) -> jax.Array:
        # The sums of rows are part of what makes the arrays; one more launch adds them up, and not one an array.
        rows = jnp.concatenate([jnp.sum(jnp.square(jnp.atleast_1d(leaf)), axis=-1).reshape(-1) for leaf in leaves])
        return jnp.sum(jax.lax.optimization_barrier(rows))

    return jnp.sqrt(select(*jax.tree.leaves(tree), one_cpu=by_array, gpu=by_row, elsewhere=by_array))


def make_loss(recipe: Recipe, joined: bool = False) -> Callable[..., tuple[jax.Array, PyTree]]:
    """Makes the function ``(trained, fixed, batch_stats, batch) -> (loss, batch_stats)``.

    The first two arguments are the parameters, as `split_fixed` returns them; for `joined` see `make_train_step`.
    """

    def loss_fn(trained: PyTree, fixed: PyTree, batch_stats: PyTree, batch: Batch) -> tuple[jax.Array, PyTree]:
        variables = {"params": join_fixed(trained, fixed), "batch_stats": batch_stats}
        if joined:
            shapes = variable_shapes(recipe.model)
            variables = small_arrays.separate_variables(variables, shapes, recipe.model.backbone.norm)
        images = normalize(batch["image"], recipe.preprocessing)
        mutable, inside = ["batch_stats", "auxiliary"], batch.get("inside")
        logits, updated = recipe.model.apply(variables, images, train=True, inside=inside, mutable=mutable)
        batch_stats = small_arrays.join(updated["batch_stats"]) if joined else updated["batch_stats"]
        return recipe.loss(logits, batch["label"], updated.get("auxiliary", {})), batch_stats

    return loss_fn


def make_train_step(
    recipe: Recipe, joined: bool = False
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Makes the step, a pure function ``(state, batch) -> (state, metrics)``.

    The batch is ``{"image": uint8 [B, H, W, 3], "label": uint8 [B, H, W]}``, and if the model ``takes_inside`` also
    ``{"inside": int32 [B, 4]}``. The metrics are two float32 scalars of this batch, from before the update: ``loss``,
    and ``grad_norm``, the Euclidean norm of the gradient.

    Args:
      recipe: of the step.
      joined: whether the state that it takes and returns is one from `small_arrays.join`.
    """

    loss_and_grads = jax.value_and_grad(make_loss(recipe, joined), has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        trained, fixed = split_fixed(state.params, recipe.model.backbone.freeze)
        (loss, batch_stats), grads = loss_and_grads(trained, fixed, state.batch_stats, batch)
        updates, opt_state = recipe.optimizer.update(grads, state.opt_state, trained)
        params = join_fixed(optax.apply_updates(trained, updates), fixed)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = optax.incremental_update(params, ema_params, 1 - recipe.ema_decay)
        state = TrainState(state.step + 1, params, batch_stats, opt_state, ema_params)
        return state, {"loss": loss, "grad_norm": global_norm(grads)}

    return train_step


def jit_train_step(recipe: Recipe, mesh: Mesh | None = None, repeatable: bool = True) -> Any:
    """The step, jitted as training runs it: the state is donated, and the same input gives the same bits each time.

    The state is one from `small_arrays.for_step`, for the same devices.

    Args:
      recipe: of the step.
      mesh: of devices; None: the default device.
      repeatable: False: a GPU may give other bits each time.
    """
    step = make_train_step(recipe, small_arrays.is_joined(mesh))
    return platform_jit(step, recipe.model.dtype, mesh, repeatable=repeatable, donate_argnums=0)
