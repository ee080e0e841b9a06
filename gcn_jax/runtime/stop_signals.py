"""Stops a training after it has saved, on SIGTERM, on Ctrl-C, or when its terminal is closed."""

import contextlib
import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

from gcn_jax.console import say


class StopSignals:
    """A context manager that notes SIGINT and SIGTERM, by which clouds also announce that they take a machine back.

    It notes SIGHUP, too, which a closed terminal sends, unless that is ignored, as under `nohup`. Only the first signal
    is noted. A second one has its usual effect; but SIGHUP has none, since a terminal may send several. If several
    processes run, JAX handles SIGTERM: it tells all of them, so that they stop at the same step.

    Attributes:
      received: the name of the signal, "" if there was none.
    """

    received = ""

    def __enter__(self) -> "StopSignals":
        numbers = [signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        if jax.process_count() == 1:
            numbers.append(signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._restore()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.received = signal.Signals(number).name
            with contextlib.suppress(OSError):  # not `say`: no print can begin inside of another
                os.write(2, f"{self.received}: saving, then stopping\n".encode())

    def agree(self, step: int) -> None:
        """Notes a signal that any of several processes has received; all call this at every step."""
        if not self.received and multihost_utils.reached_preemption_sync_point(step):
            self.received = signal.SIGTERM.name
            say(f"{self.received}: saving, then stopping")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
