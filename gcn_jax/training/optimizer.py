"""The optimizer: SGD with momentum and weight decay, as in the paper."""

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
      learning_rate: the initial learning rate of everything except the backbone.
      num_steps: number of steps of the training, at the end of which the schedule ends.
      schedule: of the learning rate, "fixed" or "poly".
      poly_power: the exponent of the schedule "poly".
      momentum: of SGD.
      weight_decay: this times a parameter is added to the parameter's gradient.
      decay: which parameters decay, "all" or "kernels".
      backbone_rate: the backbone's learning rate, as a multiple of the others'.
      accumulate: number of batches for one update, which is made from the mean of their gradients.
      clip_norm: the largest Euclidean norm of the whole gradient, which is scaled down to it; 0: no limit.
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
    """Splits a model's parameters into those that are trained and those that stay fixed.

    Args:
      params: of the model.
      freeze: which part of the backbone is fixed, as `ResNet.freeze` has it.

    Returns:
      The trained parameters, as a tree of the model's structure without the fixed ones; and the backbone's fixed ones.
    """
    backbone = params["backbone"]
    fixed = {name: layer for name, layer in backbone.items() if is_fixed(name, freeze)}
    return {**params, "backbone": {name: layer for name, layer in backbone.items() if name not in fixed}}, fixed


def join_fixed(trained: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """Joins trained and fixed parameters to a model's parameters: the inverse of `split_fixed`."""
    return {**trained, "backbone": {**trained["backbone"], **fixed}}


def learning_rate(solver: Solver) -> optax.Schedule:
    """The learning rate by the number of the update: fixed, or "poly".

    "poly" is DeepLab's (Chen et al., TPAMI 2018): update i has ``rate * (1 - i / updates) ** power``. There is one
    update for each `Solver.accumulate` steps.
    """
    if solver.schedule == "fixed":
        return optax.constant_schedule(solver.learning_rate)
    updates = max(solver.num_steps // solver.accumulate, 1)
    return optax.polynomial_schedule(solver.learning_rate, 0.0, solver.poly_power, updates)


def make_optimizer(solver: Solver) -> optax.GradientTransformation:
    """Builds the optimizer for the trained parameters that `split_fixed` returns.

    The gradient is clipped. Then, as in Caffe and PyTorch, the update is
    ``velocity = momentum * velocity + gradient + weight_decay * parameter``,
    ``parameter -= rate * velocity``, where the backbone's rate is `Solver.backbone_rate` times the others'.
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
