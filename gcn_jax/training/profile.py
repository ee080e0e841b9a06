"""Records a profile of a few training steps, for TensorBoard's profiler."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax

from gcn_jax.console import say


class Profile(contextlib.AbstractContextManager):
    """A context manager that records a few steps, from the second of the run on, since the first one compiles.

    Args:
      folder: that the profile is written to.
      start: the step at which the run starts or resumes.
      count: number of steps to record; 0: none.
    """

    def __init__(self, folder: pathlib.Path, start: int, count: int):
        self._folder, self._steps, self._is_running = folder, range(start + 1, start + 1 + count), False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Marks a block as a step of the training, and starts or ends the recording when it is time."""
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(self._folder)
            self._is_running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if self._is_running and step == self._steps[-1]:
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._is_running = False
        say(f"profile of steps {self._steps[0]} to {self._steps[-1]} written: {self._folder}")

    def __exit__(self, *_: object) -> None:
        if self._is_running:
            self._stop()
