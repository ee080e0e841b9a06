"""Runs ``run.py`` in processes of its own, as a user does.

Most start as forks of a process that has imported the libraries once: the import takes longer than many runs.
"""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

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


def _main(arguments, environment, out, err):
    """In the forked process: becomes `python run.py ...`."""
    for path, number in ((out, 1), (err, 2)):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ |= {"XLA_FLAGS": "", **environment}
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    sys.argv = ["run.py", *arguments]
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    runpy.run_path("run.py", run_name="__main__")
