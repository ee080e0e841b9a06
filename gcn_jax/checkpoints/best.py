"""``best.json``: the step of a run that had the best score so far, and on what that was measured."""

import json
import pathlib
from typing import NamedTuple

from gcn_jax.console import say
from gcn_jax.errors import UserError
from gcn_jax.files import RunFile, write_json

LOSS = "loss"  # the one score of which less is better


class Best(NamedTuple):
    """The best step of a run. What an earlier version wrote has no digest, and is of the mean IoU.

    Attributes:
      step: of the checkpoint.
      miou: its mean IoU, 0-1.
      images: a digest that tells which images were labelled, and how; "", of an earlier version, counts as any.
      score: by which it is the best, as in ``config.eval.best_by``.
      value: of that score.
    """

    step: int
    miou: float
    images: str
    score: str
    value: float

    def is_comparable(self, other: "Best") -> bool:
        """Whether another step has a value of the same score, measured on the same images in the same way."""
        return self.score == other.score and self.images in ("", other.images)

    def is_better(self, other: "Best") -> bool:
        """Whether the value is better than that of another step, which is comparable."""
        return self.value < other.value if self.score == LOSS else self.value > other.value


def read_best(workdir: pathlib.Path) -> Best | None:
    """The best step of a run; None if the run was not evaluated.

    Raises:
      UserError: if ``best.json`` is damaged.
    """
    path = workdir / RunFile.BEST
    try:
        best = json.loads(path.read_text(encoding="utf-8"))
        miou = float(best["miou"])
        score, value = str(best.get("score", "miou")), float(best.get("value", miou))
        return Best(int(best["step"]), miou, str(best.get("images", "")), score, value)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); without it the newest checkpoint counts as the best") from error


def note(workdir: pathlib.Path, new: Best) -> None:
    """Writes a step to ``best.json``, unless one that it can be compared with is as good."""
    best = read_best(workdir)
    if best and not best.is_comparable(new):
        other = "by another score" if best.score != new.score else "on other images or by other values of config.eval"
        say(f"{workdir / RunFile.BEST}: step {best.step} was evaluated {other}: not compared")
        best = None
    if best is None or new.is_better(best):
        best = new
    write_json(workdir / RunFile.BEST, best._replace(images=new.images)._asdict())
