"""Files of a run."""

import pathlib
import tempfile

from gcn_jax.errors import UserError


def output_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Where what a mode says of a model goes: into its workdir, or beside its file."""
    return workdir.with_name(f"{workdir.stem}.{name}") if workdir.is_file() else workdir / name


def _write(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def make_workdir(workdir: pathlib.Path) -> None:
    """Makes the folder, unless it is there; raises `UserError` if it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written ({error.strerror})") from error
