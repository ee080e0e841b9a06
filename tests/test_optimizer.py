"""The solver against closed forms; what is trained, and how fast: fixed parts of the backbone, and its rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcn_jax import config as config_lib
from gcn_jax.checkpoints.manager import Checkpoints
from gcn_jax.config import settings
from gcn_jax.errors import UserError
from gcn_jax.models import init_variables
from gcn_jax.models.backbones.resnet import FREEZE
from gcn_jax.training.optimizer import Solver, join_fixed, learning_rate, make_optimizer, split_fixed
from gcn_jax.training.step import init_state
from tests.helpers import jit_step, random_batch, randomize

ORDER = {"conv1": 1, "norm1": 1, **{f"res{i}_block1": i for i in range(2, 6)}}  # in `FREEZE`, of a resnet14


def updated(gradients, **options):
    """Parameters after updates with given gradients, from 1, by a solver of these options."""
    params = {"kernel": jnp.ones(2), "bias": jnp.ones(1)}
    optimizer = make_optimizer(Solver(num_steps=10, **options))
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(
            jax.tree.map(lambda p, g=gradient: jnp.full_like(p, g), params), state, params
        )
        params = optax.apply_updates(params, updates)
    return params


def test_solver_by_hand():
    params = updated([1.0, 2.0], learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    first = 1 - 0.1 * (1 + 0.5)
    second = first - 0.1 * (0.9 * (1 + 0.5) + 2 + 0.5 * first)
    np.testing.assert_allclose(params["kernel"], [second] * 2, rtol=1e-6)
    np.testing.assert_allclose(params["bias"], [second], rtol=1e-6)


def test_decay_of_kernels_alone():
    params = updated([0.0], learning_rate=0.1, momentum=0.0, weight_decay=0.5, decay="kernels")
    np.testing.assert_allclose(params["kernel"], [0.95] * 2)
    np.testing.assert_allclose(params["bias"], [1.0])


def test_accumulation_averages_gradients():
    one = updated([1.0, 3.0], learning_rate=0.1)
    two = updated([0.0, 2.0, 2.0, 4.0], learning_rate=0.1, accumulate=2)
    assert jax.tree.all(jax.tree.map(np.allclose, one, two))


def test_clipping_by_global_norm():
    params = updated([100.0], learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.3)
    np.testing.assert_allclose(1 - params["bias"], 0.3 / np.sqrt(3), rtol=1e-5)


def test_schedules():
    assert learning_rate(Solver(0.1, num_steps=10))(7) == 0.1
    poly = learning_rate(Solver(0.1, num_steps=10, schedule="poly", poly_power=0.9))
    np.testing.assert_allclose([poly(i) for i in (0, 5, 10)], [0.1, 0.1 * 0.5**0.9, 0], rtol=1e-6)


def theirs(make, count=10):
    """The learning rates of PyTorch's schedulers, before each of their steps."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        ("cosine", lambda kinds, optimizer: kinds.CosineAnnealingLR(optimizer, 10)),
        ("step", lambda kinds, optimizer: kinds.MultiStepLR(optimizer, [6, 8])),
        ("poly", lambda kinds, optimizer: kinds.PolynomialLR(optimizer, 10, 0.9)),
    ],
)
def test_schedules_are_pytorchs(schedule, make):
    ours = learning_rate(Solver(0.1, num_steps=10, schedule=schedule))
    np.testing.assert_allclose([ours(i) for i in range(10)], theirs(make), rtol=1e-5)


def test_one_cycle_is_pytorchs_but_for_the_step_of_its_peak():
    rates = theirs(lambda kinds, optimizer: kinds.OneCycleLR(optimizer, 0.1, 1000, cycle_momentum=False), 1000)
    ours = jax.vmap(learning_rate(Solver(0.1, num_steps=1000, schedule="one_cycle")))(jnp.arange(1000))
    np.testing.assert_allclose(ours, rates, atol=0.1 * 0.01)


def test_a_warm_up_multiplies_what_the_schedule_says():
    plain, warm = (learning_rate(Solver(0.1, 10, schedule="cosine", warmup_steps=steps)) for steps in (0, 4))
    factors = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    np.testing.assert_allclose([warm(i) for i in range(10)], [f * plain(i) for i, f in enumerate(factors)], rtol=1e-6)
    updates = learning_rate(Solver(0.1, 20, warmup_steps=8, accumulate=2))
    np.testing.assert_allclose([updates(i) for i in range(5)], [0.025, 0.05, 0.075, 0.1, 0.1], rtol=1e-6)


def test_adamw_is_pytorchs():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([parameter], lr=0.01, betas=(0.8, 0.99), weight_decay=0.3)
    gradients = [1.0, -3.0, 0.5]
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
    params = updated(gradients, name="adamw", learning_rate=0.01, betas=(0.8, 0.99), weight_decay=0.3)
    np.testing.assert_allclose(params["bias"], parameter.detach().numpy(), rtol=1e-5)


def test_lion_by_its_papers_algorithm():
    parameter, momentum = 1.0, 0.0
    for gradient in (gradients := [1.0, -3.0, 0.5]):
        direction = np.sign(0.9 * momentum + 0.1 * gradient)
        parameter -= 0.01 * (direction + 0.3 * parameter)
        momentum = 0.99 * momentum + 0.01 * gradient
    params = updated(gradients, name="lion", learning_rate=0.01, weight_decay=0.3)
    np.testing.assert_allclose(params["kernel"], [parameter] * 2, rtol=1e-5)


def test_the_rate_falls_from_stage_to_stage():
    params = {"gcn_res5": jnp.ones(1), "backbone": {name: jnp.ones(1) for name in ORDER}}
    options = {"momentum": 0.0, "weight_decay": 0.0, "backbone_rate": 0.5, "layer_decay": 0.8}
    optimizer = make_optimizer(Solver(1.0, 10, **options))
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["gcn_res5"], [-1])
    for name, place in ORDER.items():
        np.testing.assert_allclose(updates["backbone"][name], [-0.5 * 0.8 ** (6 - place)], rtol=1e-6)


def lower(config):
    """A state with random weights, and the lowered step."""
    recipe = settings.recipe(config)
    model = recipe.model
    state = init_state(randomize(init_variables(model, 0)), recipe)
    return state, jit_step(recipe).lower(state, random_batch(2))


def changed(new, old):
    """Names of the layers of which a leaf differs."""
    equal = {name: jax.tree.all(jax.tree.map(np.array_equal, new[name], old[name])) for name in old}
    return {name for name, is_equal in equal.items() if not is_equal}


@pytest.fixture
def config(config):
    """With few operations, so that steps compile fast."""
    config.model.update(head="conv1x1", boundary_refine=False)
    return config


@pytest.mark.parametrize(
    ("freeze", "norm"),
    [
        pytest.param("stem", "train", marks=pytest.mark.slow),
        ("res3", "frozen"),
        pytest.param("res5", "train", marks=pytest.mark.slow),
    ],
)
def test_what_is_fixed_stays_to_the_bit(config, freeze, norm):
    config.model.update(freeze=freeze, norm=norm)
    config.optimizer.ema_decay = 0.5
    state, lowered = lower(config)
    step = lowered.compile()
    new = step(step(state, random_batch(2))[0], random_batch(2))[0]
    trained = {name for name, place in ORDER.items() if place > FREEZE.index(freeze)}
    assert changed(new.params["backbone"], state.params["backbone"]) == trained
    assert changed(new.params, state.params) - {"backbone"} == state.params.keys() - {"backbone"}
    followed = {name for name in trained if name != "conv1"} if norm == "train" else set()
    assert changed(new.batch_stats["backbone"], state.batch_stats["backbone"]) == followed
    moments = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(new.opt_state) if leaf.ndim]
    assert len(moments) == len(jax.tree.leaves(split_fixed(new.params, freeze)[0])), "no momentum of what is fixed"


@pytest.mark.slow
def test_what_is_trained_gets_the_gradient_it_had(config):
    """Beside a fixed backbone the others' updates are those of a model that is trained as a whole."""
    config.optimizer.update(momentum=0.0, weight_decay=0.0, learning_rate=1.0)
    results = {}
    for freeze in ("", "res4"):
        config.model.freeze = freeze
        state, lowered = lower(config)
        results[freeze] = lowered.compile()(state, random_batch(2))[0].params
    whole, part = (split_fixed(results[freeze], "res4")[0] for freeze in ("", "res4"))
    before = split_fixed(state.params, "res4")[0]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (whole, before)), strict=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole, part)


@pytest.mark.slow
def test_what_is_fixed_costs_no_backward_pass(config):
    """A forward pass is a third of a step: without the backbone's backward pass little more is left of it."""
    config.model.width = 32
    flops = {}
    for freeze in ("", "res3", "res5"):
        config.model.freeze = freeze
        flops[freeze] = lower(config)[1].cost_analysis()["flops"]
    assert flops["res5"] < 0.55 * flops[""]
    assert flops["res5"] < flops["res3"] < flops[""]


@pytest.mark.slow
def test_the_backbones_rate_is_a_fraction_of_the_others(config):
    config.optimizer.learning_rate = 0.01
    steps = {}
    for fraction in (1.0, 0.25):
        config.optimizer.backbone_rate = fraction
        state, lowered = lower(config)
        new = lowered.compile()(state, random_batch(2))[0].params
        steps[fraction] = jax.tree.map(np.subtract, new, state.params)
    for name, step in steps[1.0].items():
        factor = 0.25 if name == "backbone" else 1.0
        jax.tree.map(
            lambda a, b, f=factor: np.testing.assert_allclose(b, f * a, rtol=1e-3, atol=1e-6), step, steps[0.25][name]
        )


def test_a_state_with_a_fixed_part_is_restored(config, tmp_path):
    config.model.freeze = "res4"
    recipe = settings.recipe(config)
    model = recipe.model
    state = init_state(randomize(init_variables(model, 0)), recipe)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, {})
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        restored, _ = checkpoints.restore(init_state(init_variables(model, 1), recipe))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, state))


def test_splitting_is_undone_by_joining(config):
    params = init_variables(config_lib.model_from(config), 0)["params"]
    for freeze in FREEZE:
        trained, fixed = split_fixed(params, freeze)
        assert {name for name in ORDER if name in fixed} == {n for n, i in ORDER.items() if i <= FREEZE.index(freeze)}
        assert jax.tree.structure(join_fixed(trained, fixed)) == jax.tree.structure(params)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_wrong_rate_is_named(config, rate):
    config.optimizer.backbone_rate = rate
    with pytest.raises(UserError, match=r"config\.optimizer\.backbone_rate must be positive; to fix the backbone set"):
        config_lib.validate(config)
