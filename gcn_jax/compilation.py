"""How XLA compiles: with which options, and where it keeps the programs."""

import pathlib

import jax
import ml_collections
from jax.sharding import Mesh

from gcn_jax.errors import UserError


def enable_cache(config: ml_collections.ConfigDict) -> None:
    """Keeps compiled programs in ``config.cache_dir/xla``, so that a second start does not compile again.

    Raises:
      UserError: if the folder cannot be written.
    """
    folder = pathlib.Path(config.cache_dir).expanduser() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"config.cache_dir={config.cache_dir}: cannot be written ({error.strerror})") from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def options(mesh: Mesh | None = None) -> dict[str, str]:
    """What to give `jax.jit` as ``compiler_options``, for a mesh's devices or the default ones.

    On a CPU: no operations of the YNNPACK library. With them a training step takes a tenth longer, the 21-channel
    convolutions three times as long (jax 0.10.2; docs/performance.md).
    """
    platform = mesh.devices.flat[0].platform if mesh else jax.default_backend()
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if platform == "cpu" else {}
