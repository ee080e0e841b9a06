"""How XLA compiles: for which devices, with which options, and where it keeps the programs."""

import ctypes
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from gcn_jax.errors import UserError
from gcn_jax.models.ops import xla

_COMPILED = "/jax/core/compile/backend_compile_duration"  # an event of `jax.monitoring`, also where the cache has it


def enable_cache(cache_dir: str) -> None:
    """Keeps compiled programs in ``cache_dir/xla``, so that a second start does not compile again.

    Raises:
      UserError: if the folder cannot be written.
    """
    folder = pathlib.Path(cache_dir).expanduser() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"config.cache_dir={cache_dir}: cannot be written ({error.strerror})") from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def platform_jit(
    function: Callable[..., Any], dtype: DTypeLike, mesh: Mesh | None = None, repeatable: bool = False, **kwargs: Any
) -> Any:
    """`jax.jit` for the devices of a mesh alone, with their `options`.

    Args:
      function: to be jitted.
      dtype: of the computation.
      mesh: of devices; None: the default ones.
      repeatable: see `options`.
      **kwargs: of `jax.jit`.
    """

    @functools.wraps(function)
    def for_these_devices(*args: Any, **kwargs: Any) -> Any:
        with xla.platform(platform_of(mesh)):
            return function(*args, **kwargs)

    return jax.jit(for_these_devices, compiler_options=options(dtype, mesh, repeatable), **kwargs)


def platform_of(mesh: Mesh | None) -> str:
    """What a mesh's devices are, or those by default if it is None: "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform if mesh else jax.default_backend()


def options(dtype: DTypeLike, mesh: Mesh | None = None, repeatable: bool = False) -> dict[str, str | bool]:
    """What to give `jax.jit` as ``compiler_options``, for a mesh's devices or the default ones.

    On a CPU: of the YNNPACK library nothing in float32, in bfloat16 the matrix products alone, which are its fast ones.
    With its products a forward pass in float32 takes a tenth longer, with all it has the 21-channel convolutions three
    times as long (jax 0.10.2; docs/performance.md).

    Args:
      dtype: of the computation.
      mesh: of devices; None: the default ones.
      repeatable: whether a GPU, too, has to give the same bits at each call. XLA's convolutions, products and scatters
        otherwise may not; with this it refuses a `select-and-scatter`, and floats are scattered slowly.
    """
    platform = platform_of(mesh)
    if platform == "gpu" and repeatable:
        return {"xla_gpu_exclude_nondeterministic_ops": True}
    of_ynnpack = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT" if jnp.dtype(dtype) == jnp.bfloat16 else ""
    return {"xla_cpu_experimental_ynn_fusion_type": of_ynnpack} if platform == "cpu" else {}


def return_memory() -> None:
    """Gives the memory that XLA's compiler used back to the system after each compilation (on Linux).

    It is up to a gigabyte, which the C library else keeps for the process: for nothing, as XLA takes a program's own
    from the system anew.
    """
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another system, another C library
        return

    def heed(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED and duration_secs > 1:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(heed)
