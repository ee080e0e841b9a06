"""``--mode=serve``: trained models on a page to drop photos on, and for programs that send photos."""

import collections
import errno
import importlib.util
import ipaddress
import pathlib
import socket
import time

import ml_collections
import numpy as np

from gcn_jax.checkpoints import temperature
from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.config import settings
from gcn_jax.config.settings import Serving
from gcn_jax.console import say
from gcn_jax.errors import UserError
from gcn_jax.inference.segmenter import make_segmenter
from gcn_jax.serving.models import Model, check_takes_photos

_PACKAGES = ("starlette", "uvicorn")
_CONNECTIONS = 500  # at a time; further ones are told that the server is busy
_GRACE = 3  # seconds for answers that are under way when it is stopped


def run(configs: dict[pathlib.Path, ml_collections.ConfigDict]) -> None:
    """Serves until it is interrupted.

    Args:
      configs: of each workdir or file. The first one's ``serve`` says where.

    Raises:
      UserError: if a package is missing, the address cannot be listened at, or a model cannot be served.
    """
    if not all(importlib.util.find_spec(name) for name in _PACKAGES):
        raise UserError('--mode=serve needs libraries: pip install -c requirements.txt ".[serve]"')
    serving = settings.serving(next(iter(configs.values())))
    called = names([*configs])
    for name, config in zip(called, configs.values(), strict=True):
        check_takes_photos(name, config)
    with listen(serving.host, serving.port) as listener:
        host, port = listener.getsockname()[:2]
        is_local = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        if not is_local:
            say(
                f"config.serve.host={serving.host}: whoever reaches port {port} of this machine can use the "
                "models: there is no password, and no encryption of the photos that are sent"
            )
        models = [_loaded(name, *pair) for name, pair in zip(called, configs.items(), strict=True)]
        _answer(models, serving, listener, is_local)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises `UserError` if the address is not this machine's, or the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        what = f"cannot be listened at ({error.strerror})"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise UserError(f"config.serve.port={port}: {what}; take another, or 0 for any that is free") from error
        raise UserError(f"config.serve.host={host}: {what}; take 127.0.0.1, or an address of this machine") from error


def names(sources: list[pathlib.Path]) -> list[str]:
    """What models are called: as their folder or file, or as the whole path where two would be called the same."""
    short = [source.stem if source.is_file() else source.absolute().name for source in sources]
    counts = collections.Counter(short)
    return [name if counts[name] == 1 else str(source) for name, source in zip(short, sources, strict=True)]


def _loaded(name: str, source: pathlib.Path, config: ml_collections.ConfigDict) -> Model:
    """A model that has labelled its first photo, so that the program for photos of training's size is compiled."""
    step, variables = load_trained(source, config.eval.checkpoint)
    segmenter = make_segmenter(temperature.settled(config, source, step), variables)
    model = Model(name, step, segmenter, config.data.white)
    start, side = time.monotonic(), segmenter.protocol.size
    segmenter.predict(np.zeros((side, side, 3), np.uint8))
    say(f"{name}: step {step} of {source}; the first photo took {time.monotonic() - start:.1f} s")
    return model


def _answer(models: list[Model], serving: Serving, listener: socket.socket, is_local: bool) -> None:
    """Answers requests until it is interrupted."""
    import uvicorn

    from gcn_jax.serving.app import Server

    server = Server(models, serving)
    config = uvicorn.Config(
        server.app(is_local),
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        http="h11",
        ws="none",
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{port}/ is ready; stop it with Ctrl-C", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        say("stopped")
    finally:
        server.close()
