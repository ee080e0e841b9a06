"""Runs ``run.py`` in processes of its own, as a user does; and in this process what it is to refuse.

Most processes start as forks of one that has imported the libraries once: the import takes longer than many runs.
"""

import contextlib
import io
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from unittest import mock

import jax
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

from gcn_jax.command import start as start_up
from gcn_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["gcn_jax.modes.train", "gcn_jax.modes.predict", "gcn_jax.modes.prepare", "ml_collections.config_flags"]
)


def start(*args):
    """`python run.py ...` on one CPU device: a `subprocess.Popen`."""
    environment = {**os.environ, "XLA_FLAGS": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "run.py", *map(str, args)], cwd=ROOT, env=environment, **pipes)


class Fork:
    """`python run.py ...` in a fork, which can be killed; and what it has written to stdout and stderr.

    Args:
      args: of the command line.
      environment: what its environment holds besides; it has one CPU device unless XLA_FLAGS say otherwise.
    """

    def __init__(self, *args, environment=()):
        self._files = tempfile.NamedTemporaryFile(), tempfile.NamedTemporaryFile()  # noqa: SIM115
        names = (file.name for file in self._files)
        self.process = _CONTEXT.Process(target=_main, args=([*map(str, args)], dict(environment), *names))
        self.process.start()

    def texts(self):
        """What stdout and stderr hold by now."""
        return [os.pread(file.fileno(), 2**24, 0).decode() for file in self._files]

    def end(self, timeout=500):
        """Waits; returns the exit status, minus the signal that ended it, and the texts."""
        self.process.join(timeout)
        status, texts = self.process.exitcode, self.texts()
        assert status is not None, f"still running after {timeout} s: {texts[1]}"
        self.process.close()
        for file in self._files:
            file.close()
        return status, texts


def run(*args, status=0):
    """The same to its end; returns stdout and stderr."""
    found, texts = Fork(*args).end()
    assert found == status, texts[1]
    return texts


def refused(*args):
    """What stderr holds of a command that ends with status 2, run in this process: all that it says, and why it ends.

    It has the devices of this process. Of a whole command only what follows a `UserError` is not run: the process ends.

    Args:
      *args: of the command line; a training takes one device unless they say otherwise.
    """
    arguments = [*map(str, args)]
    if arguments[0].startswith("--config="):  # which is to come before its values
        arguments.insert(1, "--config.mesh.data=1")
    out, err = io.StringIO(), io.StringIO()
    try:
        with unchanged(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = start_up.run("run.py", arguments)
    except UserError as error:
        assert not out.getvalue()
        return f"{err.getvalue()}run.py: error: {error}\n"
    raise AssertionError(f"it ran, to status {status}: {err.getvalue()}")


@contextlib.contextmanager
def unchanged(folder=ROOT):
    """A process in which a command line is parsed and run in a folder, as it was before."""
    options = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    values = {name: getattr(jax.config, name) for name in options}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    verbosity, hook = logging.get_verbosity(), sys.unraisablehook
    try:
        with (
            contextlib.chdir(folder),
            warnings.catch_warnings(action="ignore", category=DeprecationWarning),  # of ml_collections
            mock.patch.object(start_up, "return_memory"),  # listens to compilations for good
        ):
            yield
    finally:
        logging.set_verbosity(verbosity)
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if values["jax_compilation_cache_dir"] != jax.config.jax_compilation_cache_dir:
            compilation_cache.reset_cache()
        for name, value in values.items():
            jax.config.update(name, value)


def _main(arguments, environment, out, err):
    """In the forked process: becomes `python run.py ...`."""
    for path, number in ((out, 1), (err, 2)):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which is ignored in tests that are run by nohup
    os.environ |= {"XLA_FLAGS": "", **environment}
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    sys.argv = ["run.py", *arguments]
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    runpy.run_path("run.py", run_name="__main__")
