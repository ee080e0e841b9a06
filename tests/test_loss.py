"""The loss against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_jax.training.loss import cross_entropy


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
