"""The state with its small arrays joined, as a GPU's step takes it: the same numbers, and the same training."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from gcn_jax.checkpoints.manager import load_variables
from gcn_jax.config import settings
from gcn_jax.models import init_variables, variable_shapes
from gcn_jax.modes import train
from gcn_jax.training import small_arrays
from gcn_jax.training.small_arrays import join, separate
from gcn_jax.training.step import init_state
from tests.helpers import jit_step, random_batch, randomize, relative


def state_and_step(config, joined):
    recipe = settings.recipe(config)
    variables = init_variables(recipe.model, 0)
    crf = {name: variables["params"].pop(name) for name in ("crf",) if name in variables["params"]}
    variables = randomize(variables)
    variables["params"] |= crf  # which starts at numbers of its own
    state = init_state(variables, recipe)
    return state, jit_step(recipe, joined)


def test_joined_arrays_are_few_and_come_apart_again(config):
    config.optimizer.update(name="adamw", ema_decay=0.9, accumulate=2)
    config.model.backbone = "resnet26"
    state, _ = state_and_step(config, joined=False)
    state = jax.tree.map(lambda leaf: leaf + np.arange(leaf.size).reshape(leaf.shape).astype(leaf.dtype), state)
    joined = jax.jit(join)(state)
    assert len(jax.tree.leaves(joined.params)) < 20 < 100 < len(jax.tree.leaves(state.params))
    for tree in (joined.params, joined.ema_params):
        assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == sum(
            leaf.size for leaf in jax.tree.leaves(state.params)
        )
    again = jax.jit(separate)(joined, state)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, state))
    again = separate(join(state.params), reordered(state.params))  # a jitted function sorts the names of a dict
    assert jax.tree.all(jax.tree.map(np.array_equal, again, state.params))


def reordered(tree):
    return {name: reordered(tree[name]) for name in reversed(tree)} if isinstance(tree, dict) else tree


def test_large_arrays_stay_as_they_are(monkeypatch, config):
    monkeypatch.setattr(small_arrays, "_LARGE", 500)
    state, _ = state_and_step(config, joined=False)
    flat = traverse_util.flatten_dict(state.params)
    joined = traverse_util.flatten_dict(join(state.params))
    large = {path for path, leaf in flat.items() if leaf.size >= 500}
    assert large
    assert large <= set(joined)
    assert all(joined[path] is flat[path] for path in large)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.decay": "kernels", "optimizer.backbone_rate": 0.5, "optimizer.layer_decay": 0.8},
        {"model.freeze": "res3", "optimizer.clip_norm": 0.1, "optimizer.ema_decay": 0.5},
        {"optimizer.name": "adamw", "optimizer.decay": "kernels", "optimizer.accumulate": 2}
        | {"model.norm": "train", "model.remat": True},
        {"model.decoder": "fcn", "model.decoder_norm": "train", "model.auxiliary": True}
        | {"model.output_stride": 32, "model.fused_scales": (0.5,)},
        {"model.decoder": "lrr", "model.crf": "dpn"},
    ],
)
def test_steps_are_those_of_the_separate_state(config, changes):
    """With whatever goes by the names of arrays."""
    config.update_from_flattened_dict(changes)
    config.optimizer.update(learning_rate=0.1)
    state, step = state_and_step(config, joined=False)
    joined_step = state_and_step(config, joined=True)[1]
    expected, found, batch = state, join(state), random_batch(2)
    for _ in range(2):
        expected, metrics = step(expected, batch)
        found, joined_metrics = joined_step(found, batch)
        for name in metrics:
            np.testing.assert_allclose(joined_metrics[name], metrics[name], rtol=1e-4)
    assert any(
        relative(a, b) > 1e-3 for a, b in zip(*map(jax.tree.leaves, (expected, state)), strict=True) if b.size > 1
    )
    for a, b in zip(*map(jax.tree.leaves, (separate(found, state), expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(np.abs(b).max(), 1e-3))


def test_all_norms_of_the_backbone_are_folded_at_once(config):
    recipe = settings.recipe(config)
    variables = randomize(init_variables(recipe.model, 0))
    joined = {kind: join(tree) for kind, tree in variables.items()}
    shapes = variable_shapes(recipe.model)
    found = small_arrays.separate_variables(joined, shapes, "frozen")["folded"]["backbone"]["res4_block1"]["norm2"]
    params, stats = (variables[kind]["backbone"]["res4_block1"]["norm2"] for kind in ("params", "batch_stats"))
    scale = params["scale"] / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(found["scale"], scale, rtol=1e-6)
    np.testing.assert_allclose(found["shift"], params["bias"] - stats["mean"] * scale, rtol=1e-4, atol=1e-6)
    assert "folded" not in small_arrays.separate_variables(joined, shapes, "train")


@pytest.mark.slow
def test_a_training_of_a_joined_state_saves_and_resumes_a_separate_one(config, tmp_path, monkeypatch):
    config.update_from_flattened_dict({"num_steps": 4, "checkpoint_every": 2, "eval_every": 4, "mesh.data": 1})
    train.run(config, tmp_path / "plain")
    monkeypatch.setattr(small_arrays, "is_joined", lambda mesh=None: True)
    train.run(config, tmp_path / "joined")
    config.num_steps = 2
    train.run(config, tmp_path / "resumed")
    config.num_steps = 4
    train.run(config, tmp_path / "resumed")
    plain, joined, resumed = (
        load_variables(tmp_path / name, "latest", averaged=False)[1] for name in ("plain", "joined", "resumed")
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, joined, resumed))
    for a, b in zip(*map(jax.tree.leaves, (joined, plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
