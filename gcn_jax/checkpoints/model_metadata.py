"""Recognises the files that ``--mode=export`` writes, and reads the config in them; `model_file` describes the rest."""

import pathlib

from gcn_jax.checkpoints.tensor_files import open_tensors
from gcn_jax.errors import UserError

FORMAT = "gcn_jax 1"


def is_model_file(path: pathlib.Path) -> bool:
    """Whether ``--mode=export`` wrote the file; False if it cannot be read."""
    try:
        return _format(_metadata(path)).startswith("gcn_jax ")
    except ValueError:
        return False


def config_text(path: pathlib.Path) -> str:
    """The config in an exported file, as JSON; raises `UserError` for other files and for other versions."""
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
    if path.suffix.lower() != ".safetensors":  # other kinds of file hold no metadata
        return {}
    with open_tensors(path) as file:
        return file.metadata


def _format(metadata: dict[str, str]) -> str:
    return metadata.get("format", "none")
