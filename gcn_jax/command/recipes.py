"""What ``--config`` names: a recipe of ours by its name, or a file."""

import pathlib

from gcn_jax.errors import UserError, did_you_mean

_PACKAGE = pathlib.Path(__file__).parents[1]
# An installed package has them inside it, see pyproject.toml; a checkout beside it.
_FOLDER = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """The names of our recipes."""
    return sorted(path.stem for path in _FOLDER.glob("*.py"))


def find(given: str) -> str:
    """The file of what ``--config`` names, and the stage if there is one: "voc:stage2" -> ".../configs/voc.py:stage2".

    A file stays as it is; one that is not there is for the caller to tell.

    Raises:
      UserError: if it has the form of a name, and there is no such recipe.
    """
    name, colon, stage = given.partition(":")
    path = pathlib.Path(name)
    if path.suffix or len(path.parts) != 1 or path.is_file():
        return given
    if name not in names():
        raise UserError(
            f"--config={given}: no recipe; known: {', '.join(names())}, or a file{did_you_mean(name, names())}"
        )
    return f"{_FOLDER / name}.py{colon}{stage}"
