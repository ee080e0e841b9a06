"""Losses and the solver against NumPy, closed forms and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcn_jax.training.loss import cross_entropy
from gcn_jax.training.optimizer import Solver, learning_rate, make_optimizer


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_pytorchs(reduction):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    label = np.random.default_rng(0).choice(np.array([0, 1, 2, 3, 255], np.uint8), (3, 20, 30))
    logits = 5 * np.random.default_rng(1).standard_normal((3, 20, 30, 4)).astype(np.float32)
    loss, gradient = jax.value_and_grad(cross_entropy)(jnp.asarray(logits), jnp.asarray(label), reduction)
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        theirs.permute(0, 3, 1, 2), torch.from_numpy(label).long(), ignore_index=255, reduction=reduction
    )
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-6 if reduction == "sum" else 1e-8)


def test_a_batch_of_void_has_no_loss_and_no_gradient():
    label = jnp.full((1, 4, 4), 255, jnp.uint8)
    loss, gradient = jax.value_and_grad(cross_entropy)(jnp.ones((1, 4, 4, 3)), label)
    assert loss == 0
    assert not gradient.any()


def run(gradients, **options):
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
    params = run([1.0, 2.0], learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    first = 1 - 0.1 * (1 + 0.5)
    second = first - 0.1 * (0.9 * (1 + 0.5) + 2 + 0.5 * first)
    np.testing.assert_allclose(params["kernel"], [second] * 2, rtol=1e-6)
    np.testing.assert_allclose(params["bias"], [second], rtol=1e-6)


def test_decay_of_kernels_alone():
    params = run([0.0], learning_rate=0.1, momentum=0.0, weight_decay=0.5, decay="kernels")
    np.testing.assert_allclose(params["kernel"], [0.95] * 2)
    np.testing.assert_allclose(params["bias"], [1.0])


def test_accumulation_averages_gradients():
    one = run([1.0, 3.0], learning_rate=0.1)
    two = run([0.0, 2.0, 2.0, 4.0], learning_rate=0.1, accumulate=2)
    assert jax.tree.all(jax.tree.map(np.allclose, one, two))


def test_clipping_by_global_norm():
    params = run([100.0], learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.3)
    np.testing.assert_allclose(1 - params["bias"], 0.3 / np.sqrt(3), rtol=1e-5)


def test_schedules():
    assert learning_rate(Solver(0.1, num_steps=10))(7) == 0.1
    poly = learning_rate(Solver(0.1, num_steps=10, schedule="poly", poly_power=0.9))
    np.testing.assert_allclose([poly(i) for i in (0, 5, 10)], [0.1, 0.1 * 0.5**0.9, 0], rtol=1e-6)
