"""Files of a run: what each is called, and how one is written so that no half of it is ever seen."""

import contextlib
import enum
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from gcn_jax.errors import UserError


class RunFile(enum.StrEnum):
    """What a workdir holds; `docs/training.md` has the same table for people."""

    CHECKPOINTS = "checkpoints"  # a folder a step: parameters, statistics, optimizer, step, data position
    CONFIG = "config.json"  # what was run, by which the checkpoints are understood
    IMAGES = "images.json"  # the ids of the images that were trained on, and of those that are evaluated on
    BEST = "best.json"  # the best step so far, its mean IoU, and a digest of the images
    METRICS = "metrics.jsonl"  # a JSON object a logged step: loss, rate, speed, the scores of evaluations
    PICTURES = "pictures"  # a folder: image, truth and prediction at each evaluation
    EVENTS = "events"  # what the names of TensorBoard's files begin with
    PROFILE = "profile"  # a folder: of --profile_steps, for TensorBoard
    EVALUATION = "eval.json"  # the last --mode=eval, and
    REPORT = "report.html"  # its page
    CRF_SEARCH = "crf_search.json"  # the last --mode=crf_search
    FIELD_PICTURE = "receptive_field.png"  # the last --mode=receptive_field
    FIELD_NUMBERS = "receptive_field.json"
    PLAN = "plan.json"  # the last --mode=plan
    CONTACT_SHEET = "contact_sheet.png"  # the last --mode=prepare


def output_path(source: pathlib.Path, name: RunFile) -> pathlib.Path:
    """Where what a mode says of a model goes: into its workdir, or beside its file, as ``model.eval.json``."""
    return source.with_name(f"{source.stem}.{name}") if source.is_file() else source / name


def make_workdir(workdir: pathlib.Path) -> None:
    """Makes the folder, unless it is there; raises `UserError` if it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written ({error.strerror})") from error


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to, of this process alone, which becomes `path` if the block succeeds.

    Whatever fails or is killed on the way, `path` is as it was before, or whole.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes a file, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_bytes(data)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as JSON, for people to read, too; whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")
