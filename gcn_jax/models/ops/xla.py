"""How to tell XLA what to compute for which platform, what only once, and what again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

CONVOLUTIONS = ("fast", "plain")

# Traces a function once for all calls with the same shapes, not for each of 50 blocks; the program is the same.
traced_once = partial(jax.jit, inline=True)

# The kind of device that a program is traced for: "cpu", "gpu" or "tpu"; None: any, the program holds all forms.
platform = jax.make_user_context(None)

# "fast": each kind of device gets its own forms; "plain": every device gets XLA's own convolutions, which JAX itself
# differentiates. Both contexts are part of the key of JAX's caches, so no trace of another setting is used.
convolutions = jax.make_user_context("fast")


def is_plain() -> bool:
    """Whether `convolutions` asks for XLA's own.

    An operation with a gradient of its own has to ask before it is called: its gradient is traced later, when the
    context may be another.
    """
    return convolutions.value == "plain"


def is_on_mesh(x: jax.Array) -> bool:
    """Whether an array is spread over several devices."""
    return jax.typeof(x).sharding.mesh.size > 1


def select(
    *args: Any,
    one_cpu: Callable[..., Any],
    elsewhere: Callable[..., Any],
    tpu: Callable[..., Any] | None = None,
    gpu: Callable[..., Any] | None = None,
    **options: Any,
) -> Any:
    """Calls the form for the devices at hand: all compute the same values, each in another way.

    Over several CPU devices XLA splits a plain convolution well, but many small products badly: they take minutes to
    compile. So these get what is for elsewhere.

    Args:
      *args: of the form, arrays or trees of them; the first is an array, which tells of a mesh.
      one_cpu: for a single CPU device.
      elsewhere: for a GPU, several CPU devices, or whatever has no form of its own; for all if `is_plain`.
      tpu: for one or several TPUs; None: `elsewhere`.
      **options: of the form, not arrays.
    """
    forms = {"cpu": elsewhere if is_on_mesh(args[0]) else one_cpu, "tpu": tpu or elsewhere, "cuda": gpu or elsewhere}
    forms = {name: form for name, form in forms.items() if form is not elsewhere}
    if is_plain() or not forms:
        return elsewhere(*args, **options)
    if platform.value is None:  # the form is chosen when the program is lowered; tracing a step takes twice the time
        forms = {name: partial(form, **options) for name, form in forms.items()}
        return jax.lax.platform_dependent(*args, default=partial(elsewhere, **options), **forms)
    return forms.get({"gpu": "cuda"}.get(platform.value, platform.value), elsewhere)(*args, **options)


def _identity(x: jax.Array, *_: jax.Array) -> jax.Array:
    return x


def _divided_by_one(x: jax.Array) -> jax.Array:
    return x / (1 + 0 * x)


def once(x: jax.Array) -> jax.Array:
    """The identity, which makes XLA compute x once, and keep it: [...] -> the same. Not to be differentiated.

    Without it XLA (jax 0.10) takes additions, ReLUs and transpositions for so cheap that it computes them again for
    each of their uses: every residual block would start over from the first of its stage. A division it computes once,
    and it cannot know that this one is by 1, since 0 times a number is not 0 if that number is not finite.
    """
    return select(x, one_cpu=_divided_by_one, elsewhere=_identity)


def after(x: jax.Array, other: jax.Array) -> jax.Array:
    """The identity of x, which XLA can compute only after another array. It is not finite if the other is not.

    What the backward pass computes from it is computed again, and nothing of the forward pass is kept for it: XLA
    would otherwise find that the two expressions are equal, and on a CPU it ignores optimization barriers (jax 0.10).
    """

    def with_zero(x, other):
        return x + (0 * other[(0,) * other.ndim]).astype(x.dtype)

    return select(x, other, one_cpu=with_zero, elsewhere=_identity)


def apart(x: jax.Array) -> jax.Array:
    """The identity, which keeps what made x out of the products that take it, over several GPUs.

    There XLA (jax 0.10.2) ends with SIGABRT while it fuses a product with a strided slice that has one row on a device.
    """
    return jax.lax.optimization_barrier(x) if platform.value == "gpu" and is_on_mesh(x) else x


def relu_once(x: jax.Array) -> jax.Array:
    """ReLU: [...] -> the same. It and its gradient are computed once; the gradient takes only the result.

    On a TPU, too, XLA would add up the residuals of several blocks again; there an optimization barrier prevents it.
    """
    return nn.relu(x) if is_plain() else _relu_once(x)


@jax.custom_vjp
@traced_once
def _relu_once(x: jax.Array) -> jax.Array:
    barrier = jax.lax.optimization_barrier
    return select(nn.relu(x), one_cpu=_divided_by_one, tpu=barrier, gpu=barrier, elsewhere=_identity)


def _relu_once_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = _relu_once(x)
    return y, y


@traced_once
def _relu_once_backward(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (once(jnp.where(y > 0, dy, 0)),)


_relu_once.defvjp(_relu_once_forward, _relu_once_backward)
