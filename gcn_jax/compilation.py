"""XLA's persistent compilation cache: the second start of a configuration does not compile again."""

import pathlib

import jax
import ml_collections

from gcn_jax.errors import UserError


def enable_cache(config: ml_collections.ConfigDict) -> None:
    """Keeps compiled programs in ``config.cache_dir/xla``; raises `UserError` if it cannot be written."""
    folder = pathlib.Path(config.cache_dir).expanduser() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"config.cache_dir={config.cache_dir}: cannot be written ({error.strerror})") from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
