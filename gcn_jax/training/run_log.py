"""The logs of a run: progress lines, ``metrics.jsonl``, TensorBoard's files, and pictures."""

import datetime
import json
import pathlib
import time
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from gcn_jax.console import say
from gcn_jax.data.pictures import save_picture, stack
from gcn_jax.files import RunFile, write_text, written_whole
from gcn_jax.training.loggers import Loggers


class RunLog:
    """The logs in a workdir. A resumed run continues them; what was logged after the step it resumes at is dropped.

    When a method returns, everything is on disk; otherwise it raises an `OSError`. This is why TensorBoard's events are
    written here: tensorboardX writes them in a thread, which a full disk ends, and then waits for that thread for ever.

    Args:
      workdir: for ``metrics.jsonl``, ``pictures/`` and TensorBoard's event files.
      start_step: the step at which the run starts or resumes.
      is_written: whether this process writes the logs. If not, all methods do nothing, and the log is empty.
      loggers: ``config.loggers``; see `gcn_jax.training.loggers`.
      config: of the run, for these.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        start_step: int,
        is_written: bool = True,
        loggers: str = "",
        config: dict[str, Any] | None = None,
    ):
        self._workdir, self._is_written = workdir, is_written
        self._records: list[dict[str, float]] = []
        if not is_written:
            return
        self._loggers = Loggers(loggers, workdir, config or {})
        path = workdir / RunFile.METRICS
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= start_step]
        write_text(path, "".join(kept))
        self._records = [json.loads(line) for line in kept]
        self._file = path.open("a", encoding="utf-8")
        self._board = EventsWriter(str(workdir / RunFile.EVENTS))
        if start_step:  # tells TensorBoard to drop what earlier files have from here on
            self._board.write_event(Event(step=start_step + 1, session_log=SessionLog(status=SessionLog.START)))
        self._board.flush()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes values, by their names, as one line of ``metrics.jsonl`` and to TensorBoard."""
        if not self._is_written:
            return
        record = {"step": step, **values}
        self._records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._show(step, *(summary.scalar(name, value) for name, value in values.items()))
        self._loggers.scalars(step, values)

    def _show(self, step: int, *summaries: summary.Summary) -> None:
        for shown in summaries:
            self._board.write_event(Event(wall_time=time.time(), step=step, summary=shown))
        self._board.flush()

    def steps(self, name: str) -> list[int]:
        """The steps for which a value of this name was logged."""
        return [int(record["step"]) for record in self._records if name in record]

    def pictures(self, step: int, pictures: list[np.ndarray]) -> None:
        """Writes uint8 [H, W, 3] pictures, one below the other, to ``pictures/step_<step>.png`` and TensorBoard."""
        if pictures and self._is_written:
            folder = self._workdir / RunFile.PICTURES
            folder.mkdir(exist_ok=True)
            with written_whole(folder / f"step_{step:08d}.png") as path:
                save_picture(stack(pictures), path, format="PNG")
            named = {f"image_truth_prediction/{i}": picture for i, picture in enumerate(pictures)}
            self._show(step, *(summary.image(name, picture, dataformats="HWC") for name, picture in named.items()))
            self._loggers.pictures(step, named)

    def close(self) -> None:
        """Closes the files; nothing can be logged after that."""
        if not self._is_written:
            return
        self._file.close()
        self._board.close()
        self._loggers.close()


def read_records(workdir: pathlib.Path) -> list[dict[str, float]]:
    """Reads what a run logged: the objects in its ``metrics.jsonl``, none if there is no such file."""
    return [json.loads(line) for line in _complete_lines(workdir / RunFile.METRICS)]


def _complete_lines(path: pathlib.Path) -> list[str]:
    """The complete records in a file, as lines; a killed process or a full disk may have left an incomplete one."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines(keepends=True) if _is_record(line)]


def _is_record(line: str) -> bool:
    try:
        return line.endswith("\n") and "step" in json.loads(line)
    except (ValueError, TypeError):
        return False


class Progress:
    """Measures the speed of a training between two reports, and estimates the remaining time from it.

    Args:
      step: at which the training starts or resumes.
      num_steps: number of steps of the training.
      batch_size: number of images in a batch.
    """

    def __init__(self, step: int, num_steps: int, batch_size: int):
        self._step, self._num_steps, self._batch_size = step, num_steps, batch_size
        self._time = time.monotonic()

    def report(self, step: int, values: dict[str, float]) -> dict[str, float]:
        """Prints a progress line with some values, by their names.

        Returns:
          The values and, if there was a step since the last report, ``images_per_second``.
        """
        line = f"step {step}/{self._num_steps}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if step > self._step:
            seconds_per_step = self.seconds() / (step - self._step)
            values = {**values, "images_per_second": self._batch_size / seconds_per_step}
            left = datetime.timedelta(seconds=round((self._num_steps - step) * seconds_per_step))
            line += f"  {values['images_per_second']:.3g} images/s  ETA {left}"
        say(line)
        self.skip_to(step)
        return values

    def seconds(self) -> float:
        """The seconds since the last report or call of `skip_to`."""
        return time.monotonic() - self._time

    def skip_to(self, step: int) -> None:
        """Starts to measure again at a step, so that what was done before it, such as an evaluation, does not count."""
        self._step, self._time = step, time.monotonic()
