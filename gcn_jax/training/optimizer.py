"""The solver: SGD with momentum and weight decay, as in the paper."""

from dataclasses import dataclass
from typing import Any

import jax
import optax

from gcn_jax.models.backbones.resnet import is_fixed

SCHEDULES = ("fixed", "poly")
DECAYED = ("all", "kernels")


@dataclass(frozen=True)
class Solver:
    """How parameters are updated; ``config.optimizer``.

    Attributes:
      learning_rate: of the heads, at the start.
      num_steps: of the training, by which a schedule ends.
      schedule: one of `SCHEDULES`.
      poly_power: of the schedule "poly".
      momentum: of SGD.
      weight_decay: times a parameter, is added to its gradient.
      decay: one of `DECAYED`: which parameters decay.
      backbone_rate: the backbone's learning rate to that of the rest.
      accumulate: batches whose mean gradient makes one update.
      clip_norm: of the gradient, global; 0: off.
    """

    learning_rate: float
    num_steps: int
    schedule: str = "fixed"
    poly_power: float = 0.9
    momentum: float = 0.99
    weight_decay: float = 5e-4
    decay: str = "all"
    backbone_rate: float = 1.0
    accumulate: int = 1
    clip_norm: float = 0.0


def split_fixed(params: dict[str, Any], freeze: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that are trained, and those of the backbone that `ResNet.freeze` fixes."""
    backbone = params["backbone"]
    fixed = {name: layer for name, layer in backbone.items() if is_fixed(name, freeze)}
    return {**params, "backbone": {name: layer for name, layer in backbone.items() if name not in fixed}}, fixed


def join_fixed(trained: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """All parameters: `split_fixed`'s inverse."""
    return {**trained, "backbone": {**trained["backbone"], **fixed}}


def learning_rate(solver: Solver) -> optax.Schedule:
    """The rate of update i: fixed, or "poly", ``rate * (1 - i / updates) ** power`` (DeepLab).

    An update is made from `Solver.accumulate` steps.
    """
    if solver.schedule == "fixed":
        return optax.constant_schedule(solver.learning_rate)
    updates = max(solver.num_steps // solver.accumulate, 1)
    return optax.polynomial_schedule(solver.learning_rate, 0.0, solver.poly_power, updates)


def make_optimizer(solver: Solver) -> optax.GradientTransformation:
    """Builds the optax chain: clip, add weight decay to the gradient, momentum, rate; as Caffe and PyTorch do.

    ``velocity = momentum * velocity + gradient + weight_decay * parameter``, then
    ``parameter -= rate * velocity``, where the backbone's rate is `Solver.backbone_rate` times the others'.
    It is for the parameters that are trained, see `split_fixed`.
    """

    def is_decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: solver.decay == "all" or path[-1].key == "kernel", params
        )

    def is_backbone(params):
        return {name: name == "backbone" for name in params}

    chain = optax.chain(
        optax.clip_by_global_norm(solver.clip_norm) if solver.clip_norm else optax.identity(),
        optax.add_decayed_weights(solver.weight_decay, mask=is_decayed),
        optax.sgd(learning_rate(solver), momentum=solver.momentum),
        optax.masked(optax.scale(solver.backbone_rate), is_backbone) if solver.backbone_rate != 1 else optax.identity(),
    )
    if solver.accumulate == 1:
        return chain
    return optax.MultiSteps(chain, solver.accumulate).gradient_transformation()
