"""Protection of the local services against web pages.

Any page that is open in a browser on this machine can send requests to 127.0.0.1. The services therefore refuse

- a request with another `Host` than a name of the loopback interface: the page's own name may have been made to lead
  to 127.0.0.1 (DNS rebinding), and the browser would then let the page read the responses;
- a request with the `Origin` of another page. Browsers send this header with each request that may change something
  and with each WebSocket. Programs send none.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

Scope = MutableMapping[str, Any]
AsgiApp = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_LOOPBACK_NAMES = {"127.0.0.1", "localhost", "::1"}
_POLICY_VIOLATION = 1008  # close code of a WebSocket (RFC 6455, section 7.4.1)


def origins(port: int) -> list[str]:
    """The origins of the pages of a service on this port."""
    return [f"http://127.0.0.1:{port}", f"http://localhost:{port}"]


def refusal(host: str | None, origin: str | None) -> str | None:
    """Why a request with these headers is refused, as a sentence; None if it is not.

    Args:
        host: the header `Host`; None if there is none.
        origin: the header `Origin`; None if there is none, or if the service lets other pages in.
    """
    name, port = _host_and_port(f"//{host or ''}")
    if name not in _LOOPBACK_NAMES:
        return "This service of the local stack answers only at 127.0.0.1 and localhost."
    if origin is None:
        return None
    page_host, page_port = _host_and_port(origin)
    if page_host not in _LOOPBACK_NAMES or page_port != port:
        return "This service of the local stack answers no pages of other origins."
    return None


def _host_and_port(address: str) -> tuple[str | None, int | None]:
    """The host name and the port of an address, None where there is none."""
    try:
        parts = urlsplit(address)
        return parts.hostname, parts.port
    except ValueError:
        return None, None


@web.middleware
async def same_origin_middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The check for aiohttp."""
    if reason := refusal(request.headers.get("Host"), request.headers.get("Origin")):
        return web.Response(status=HTTPStatus.FORBIDDEN, text=f"{reason}\n")
    return await handler(request)


class SameOriginHandler(BaseHTTPRequestHandler):
    """The check for http.server."""

    def parse_request(self) -> bool:
        """Read the head of a request, and send the response if it is refused."""
        if not super().parse_request():
            return False
        reason = refusal(self.headers.get("Host"), self.headers.get("Origin"))
        if reason is None:
            return True
        self.close_connection = True  # the body is not read
        self.send_error(HTTPStatus.FORBIDDEN, explain=reason)
        return False


def same_origin_asgi(app: AsgiApp) -> AsgiApp:
    """The check for ASGI, also for WebSockets."""

    async def checked(
        scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        reason = None
        if scope["type"] in ("http", "websocket"):
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            reason = refusal(headers.get(b"host"), headers.get(b"origin"))
        if reason is None:
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": reason})
        else:
            content_type = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": HTTPStatus.FORBIDDEN, "headers": content_type})
            await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    return checked


def same_origin_wsgi(app: WsgiApp) -> WsgiApp:
    """The check for WSGI."""

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        reason = refusal(environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN"))
        if reason is None:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{reason}\n".encode()]

    return checked
