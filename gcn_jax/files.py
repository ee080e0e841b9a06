"""Files of a run: what each is called, and how one is written so that no half of it is ever seen."""

import contextlib
import enum
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from gcn_jax.errors import UserError

HUB = "hf://"  # how the address of a model on the Hugging Face Hub begins
_PROBE = 2**18  # bytes that a folder must take, as much as a small result


class RunFile(enum.StrEnum):
    """What a workdir holds; `docs/training.md` has the same table for people."""

    CHECKPOINTS = "checkpoints"  # a folder a step: parameters, statistics, optimizer, step, data position
    CONFIG = "config.json"  # what was run, by which the checkpoints are understood
    IMAGES = "images.json"  # the ids of the images that were trained on, and of those that are evaluated on
    BEST = "best.json"  # the best step so far, its scores, and a digest of the images
    METRICS = "metrics.jsonl"  # a JSON object a logged step: loss, rate, speed, the scores of evaluations
    PICTURES = "pictures"  # a folder: image, truth and prediction at each evaluation
    LOGGERS = "loggers.json"  # the run's ids in the loggers of config.loggers
    EVENTS = "events"  # what the names of TensorBoard's files begin with
    PROFILE = "profile"  # a folder: of --profile_steps, for TensorBoard
    EVALUATION = "eval.json"  # the last --mode=eval, and
    REPORT = "report.html"  # its page
    TEMPERATURE = "temperature.json"  # the last --mode=calibrate: by what scores are divided, and for which step
    CRF_SEARCH = "crf_search.json"  # the last --mode=crf_search
    FIELD_PICTURE = "receptive_field.png"  # the last --mode=receptive_field
    FIELD_NUMBERS = "receptive_field.json"
    PLAN = "plan.json"  # the last --mode=plan
    CONTACT_SHEET = "contact_sheet.png"  # the last --mode=prepare


def output_path(source: pathlib.Path, name: RunFile) -> pathlib.Path:
    """Where what a mode says of a model goes: into its workdir, or beside its file, as ``model.eval.json``."""
    return source.with_name(f"{source.stem}.{name}") if source.is_file() else source / name


def check_is_local(setting: str, path: str) -> None:
    """Raises `UserError` if a flag or config key names an address, such as "gs://bucket/run", where a path has to be.

    `pathlib` would take it for a folder named "gs:".
    """
    if path.startswith(HUB):
        raise UserError(
            f"{setting}={path}: of the Hub a model is taken by predict and export, in --workdir, and to start from, in "
            "--config.init_from; export writes one; for others download the file (hf download), and name it"
        )
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        raise UserError(
            f"{setting}={path}: an address; name a local folder or file: copy from and to a bucket (gcloud storage "
            "rsync, aws s3 sync), or mount it where it is only read"
        )


def make_workdir(workdir: pathlib.Path) -> None:
    """Makes the folder of a run, or finds that of a model's file; raises `UserError` if it cannot be written."""
    if workdir.is_file():
        make_folder(f"--workdir={workdir}: {workdir.absolute().parent}", workdir.parent)
    else:
        make_folder(f"--workdir={workdir}", workdir)


def make_folder(setting: str, folder: pathlib.Path) -> None:
    """Makes a folder that results go to, unless it is there, and tries whether it takes some.

    Args:
      setting: the flag and its value, for the message.
      folder: to make.

    Raises:
      UserError: if it cannot be written, as on a full disk.
    """
    check_is_utf_8(setting, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(os.urandom(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{setting}: cannot be written ({error.strerror})") from error


def check_is_utf_8(setting: str, folder: pathlib.Path) -> None:
    """Raises `UserError` unless a folder's name and those above it are UTF-8, as JAX and Orbax need them."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{setting}: cannot be written (its name is not UTF-8); choose another") from error


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to, of this process alone, which becomes `path` if the block succeeds.

    Whatever fails or is killed on the way, `path` is as it was before, or whole. An `OSError` names it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)):  # a write names no file
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # of a name that is not UTF-8


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes a file, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_bytes(data)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as JSON, for people to read, too; whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")
