"""Ports of a sandbox: HTTP and WebSocket, forwarded to a service inside over the link, streaming both ways.

A request is a TCP connection of its own inside the sandbox. What a client sends reaches the service as it is, cookies
and Authorization included; only what belongs to us, or to one hop, stays behind.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from controlplane.access.keys import Keys
from controlplane.api.edge.addresses import address_of, port_of
from controlplane.api.edge.auth import API_KEY_HEADER, TOKEN_HEADERS
from controlplane.api.edge.guard import find_caller
from controlplane.api.edge.origins import without_our_cookies
from controlplane.api.edge.parameters import port_number
from controlplane.api.edge.problems import error_answer
from controlplane.api.ports.headers import RawHeaders, end_to_end
from controlplane.api.ports.http import forward
from controlplane.api.ports.sandbox_tokens import SandboxTokens
from controlplane.api.ports.websocket import MessageMemory, relay_websocket
from controlplane.errors import Forbidden, SandlotError
from controlplane.link.stream import Stream
from controlplane.listener.extensions import FORWARDED
from controlplane.telemetry.metrics import Metrics
from execd.wire.messages import Done, PortConnect

if TYPE_CHECKING:
    from controlplane.link.relay import Relay

log = structlog.get_logger()

_OURS = TOKEN_HEADERS | {API_KEY_HEADER}

_END_OF_ADDRESS = re.compile(r"(?:/proxy/[^/?]+)?(?:\?.*)?", re.DOTALL)


class Ports:
    """The ASGI application behind `/sandboxes/{sandbox_id}/proxy/{port}`, for HTTP and WebSocket."""

    def __init__(self, relay: Relay, tokens: SandboxTokens, keys: Keys, metrics: Metrics | None = None) -> None:
        self._traffic = (metrics or Metrics()).ports
        self._relay = relay
        self._tokens = tokens
        self._keys = keys
        self._memory = MessageMemory()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        sandbox_id = scope["path_params"]["sandbox_id"]
        stream: Stream | None = None
        has_begun = False

        async def send_on(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            _refuse_console(scope)
            port = port_number(scope["path_params"]["port"])
            if (root := _root(scope)) is not None:
                await Response(status_code=307, headers={"Location": root})(scope, receive, send)
                return
            # Its own END is the end of the request, so the stream stays open for input.
            stream = await self._relay.open(sandbox_id, PortConnect(port), with_input=True)
            await stream.expect(Done)
            headers = self._headers(scope)
            with self._traffic.held(scope["type"], stream):
                if scope["type"] == "http":
                    await forward(scope, receive, send_on, stream, headers)
                else:
                    await relay_websocket(scope, receive, send_on, stream, headers, self._memory)
        except SandlotError as error:
            if has_begun:  # leaving an answer incomplete makes the server drop the connection
                log.warning("port.broken", sandbox=sandbox_id, error=error.message)
            else:
                await error_answer(error, scope)(scope, receive, send)
        finally:
            if stream is not None:
                stream.close()

    def _headers(self, scope: Scope) -> RawHeaders:
        """Return the headers of a request as the service is to see them."""
        headers = [
            (name, value)
            for name, value in map(_without_our_cookies, end_to_end(scope["headers"]))
            if name not in _OURS
            and (value or name != b"cookie")
            and not FORWARDED.fullmatch(name)  # the trusted headers are added below
            and name != b"expect"  # the server has answered that
            and not (name == b"authorization" and self._is_ours(value))
        ]
        came = Headers(raw=scope["headers"])
        client = scope["client"][0] if scope.get("client") else ""
        forwarded = {
            # The client alone: what is before it in the header is the client's own word, whatever proxy adds to it.
            "X-Forwarded-For": client,
            "X-Forwarded-Host": came.get("x-forwarded-host") or came.get("host", ""),  # a trusted proxy's
            "X-Forwarded-Proto": scope["scheme"].replace("ws", "http"),
            "X-Forwarded-Prefix": address_of(scope).prefix,
        }
        return headers + [(name.encode(), value.encode("latin-1")) for name, value in forwarded.items() if value]

    def _is_ours(self, authorization: bytes) -> bool:
        """Return whether a text has a key, or the token of any sandbox: a sandbox must not see another's token."""
        secret = authorization[7:].strip().decode("latin-1") if authorization[:7].lower() == b"bearer " else ""
        return self._keys.is_key(secret) or self._tokens.holds(secret)


def _refuse_console(scope: Scope) -> None:
    """Raise Forbidden for a person at the console: a service must never answer at the console's own origin.

    Authentication does not let such a request come here; this is the second lock.
    """
    caller = find_caller(scope)
    if caller is not None and caller.sign_in:
        raise Forbidden("the console opens a service by a signed address, and not by its sign-in")


def _without_our_cookies(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    return (header[0], without_our_cookies(header[1])) if header[0] == b"cookie" else header


def _root(scope: Scope) -> str | None:
    """Return the address with a slash at its end, when a page is asked for without: its relative links need that."""
    place = port_of(scope)
    prefix = address_of(scope).prefix
    is_page = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
    if not is_page or place is None or not prefix or not _END_OF_ADDRESS.fullmatch(place[2]):
        return None
    query = scope["query_string"].decode("latin-1")
    return f"{prefix}/{'?' + query if query else ''}"
