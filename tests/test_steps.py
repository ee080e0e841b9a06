"""The training step on one device and on meshes; checkpoints."""

import json
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.best import Best
from gcn_jax.checkpoints.manager import Checkpoints, load_variables
from gcn_jax.config import settings
from gcn_jax.errors import UserError
from gcn_jax.models import DECODERS, init_variables
from gcn_jax.models.heads import HEADS
from gcn_jax.models.ops import xla
from gcn_jax.runtime import compilation
from gcn_jax.runtime.compilation import options, platform_jit
from gcn_jax.runtime.mesh import put_batch, replicated
from gcn_jax.training.step import global_norm, init_state, jit_train_step, make_train_step
from tests.helpers import check_mesh, jit_step, mesh_of, random_batch, randomize


def one_step(config, data, space):
    """Loss, gradient norm and the new state of a step on a mesh; with lr 1 and no decay the update is the gradient."""
    config.mesh.update(data=data, space=space)
    config.optimizer.update(learning_rate=1.0, momentum=0.0, weight_decay=0.0)
    mesh, recipe = mesh_of(config), settings.recipe(config)
    variables = randomize(init_variables(recipe.model, 0))
    state = jax.device_put(init_state(variables, recipe), replicated(mesh))
    batch = put_batch(random_batch(config.batch_size, config.data.size), mesh)
    assert len(batch["image"].sharding.device_set) == data * space
    # Of several devices' programs the partition is tested; to optimise them within would take half of the time.
    options = {"xla_backend_optimization_level": 0} if mesh.size > 1 else {}
    with xla.platform("cpu"):
        state, metrics = jax.jit(make_train_step(recipe), compiler_options=options)(state, batch)
    gradient = jax.tree.map(lambda new, old: np.asarray(new) - old, state.params, variables["params"])
    return metrics, gradient, jax.device_get(state.batch_stats)


@pytest.mark.parametrize(("dtype", "is_ynnpacks"), [("float32", False), ("bfloat16", True), (np.float32, False)])
def test_whose_matrix_products_a_cpu_takes(dtype, is_ynnpacks):
    x = jnp.ones((256, 256), dtype)
    text = jax.jit(jnp.matmul, compiler_options=options(dtype)).lower(x, x).compile().as_text()
    assert ("ynn" in text) == is_ynnpacks


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "lowered_for"), [("cpu", "cpu"), ("gpu", "cuda"), ("tpu", "tpu")])
def test_a_step_for_one_platform_does_what_one_for_any_does_there(config, platform, lowered_for):
    recipe = settings.recipe(config)
    model = recipe.model
    step = make_train_step(recipe)
    args = init_state(init_variables(model, 0), recipe), random_batch(1)

    def operations(jitted):
        text = jitted.trace(*args).lower(lowering_platforms=(lowered_for,)).as_text()
        found = Counter(re.findall(r"stablehlo\.(\w+)", text))
        choices = found.pop("case", 0)
        for zeros in ("return", "constant", "broadcast_in_dim"):  # also of the forms that were not chosen
            found.pop(zeros, None)
        return found, choices

    expected, choices = operations(jax.jit(step))
    assert choices > 0
    with xla.platform(platform):
        assert operations(jax.jit(step)) == (expected, 0)
    if platform == jax.default_backend():
        assert operations(jit_train_step(recipe, mesh_of(config))) == (expected, 0)


@pytest.mark.parametrize(
    "changes",
    [
        *({}, {"norm": "train"}, {"head": "stack3x3", "head_width": 8}, {"backbone": "resnet50_gcn"}),
        *(pytest.param({"decoder": name}, marks=pytest.mark.slow) for name in DECODERS),
        *(
            pytest.param({"head": name, "head_width": 8, "kernel_size": 5}, marks=pytest.mark.slow)
            for name in HEADS[1:]
        ),
    ],
)
def test_a_gpu_can_repeat_a_step(config, changes):
    """XLA's repeatable forms of scatters and of `select-and-scatter` on a GPU sort, which is slow."""
    config.model.update(changes)
    recipe = settings.recipe(config)
    model = recipe.model
    args = init_state(init_variables(model, 0), recipe), random_batch(1)
    with xla.platform("gpu"):
        step = jax.jit(make_train_step(recipe)).trace(*args)
    text = step.lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.convolution" in text
    assert "scatter" not in text


def test_a_gpu_is_told_to_repeat_a_step(config, monkeypatch):
    monkeypatch.setattr(compilation, "platform_of", lambda mesh: "gpu")
    assert options("float32") == {}
    assert options("float32", repeatable=True) == {"xla_gpu_exclude_nondeterministic_ops": True}, "XLA knows it, too"
    asked = []

    def impossible(dtype, mesh, repeatable):
        asked.append(repeatable)
        return {"xla_made_up": True}

    monkeypatch.setattr(compilation, "options", impossible)
    recipe = settings.recipe(config)
    lowered = jit_train_step(recipe).lower(init_state(init_variables(recipe.model, 0), recipe), random_batch(1))
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_made_up"):
        lowered.compile()
    assert asked == [True]


def test_an_unknown_compiler_option_is_left_out_and_said_once(monkeypatch, capsys):
    """As another version of XLA may not know one of ours, or not one of its values."""
    x = jnp.ones((4, 4))
    monkeypatch.setattr(compilation, "_CPU_LIBRARY", "xla_cpu_made_up")
    for _ in range(2):
        assert platform_jit(jnp.sum, "float32")(x) == 16
        assert options("float32") == {}
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"jax \S+: No such compile option: 'xla_cpu_made_up'; it is left out: .*", line)
    monkeypatch.setattr(compilation, "_CPU_LIBRARY", "xla_cpu_enable_fast_math")  # a truth value
    assert options("bfloat16") == {}
    assert "'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT' is not a valid bool value" in capsys.readouterr().err
    monkeypatch.setattr(compilation, "platform_of", lambda mesh: "gpu")
    monkeypatch.setattr(compilation, "_REPEATABLE", "xla_gpu_made_up")
    monkeypatch.setitem(compilation._LOST, "xla_gpu_made_up", compilation._LOST["xla_gpu_exclude_nondeterministic_ops"])
    assert options("float32", repeatable=True) == {}
    assert "may no longer be equal bit by bit" in capsys.readouterr().err


@pytest.mark.parametrize("shapes", [[(), (7,), (64, 64), (3, 3, 128, 65)], [(5,)], [(64, 64)]])
def test_global_norm(shapes):
    tree = {
        str(i): np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)
    }
    expected = np.linalg.norm(np.concatenate([x.astype(np.float64).reshape(-1) for x in tree.values()]))
    for platform in ("cpu", "gpu"):
        with xla.platform(platform):
            np.testing.assert_allclose(jax.jit(global_norm)(tree), expected, rtol=1e-6)


SHAPES = [(8, 1), (4, 2), (2, 4), (1, 8), (1, 2)]


@pytest.mark.parametrize(
    ("norm", "batch_size", "size", "meshes"),
    [
        pytest.param("frozen", 8, 256, SHAPES, marks=pytest.mark.slow),
        pytest.param("train", 4, 128, [(4, 1)], marks=pytest.mark.slow),
        ("train", 4, 128, [(2, 4)]),
        pytest.param("train", 1, 128, [(1, 4)], marks=pytest.mark.slow),
    ],
)
def test_a_mesh_computes_what_one_device_does(config, norm, batch_size, size, meshes):
    config.batch_size, config.model.norm, config.data.size = batch_size, norm, size
    config.model.boundary_refine = meshes != SHAPES  # which saves half of the time, and is on the other meshes
    expected, gradient, batch_stats = one_step(config, 1, 1)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    norm_of_leaves = np.linalg.norm(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)]))
    np.testing.assert_allclose(expected["grad_norm"], norm_of_leaves, rtol=1e-4)
    for data, space in meshes:
        metrics, sharded, stats = one_step(config, data, space)
        np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=1e-5)
        difference = max(np.abs(d).max() for d in jax.tree.leaves(jax.tree.map(np.subtract, gradient, sharded)))
        assert difference < 1e-5 * largest, (data, space)
        for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(batch_stats), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_one_image_over_eight_devices(config):
    """A row of res-5 on each device; the largest kernel reaches over all of them."""
    config.batch_size, config.data.size, config.model.kernel_size = 1, 256, 15
    expected, gradient, _ = one_step(config, 1, 1)
    metrics, sharded, _ = one_step(config, 1, 8)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(sharded), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max() + 1e-6)


@pytest.mark.slow
def test_plain_convolutions_on_a_mesh_compute_what_one_device_does(config):
    config.data.size, config.model.convolutions = 128, "plain"
    expected, gradient, _ = one_step(config, 1, 1)
    for data, space in ((2, 4), (1, 2)):
        metrics, sharded, _ = one_step(config, data, space)
        np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
        for a, b in zip(jax.tree.leaves(sharded), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max() + 1e-6)


def test_a_config_of_before_there_was_a_choice_of_convolutions(config, tmp_path):
    saved = config.to_dict()
    del saved["model"]["convolutions"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert saved_config.load(tmp_path).model.convolutions == "fast"
    config.model.convolutions = "plain"
    saved_config.check_same_model(config, tmp_path, "--workdir", "")
    assert saved_config.of_trained(config, tmp_path, ["model.convolutions"]).model.convolutions == "plain"
    assert saved_config.of_trained(config, tmp_path, []).model.convolutions == "fast"


def test_wrong_meshes_are_named(config):
    config.batch_size = 3
    for mesh, message in (
        ({"data": 16, "space": 1}, "needs 16 devices; there are 8"),
        ({"data": 2, "space": 1}, r"config\.batch_size=3 does not divide over config\.mesh\.data=2"),
        ({"data": 1, "space": 4}, r"config\.mesh\.space=4: res-5 has config\.data\.size / 32 = 2 rows"),
    ):
        config.mesh.update(mesh)
        with pytest.raises(UserError, match=message):
            check_mesh(config, mesh_of(config))


@pytest.mark.slow
def test_ema_follows_the_parameters(config):
    config.optimizer.ema_decay = 0.75
    recipe = settings.recipe(config)
    model = recipe.model
    variables = randomize(init_variables(model, 0))
    state, _ = jit_step(recipe)(init_state(variables, recipe), random_batch(2))
    kernel, old = state.params["backbone"]["conv1"]["kernel"], variables["params"]["backbone"]["conv1"]["kernel"]
    averaged = state.eval_variables()["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_allclose(averaged, 0.75 * old + 0.25 * np.asarray(kernel), rtol=1e-5)


def test_checkpoints_keep_the_newest_and_the_best(config, tmp_path):
    recipe = settings.recipe(config)
    model = recipe.model
    state = init_state(init_variables(model, 0), recipe)
    step = jax.jit(
        lambda s: s.replace(step=s.step + 1, params=jax.tree.map(lambda x: x + 1, s.params)), donate_argnums=0
    )
    snapshots = {}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for i in range(6):
            snapshots[i] = jax.tree.map(lambda x: np.array(x, copy=True), state.params)
            checkpoints.save(state, {"next_index": i})
            if i in (1, 3):
                checkpoints.mark(Best(i, 0.9 - i / 10, "", "miou", 0.9 - i / 10))
            state = step(state)  # at once, while the save goes on
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "4", "5"]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        restored, iterator_state = checkpoints.restore(state)
    assert iterator_state == {"next_index": 5}
    assert jax.tree.all(jax.tree.map(np.array_equal, restored.params, snapshots[5]))
    for which, expected in (("best", 1), ("latest", 5)):
        found, variables = load_variables(tmp_path, which, averaged=False)
        assert found == expected
        assert jax.tree.all(jax.tree.map(np.array_equal, variables["params"], snapshots[expected]))
