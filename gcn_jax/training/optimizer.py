"""The optimizer: SGD with momentum and weight decay, as in the paper; AdamW and Lion; the learning rate's schedules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gcn_jax.models.backbones.resnet import is_fixed

OPTIMIZERS = ("sgd", "adamw", "lion")
SCHEDULES = ("fixed", "poly", "cosine", "step", "one_cycle")
DECAYED = ("all", "kernels")
_OF_CLASSES = ("compatibility", "contexts")  # parameters of a CRF inside the network that relate classes


@dataclass(frozen=True)
class Solver:
    """How parameters are updated; ``config.optimizer``.

    Attributes:
      learning_rate: of everything except the backbone; the schedule's largest.
      num_steps: number of steps of the training, at the end of which the schedule ends.
      name: "sgd" with momentum, "adamw" (Loshchilov and Hutter, ICLR 2019) or "lion" (Chen et al., NeurIPS 2023).
      schedule: of the learning rate, see `learning_rate`.
      poly_power: the exponent of the schedule "poly".
      drops: of the schedule "step": the shares of the training after which the rate is divided by 10.
      warmup_steps: over which the rate first rises from 0, linearly; not for "one_cycle", which has a rise of its own.
      momentum: of SGD.
      betas: of AdamW and Lion; empty: (0.9, 0.999) and (0.9, 0.99), which their papers take.
      weight_decay: this times a parameter is added to the parameter's gradient; AdamW and Lion take this times the
        learning rate off the parameter.
      decay: which parameters decay, "all" or "kernels".
      backbone_rate: the backbone's learning rate, as a multiple of the others'.
      crf_rates: the same of a CRF inside the network: of its filters, and of its compatibility; empty: there is none.
      layer_decay: a further factor for each stage of the backbone, from the heads down: res5 has it once, res4 twice,
        what comes before res2 five times.
      accumulate: number of batches for one update, which is made from the mean of their gradients.
      clip_norm: the largest Euclidean norm of the whole gradient, which is scaled down to it; 0: no limit.
    """

    learning_rate: float
    num_steps: int
    name: str = "sgd"
    schedule: str = "fixed"
    poly_power: float = 0.9
    drops: tuple[float, ...] = (0.6, 0.8)
    warmup_steps: int = 0
    momentum: float = 0.99
    betas: tuple[float, ...] = ()
    weight_decay: float = 5e-4
    decay: str = "all"
    backbone_rate: float = 1.0
    crf_rates: tuple[float, ...] = ()
    layer_decay: float = 1.0
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
    """The learning rate by the number of the update, of which there is one for each `Solver.accumulate` steps.

    "fixed"; "poly", DeepLab's (Chen et al., TPAMI 2018): update i of n has ``rate * (1 - i / n) ** power``; "cosine":
    ``rate * (1 + cos(pi i / n)) / 2``; "step": divided by 10 at `Solver.drops`; "one_cycle" (Smith and Topin, 2019): it
    rises by a cosine from rate / 25 over the first 0.3 of the training, and falls to rate / 250,000. After
    `Solver.warmup_steps` the others go on as if there had been no warm-up.
    """
    rate, updates = solver.learning_rate, max(solver.num_steps // solver.accumulate, 1)
    match solver.schedule:
        case "poly":
            schedule = optax.polynomial_schedule(rate, 0.0, solver.poly_power, updates)
        case "cosine":
            schedule = optax.cosine_decay_schedule(rate, updates)
        case "step":
            schedule = optax.piecewise_constant_schedule(rate, {round(drop * updates): 0.1 for drop in solver.drops})
        case "one_cycle":
            return optax.cosine_onecycle_schedule(updates, rate)
        case _:
            schedule = optax.constant_schedule(rate)
    warmup = solver.warmup_steps // solver.accumulate
    if not warmup:
        return schedule
    return lambda count: schedule(count) * jnp.minimum((count + 1) / warmup, 1)


def make_optimizer(solver: Solver) -> optax.GradientTransformation:
    """Builds the optimizer for the trained parameters that `split_fixed` returns.

    The gradient is clipped. Then, as in Caffe and PyTorch, SGD's update is
    ``velocity = momentum * velocity + gradient + weight_decay * parameter``,
    ``parameter -= rate * velocity``; AdamW and Lion are optax's. The backbone's rate is `Solver.backbone_rate` times
    the others', and falls by `Solver.layer_decay` from stage to stage.
    """
    chain = optax.chain(
        optax.clip_by_global_norm(solver.clip_norm) if solver.clip_norm else optax.identity(),
        *_rule(solver, _is_decayed(solver.decay)),
        optax.masked(optax.scale(solver.backbone_rate), is_backbone) if solver.backbone_rate != 1 else optax.identity(),
        *([optax.stateless(_scale_by_depth(solver.layer_decay))] if solver.layer_decay != 1 else []),
        *([optax.stateless(_scale_crf(solver.crf_rates))] if solver.crf_rates else []),
    )
    if solver.accumulate == 1:
        return chain
    return optax.MultiSteps(chain, solver.accumulate).gradient_transformation()


def _rule(solver: Solver, is_decayed: Callable[[Any], Any]) -> list[optax.GradientTransformation]:
    rate, decay = learning_rate(solver), solver.weight_decay
    match solver.name:
        case "adamw":
            first, second = solver.betas or (0.9, 0.999)
            return [optax.adamw(rate, first, second, weight_decay=decay, mask=is_decayed)]
        case "lion":
            first, second = solver.betas or (0.9, 0.99)
            return [optax.lion(rate, first, second, weight_decay=decay, mask=is_decayed)]
    return [optax.add_decayed_weights(decay, mask=is_decayed), optax.sgd(rate, momentum=solver.momentum)]


def _is_decayed(which: str) -> Callable[[Any], Any]:
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: which == "all" or path[-1].key == "kernel", params
    )


def is_backbone(params: dict[str, Any]) -> dict[str, bool]:
    """Which of a model's top modules is the backbone."""
    return {name: name == "backbone" for name in params}


def _scale_by_depth(factor: float) -> Callable[[Any, Any], Any]:
    def scale(updates: dict[str, Any], params: Any) -> dict[str, Any]:
        del params
        factors = {name: factor ** (6 - depth(name)) for name in updates["backbone"]}
        layers = {name: optax.tree.scale(factors[name], layer) for name, layer in updates["backbone"].items()}
        return {**updates, "backbone": layers}

    return scale


def _scale_crf(rates: tuple[float, ...]) -> Callable[[Any, Any], Any]:
    def scale(updates: dict[str, Any], params: Any) -> dict[str, Any]:
        del params
        scaled = {name: rates[name in _OF_CLASSES] * update for name, update in updates["crf"].items()}
        return {**updates, "crf": scaled}

    return scale


def depth(name: str) -> int:
    """The stage of a backbone's layer or block: 2 to 5 for "res2_block1" to "res5_block3", 1 for what comes before."""
    return int(name[3]) if name.startswith("res") else 1
