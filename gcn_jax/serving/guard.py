"""What every request must be and every answer has, so that no other page can use a server on this machine."""

from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_LOCAL = {"localhost", "127.0.0.1", "::1"}


class Guard:
    """Refuses what a page of another site makes a browser ask for; adds headers to every answer.

    Two things tell such a request: its ``Origin`` is another one; or, where a name of that site's own leads to this
    machine, its ``Host`` is that name.

    Args:
      app: what answers.
      is_local: whether the server is reached from this machine alone. If not, any name may lead to it.
      host: the name or address that it listens at.
    """

    def __init__(self, app: Any, is_local: bool, host: str):
        self._app = app
        self._hosts = {*_LOCAL, host.lower()} if is_local else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin", "")
        if self._hosts and _name(host) not in self._hosts:
            refusal = PlainTextResponse(f"{host or 'no name'}: not a name of this server\n", 421)
            await refusal(scope, receive, send_with_headers)
        elif origin and origin.partition("://")[2] != host:
            refusal = PlainTextResponse("a page of another site may not use this server\n", 403)
            await refusal(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def _name(host: str) -> str:
    """The name in a ``Host`` header, without the port; "" if it is no such header."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
