"""``best.json``: the step of a run that had the best mean IoU so far, and on what that was measured."""

import json
import pathlib
from typing import NamedTuple

from gcn_jax.console import say
from gcn_jax.errors import UserError
from gcn_jax.files import RunFile, write_json


class Best(NamedTuple):
    """The best step of a run.

    Attributes:
      step: of the checkpoint.
      miou: its mean IoU, 0-1.
      images: a digest that tells which images were labelled, and how; "" if an earlier version wrote the file, which
        counts as the same as now.
    """

    step: int
    miou: float
    images: str = ""


def read_best(workdir: pathlib.Path) -> Best | None:
    """The best step of a run; None if the run was not evaluated.

    Raises:
      UserError: if ``best.json`` is damaged.
    """
    path = workdir / RunFile.BEST
    try:
        best = json.loads(path.read_text(encoding="utf-8"))
        return Best(int(best["step"]), float(best["miou"]), str(best.get("images", "")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); without it the newest checkpoint counts as the best") from error


def note(workdir: pathlib.Path, new: Best) -> None:
    """Writes a step to ``best.json``, unless one that was measured on the same images in the same way is as good."""
    best = read_best(workdir)
    if best and best.images not in ("", new.images):
        path = workdir / RunFile.BEST
        say(f"{path}: step {best.step} was evaluated on other images or by other values of config.eval: not compared")
        best = None
    if best is None or new.miou > best.miou:
        best = new
    write_json(workdir / RunFile.BEST, best._replace(images=new.images)._asdict())
