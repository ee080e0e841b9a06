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
from multiprocessing.reduction import DupFd

ROOT = pathlib.Path(__file__).parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["gcn_jax.train", "gcn_jax.predict", "gcn_jax.prepare", "ml_collections.config_flags"])


def start(*args):
    """`python run.py ...` on one CPU device: a `subprocess.Popen`."""
    environment = {**os.environ, "XLA_FLAGS": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "run.py", *map(str, args)], cwd=ROOT, env=environment, **pipes)


def run(*args, status=0):
    """The same to its end, forked; returns stdout and stderr."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = _CONTEXT.Process(target=_main, args=([*map(str, args)], DupFd(out.fileno()), DupFd(err.fileno())))
        process.start()
        process.join(500)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    assert process.exitcode == status, texts[1]
    process.close()
    return texts


def _main(arguments, out, err):
    """In the forked process: becomes `python run.py ...`."""
    for stream, number in ((out, 1), (err, 2)):
        descriptor = stream.detach()
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ["XLA_FLAGS"] = ""
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    sys.argv = ["run.py", *arguments]
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    runpy.run_path("run.py", run_name="__main__")
