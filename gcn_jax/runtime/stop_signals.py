"""SIGTERM and Ctrl-C: a training saves and stops."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

from gcn_jax.console import say


class StopSignals:
    """Notes SIGTERM, which is also how a cloud says that it will take a machine, and SIGINT, while it is open.

    A second one has its usual effect. Where several processes run, JAX heeds SIGTERM: it tells all of them, and they
    stop at the same step.

    Attributes:
      received: the signal's name, "" if there was none.
    """

    received = ""

    def __enter__(self) -> "StopSignals":
        numbers = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else (signal.SIGINT,)
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._restore()
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.received = signal.Signals(number).name
            say(f"{self.received}: saving, then stopping")

    def agree(self, step: int) -> None:
        """Heeds the notice that any of several processes has got; all call this at every step."""
        if not self.received and multihost_utils.reached_preemption_sync_point(step):
            self.received = signal.SIGTERM.name
            say(f"{self.received}: saving, then stopping")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
