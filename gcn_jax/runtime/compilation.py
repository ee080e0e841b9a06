"""How XLA compiles: for which devices, with which options, and where it keeps the programs."""

import ctypes
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding
from jax.typing import DTypeLike

from gcn_jax.console import say
from gcn_jax.errors import UserError
from gcn_jax.files import check_is_utf_8
from gcn_jax.models.ops import xla

_COMPILED = "/jax/core/compile/backend_compile_duration"  # an event of `jax.monitoring`, also where the cache has it

# Compiler options, and what is lost where XLA does not know them.
_CPU_LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
_REPEATABLE = "xla_gpu_exclude_nondeterministic_ops"
_LOST = {
    _CPU_LIBRARY: "convolutions may be several times as slow",
    _REPEATABLE: "two runs, or a run and its resumption, may no longer be equal bit by bit",
}


def enable_cache(cache_dir: str) -> None:
    """Keeps compiled programs in ``cache_dir/xla``, so that a second start does not compile again.

    Raises:
      UserError: if the folder cannot be written.
    """
    folder = pathlib.Path(cache_dir).expanduser() / "xla"
    check_is_utf_8(f"config.cache_dir={cache_dir}", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"config.cache_dir={cache_dir}: cannot be written ({error.strerror})") from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def platform_jit(
    function: Callable[..., Any], dtype: DTypeLike, mesh: Mesh | None = None, repeatable: bool = False, **kwargs: Any
) -> Any:
    """`jax.jit` for the kind of device of a mesh alone, with the `options` for it.

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

    On a CPU: in float32 nothing of the YNNPACK library, in bfloat16 only its matrix products, which are fast. In
    float32 a forward pass with these takes a tenth longer, and with all of the library the convolutions of 21 channels
    take three times as long (jax 0.10.2; docs/performance.md).

    An option that XLA does not know, as another version may not, is left out, and a line on stderr says so once.

    Args:
      dtype: of the computation.
      mesh: of devices; None: the default ones.
      repeatable: whether a GPU, too, has to give the same bits at each call. XLA's convolutions, products and scatters
        otherwise may not; with this it sorts before it scatters, the gradient of its pooling, too, which is slow.
    """
    platform = platform_of(mesh)
    wanted: dict[str, str | bool] = {}
    if platform == "gpu" and repeatable:
        wanted = {_REPEATABLE: True}
    elif platform == "cpu":
        wanted = {_CPU_LIBRARY: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT" if jnp.dtype(dtype) == jnp.bfloat16 else ""}
    devices = list(mesh.devices.flat) if mesh else jax.local_devices()
    device = next((device for device in devices if device.process_index == jax.process_index()), devices[0])
    return {name: value for name, value in wanted.items() if _is_known(name, value, device)}


@functools.cache
def _is_known(name: str, value: str | bool, device: jax.Device) -> bool:
    """Whether XLA takes an option for a device; says so if not. Asked by compiling the smallest program with it."""
    x = jax.ShapeDtypeStruct((), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(jnp.negative, compiler_options={name: value}).lower(x).compile()
    except jax.errors.JaxRuntimeError as error:
        if name not in str(error):
            raise
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        say(f"jax {jax.__version__}: {reason}; it is left out: {_LOST.get(name, 'it is not needed')}")
        return False
    return True


def return_memory() -> None:
    """Gives the memory that XLA's compiler used back to the system after each compilation (on Linux).

    It is up to a gigabyte. The C library would keep it for the process, which has no use for it: XLA takes a program's
    memory from the system directly.
    """
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another system, another C library
        return

    def heed(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED and duration_secs > 1:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(heed)
