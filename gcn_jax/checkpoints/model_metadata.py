"""What tells a file of ``--mode=export`` from others, and the config in it; `gcn_jax.export` describes the whole."""

import pathlib

from gcn_jax.checkpoints.tensor_files import open_tensors
from gcn_jax.errors import UserError

FORMAT = "gcn_jax 1"


def is_model_file(path: pathlib.Path) -> bool:
    """Whether it is a file that an export wrote; False if it cannot be read."""
    try:
        return _format(_metadata(path)).startswith("gcn_jax ")
    except ValueError:
        return False


def config_text(path: pathlib.Path) -> str:
    """The config that a file holds, as JSON; raises `UserError` if it is none of an export, or of another version."""
    try:
        metadata = _metadata(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    if _format(metadata) != FORMAT:
        raise UserError(
            f"{path}: not a model that --mode=export wrote (its format is {ascii(_format(metadata))[:80]}, not "
            f"{FORMAT!r}); a file of a backbone's weights goes to --config.init_from"
        )
    return metadata.get("config", "")


def _metadata(path: pathlib.Path) -> dict[str, str]:
    if path.suffix.lower() != ".safetensors":  # no other holds any
        return {}
    with open_tensors(path) as file:
        return file.metadata


def _format(metadata: dict[str, str]) -> str:
    return metadata.get("format", "none")
