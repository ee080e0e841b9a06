"""The server of a page, and of programs: which requests there are, how many wait, and how large they may be."""

import asyncio
import concurrent.futures
import contextlib
import pathlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import jax
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gcn_jax.config.settings import Serving
from gcn_jax.errors import UserError
from gcn_jax.serving import photos
from gcn_jax.serving.guard import Guard
from gcn_jax.serving.models import Model, Switches, describe
from gcn_jax.serving.photos import OUTPUTS, Answer, Stopped, TooLargeError

PAGE = pathlib.Path(__file__).with_name("page")
_FILES = {  # what is asked for -> the file of the page
    "/": "index.html",
    "/style.css": "style.css",
    "/icon.svg": "icon.svg",
    "/page.js": "page.js",
    "/files.js": "files.js",
    "/engine.js": "engine_server.js",
}
_PARAMETERS = ("model", "output", "longest", "multi_scale", "crf")
_GONE = 499  # the status where the client has left; nobody reads it
_PATIENCE = 30  # seconds for a body to arrive
_DROPPED = 2**28  # bytes of a refused body that are read and dropped: most clients send all before they listen


class Asked(NamedTuple):
    """What a request asks for."""

    model: Model
    output: str
    longest: int
    switches: Switches


class Server:
    """Answers requests. One photo is labelled at a time; the others wait, up to a number.

    Args:
      models: by their names; the first is the one that labels where a request names none.
      serving: the bounds.
    """

    def __init__(self, models: Sequence[Model], serving: Serving):
        self._models = {model.name: model for model in models}
        self._serving = serving
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "labelling")
        self._taken = 0
        self._stops: set[threading.Event] = set()

    def app(self, is_local: bool = True) -> Starlette:
        """The ASGI application; `is_local` says whether it is reached from this machine alone."""
        pages = [Route(path, _file(PAGE / name)) for path, name in _FILES.items()]
        others = [
            Route("/models.json", self.describe),
            Route("/label", self.label, methods=["POST"]),
            Route("/photo", self.photo, methods=["POST"]),
        ]
        guard = Middleware(Guard, is_local=is_local, host=self._serving.host)
        handlers: Any = {HTTPException: _told, UserError: _told, Exception: _failed}
        return Starlette(routes=[*pages, *others], middleware=[guard], exception_handlers=handlers)

    def close(self) -> None:
        """Lets go of all that waits."""
        for stop in self._stops:
            stop.set()
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def describe(self, request: Request) -> Response:
        """``GET /models.json``: the models, and what is taken."""
        del request
        serving, first = self._serving, next(iter(self._models.values()))
        default = serving.longest or first.size
        return JSONResponse(
            {
                "where": "server",
                "models": [describe(model) for model in self._models.values()],
                "longest": default,
                "sides": sorted({default, 512, 1024, 2048}),
                "max_megabytes": serving.max_megabytes,
                "max_megapixels": serving.max_megapixels,
            }
        )

    async def label(self, request: Request) -> Response:
        """``POST /label``: a photo's bytes -> its labels, and other maps."""
        asked = self._asked(request.query_params)

        def work(data: bytes, stop: threading.Event) -> Answer:
            photo = photos.decode(data, self._most_pixels, asked.model.white)
            segmenter = asked.model.with_switches(asked.switches)
            maps = photos.label(segmenter, photos.reduced(photo, asked.longest), stop)
            return photos.answer(asked.output, photo, maps, segmenter.spec)

        return await self._answered(request, work)

    async def photo(self, request: Request) -> Response:
        """``POST /photo``: a photo's bytes -> a JPEG of it, for browsers that cannot read its format."""

        def work(data: bytes, stop: threading.Event) -> Answer:
            del stop
            photo = photos.decode(data, self._most_pixels, next(iter(self._models.values())).white)
            return Answer(photos.jpeg(photo), {"Content-Type": "image/jpeg"})

        return await self._answered(request, work)

    @property
    def _most_pixels(self) -> int:
        return round(self._serving.max_megapixels * 1e6)

    def _asked(self, given: QueryParams) -> Asked:
        """What the parameters of a request say; raises `UserError` naming the one that is wrong."""
        for name in given:
            if name not in _PARAMETERS:
                raise UserError(f"{name[:80]}: unknown parameter; known: {', '.join(_PARAMETERS)}")
            if len(given.getlist(name)) > 1:
                raise UserError(f"{name}: given twice")
        name = given.get("model", next(iter(self._models)))
        if name not in self._models:
            raise UserError(f"model={name[:80]}: unknown; known: {', '.join(self._models)}")
        output = given.get("output", "labels")
        if output not in OUTPUTS:
            raise UserError(f"output={output[:80]}: must be one of {', '.join(OUTPUTS)}")
        model = self._models[name]
        usual = model.usual._asdict()
        switches = {key: _switch(key, given[key]) if key in given else on for key, on in usual.items()}
        return Asked(model, output, _side(given.get("longest", "0")), Switches(**switches))

    async def _answered(self, request: Request, work: Callable[[bytes, threading.Event], Answer]) -> Response:
        """Reads the body, waits for its turn, and answers; or says why not."""
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, "a form: send the bytes of the file alone, such as curl --data-binary @photo.jpg")
        if self._taken >= self._serving.queue:
            text = f"busy: {self._serving.queue} photos are waiting already; try again soon"
            raise HTTPException(503, text, {"Retry-After": "2"})
        self._taken += 1
        try:
            data = await self._body(request)
            answer = await self._worked(request, data, work)
        finally:
            self._taken -= 1
        return Response(answer.body, headers=answer.headers)

    async def _body(self, request: Request) -> bytes:
        """The body of a request; raises `HTTPException` if it is too large, or does not arrive."""
        most = self._serving.max_megabytes * 10**6
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(_PATIENCE):
                async for part in _parts(request):
                    size += len(part)
                    if size > most:
                        parts.clear()
                        text = f"the file has more than {self._serving.max_megabytes} MB (config.serve.max_megabytes)"
                        raise HTTPException(413, f"{text}; make it smaller")
                    parts.append(part)
        except TimeoutError:
            raise HTTPException(408, f"the photo did not arrive within {_PATIENCE} seconds") from None
        return b"".join(parts)

    async def _worked(self, request: Request, data: bytes, work: Callable[..., Answer]) -> Answer:
        """What the worker makes of a body, once it is its turn; nothing is made for a client that has gone."""
        stop = threading.Event()
        self._stops.add(stop)

        def own_turn() -> Answer:
            if stop.is_set():
                raise Stopped
            return work(data, stop)

        done: asyncio.Future[Any] = asyncio.wrap_future(self._worker.submit(own_turn))
        gone: asyncio.Future[Any] = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            return await done
        except (Stopped, asyncio.CancelledError):
            raise HTTPException(_GONE) from None
        except (jax.errors.JaxRuntimeError, MemoryError) as error:  # mostly of a device's memory
            reason = (str(error).splitlines() or ["no memory"])[0][:200]
            raise HTTPException(507, f"the photo cannot be labelled at this size ({reason})") from error
        finally:
            stop.set()
            gone.cancel()
            self._stops.discard(stop)


async def _parts(request: Request) -> AsyncIterator[bytes]:
    """Yields what is left of a body, as it comes; raises `HTTPException` if the client leaves."""
    while not getattr(request.state, "is_read", False):
        message = await request.receive()
        if message["type"] != "http.request":
            raise HTTPException(_GONE)
        request.state.is_read = not message.get("more_body")
        yield message.get("body", b"")


async def _left(request: Request) -> None:
    """Returns when a client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _file(path: pathlib.Path) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        del request
        return FileResponse(path)

    return answer


def _switch(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise UserError(f"{name}={text[:80]}: must be true or false")
    return text == "true"


def _side(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 7) or 0 < int(text) < 32:
        raise UserError(f"longest={text[:80]}: must be at least 32 pixels, or 0 for the photo's own size")
    return int(text)


async def _told(request: Request, error: Any) -> Response:
    """The one line of what a client did wrong."""
    await _drop_body(request)
    if isinstance(error, HTTPException):
        return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
    return PlainTextResponse(f"{error}\n", 413 if isinstance(error, TooLargeError) else 400)


async def _drop_body(request: Request) -> None:
    """Reads what is left of a body, so that the client comes to read the answer."""
    size = 0
    with contextlib.suppress(TimeoutError, HTTPException):
        async with asyncio.timeout(_PATIENCE):
            async for part in _parts(request):
                size += len(part)
                if size > _DROPPED:
                    break


async def _failed(request: Request, error: Exception) -> Response:
    """What a client is told of a fault of ours."""
    del request
    return PlainTextResponse(f"a fault of the server ({type(error).__name__}); its log says more\n", 500)
