"""The solver: SGD with momentum and weight decay, as in the paper."""

from typing import Any

import jax
import ml_collections
import optax

from gcn_jax.models.backbones.resnet import is_fixed

SCHEDULES = ("fixed", "poly")
DECAYED = ("all", "kernels")


def split_fixed(params: dict[str, Any], freeze: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that are trained, and those of the backbone that ``config.model.freeze`` fixes."""
    backbone = params["backbone"]
    fixed = {name: layer for name, layer in backbone.items() if is_fixed(name, freeze)}
    return {**params, "backbone": {name: layer for name, layer in backbone.items() if name not in fixed}}, fixed


def join_fixed(trained: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """All parameters: `split_fixed`'s inverse."""
    return {**trained, "backbone": {**trained["backbone"], **fixed}}


def learning_rate(config: ml_collections.ConfigDict) -> optax.Schedule:
    """The rate of update i: fixed, or "poly", ``rate * (1 - i / updates) ** power`` (DeepLab).

    An update is made from ``config.optimizer.accumulate`` steps.
    """
    optimizer = config.optimizer
    if optimizer.schedule == "fixed":
        return optax.constant_schedule(optimizer.learning_rate)
    updates = max(config.num_steps // optimizer.accumulate, 1)
    return optax.polynomial_schedule(optimizer.learning_rate, 0.0, optimizer.poly_power, updates)


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Builds the optax chain: clip, add weight decay to the gradient, momentum, rate; as Caffe and PyTorch do.

    ``velocity = momentum * velocity + gradient + weight_decay * parameter``, then
    ``parameter -= rate * velocity``, where the backbone's rate is ``config.optimizer.backbone_rate`` times the others'.
    It is for the parameters that are trained, see `split_fixed`.
    """
    optimizer = config.optimizer

    def is_decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: optimizer.decay == "all" or path[-1].key == "kernel", params
        )

    def is_backbone(params):
        return {name: name == "backbone" for name in params}

    chain = optax.chain(
        optax.clip_by_global_norm(optimizer.clip_norm) if optimizer.clip_norm else optax.identity(),
        optax.add_decayed_weights(optimizer.weight_decay, mask=is_decayed),
        optax.sgd(learning_rate(config), momentum=optimizer.momentum),
        optax.masked(optax.scale(optimizer.backbone_rate), is_backbone)
        if optimizer.backbone_rate != 1
        else optax.identity(),
    )
    if optimizer.accumulate == 1:
        return chain
    return optax.MultiSteps(chain, optimizer.accumulate).gradient_transformation()
