"""How to tell XLA what to compute for which platform, what once, and what anew."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Traces a function once for all calls with the same shapes, not for each of 50 blocks; the program is the same.
traced_once = functools.partial(jax.jit, inline=True)

# Of the devices for which a program is traced: "cpu", "gpu", "tpu"; None: of any, each form is traced for its own.
platform = jax.make_user_context(None)


def by_platform(*args: jax.Array, default: Callable[..., Any], **forms: Callable[..., Any]) -> Any:
    """`jax.lax.platform_dependent`, but for a known `platform` its form alone: half of the time to trace a step."""
    if platform.value is None:
        return jax.lax.platform_dependent(*args, default=default, **forms)
    return forms.get(platform.value, default)(*args)


def on_one_cpu(ours: Callable[..., Any], plain: Callable[..., Any], *args: jax.Array) -> Any:
    """Calls `ours` where one CPU device computes, else `plain`: same values, another way to compute them.

    On several devices XLA splits a plain convolution well, and many small products badly: they take minutes to compile.
    """
    if jax.typeof(args[0]).sharding.mesh.size > 1:
        return plain(*args)
    return by_platform(*args, cpu=ours, default=plain)


def once(x: jax.Array) -> jax.Array:
    """The identity, which makes XLA compute x once, and keep it: [...] -> the same. Not to be differentiated.

    Else XLA (jax 0.10) takes additions, ReLUs and transpositions for so cheap that it computes them anew for each of
    their uses: every residual block would start over from the first of its stage. A division it computes once, and it
    cannot know that this one is by 1, since 0 times a number is not 0 if that is not finite.
    """
    return on_one_cpu(lambda x: x / (1 + 0 * x), lambda x: x, x)


def after(x: jax.Array, other: jax.Array) -> jax.Array:
    """The identity of x, which XLA can compute only after another array. It is not finite if that is not.

    What the backward pass computes from it is then computed anew, and nothing of the forward pass is kept for it: XLA
    finds equal expressions, and on a CPU it heeds no optimization barrier (jax 0.10).
    """

    def with_zero(x, other):
        return x + (0 * other[(0,) * other.ndim]).astype(x.dtype)

    return on_one_cpu(with_zero, lambda x, _: x, x, other)


@jax.custom_vjp
@traced_once
def relu_once(x: jax.Array) -> jax.Array:
    """ReLU: [...] -> the same. It and its gradient are computed once; the gradient takes only the result.

    On a TPU, too, XLA would add up the residuals of several blocks anew; there it heeds the barrier.
    """
    return by_platform(nn.relu(x), tpu=jax.lax.optimization_barrier, default=once)


def _relu_once_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu_once(x)
    return y, y


@traced_once
def _relu_once_backward(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (once(jnp.where(y > 0, dy, 0)),)


relu_once.defvjp(_relu_once_forward, _relu_once_backward)
