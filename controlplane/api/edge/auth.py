"""The caller of a request: an API key, at a sandbox's endpoint its token, a ticket or a signature, or a sign-in.

`guard.py`, behind this, decides what the caller may do.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Iterable, Sequence
from typing import Protocol
from urllib.parse import parse_qs

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.access.attempts import Attempts
from controlplane.access.connections import KeyEnded
from controlplane.access.control import AccessControl
from controlplane.access.scopes import Caller, caller_for_sandbox
from controlplane.api.edge.addresses import Address, address_of
from controlplane.api.edge.guard import set_caller
from controlplane.api.edge.notes import note
from controlplane.api.edge.operation import SANDBOX_PATH, WEBSOCKET, Operation
from controlplane.api.edge.origins import ConsoleCookies
from controlplane.api.edge.problems import flat
from controlplane.api.edge.tickets import Tickets

API_KEY_HEADER = b"open-sandbox-api-key"
# The names under which the SDKs know a token: for execd, for the egress sidecar, for any other port.
EXECD_TOKEN_HEADER = "X-EXECD-ACCESS-TOKEN"  # noqa: S105 - a header's name
EGRESS_TOKEN_HEADER = "OPENSANDBOX-EGRESS-AUTH"  # noqa: S105
PORT_TOKEN_HEADER = "OpenSandbox-Secure-Access"  # noqa: S105
TOKEN_HEADERS = frozenset(
    name.lower().encode() for name in (EXECD_TOKEN_HEADER, EGRESS_TOKEN_HEADER, PORT_TOKEN_HEADER)
)

METRICS = "metrics"  # the operation that a setting opens
MAX_SECRETS = 8  # of one request that are looked at: each costs a hash and a signature
PAGES = "/console"  # the console's pages, which need no key; its operations are below `/v1`
ICON = "/favicon.ico"  # browsers ask for it by themselves, which is no failed attempt; there is none
POLICY_VIOLATION = 1008  # close code of a WebSocket (RFC 6455, 7.4.1)

_SANDBOX_PATHS = re.compile(r"(?:/v1)?/sandboxes/([^/]+)(/.*)", re.DOTALL)
_EVENT_PATHS = frozenset({"/events", "/v1/events"})
_ENDPOINT_PATHS = re.compile(r"(?:/v1)?/sandboxes/([^/]+)/proxy/([^/]+)(?:/.*)?", re.DOTALL)


class Checks(Protocol):
    """What is needed of `controlplane.access.credentials.Credentials`."""

    def is_sandbox_token(self, sandbox_id: str, token: str) -> bool: ...

    def sandbox_token(self, sandbox_id: str) -> str: ...

    def sign(self, sandbox_id: str, port: str, expires: str) -> str: ...

    def is_signature(self, sandbox_id: str, port: str, expires: str, signature: str) -> bool: ...


class Authentication:
    """ASGI middleware that finds out who asks, or answers 401. An unknown path needs a key as well.

    A connection ends when the key that opened it ends.
    """

    def __init__(
        self,
        app: ASGIApp,
        credentials: Checks,
        access: AccessControl,
        tickets: Tickets,
        *,
        operations: Sequence[Operation],
        open_metrics: bool,
        console: bool,
    ) -> None:
        opened = [each for each in operations if each.is_open or (open_metrics and each.name == METRICS)]
        self._open = {each.path for each in opened}
        # Methods at these paths that need a key.
        self._keyed = {
            (method, each.full_path)
            for each in operations
            if each.full_path in self._open and each not in opened
            for method in (*each.method.split(), *(["HEAD"] if "GET" in each.method else ()))
        }
        self._has_pages = console
        self._cookies = ConsoleCookies(access.sign_ins, is_on=console)
        # What a token, or on a WebSocket a ticket, opens beside the endpoints: paths after the one of the sandbox.
        self._token_paths = {each.path.removeprefix(SANDBOX_PATH) for each in operations if each.takes_token}
        self._app = app
        self._credentials = credentials
        self._access = access
        self._tickets = tickets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan" or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        secrets = list(itertools.islice(_secrets(scope["headers"]), MAX_SECRETS))
        caller = self._at_endpoint(scope, secrets) or self._with_key(secrets) or self._with_ticket(scope)
        if caller is None and not secrets:
            caller = self._cookies.caller(scope)
        if caller is None:
            await self._refusal(scope, has_secrets=bool(secrets))(scope, receive, send)
            return
        note(scope, key=caller.actor)
        set_caller(scope, caller)
        if caller.key_id:
            await self._serve_key(caller, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve_key(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection for as long as its key is valid, or its sign-in."""
        has_begun = False

        async def send_on(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if caller.sign_in and message["type"] == "http.response.start":
                message["headers"] = _uncached(message.get("headers", ()))
            await send(message)

        try:
            async with self._access.connections.held(caller, time.time()):
                await self._app(scope, receive, send_on)
        except KeyEnded:
            if not has_begun:
                await flat(401, "INVALID_API_KEY", f"{_what_ended(caller)} has ended")(scope, receive, send)
            elif scope["type"] == "websocket":
                await _close(send, f"{_what_ended(caller)} has ended")
            # An answer that has begun is left incomplete: the server drops the connection.

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if (place := path.removeprefix("/v1")) in self._open:
            return (scope.get("method", WEBSOCKET), place) not in self._keyed or self._is_page(path)
        return self._is_page(path)

    def _is_page(self, path: str) -> bool:
        if path == ICON:
            return True
        return self._has_pages and path.startswith(PAGES) and path[len(PAGES) :][:1] in ("", "/")

    def _with_key(self, secrets: list[str]) -> Caller | None:
        return next(filter(None, map(self._access.keys.caller, secrets)), None)

    def _with_ticket(self, scope: Scope) -> Caller | None:
        """Return who opens the events of the server by a ticket: the key or the sign-in of the ticket, as it is now."""
        if scope["type"] != "websocket" or scope["path"] not in _EVENT_PATHS:
            return None
        issuer = self._tickets.redeem_for_events(_ticket(scope))
        if issuer is None:
            return None
        if issuer.sign_in:
            return self._access.sign_ins.again(issuer.sign_in)
        return self._access.keys.caller_with(issuer.key_id)

    def _at_endpoint(self, scope: Scope, secrets: list[str]) -> Caller | None:
        """Return who goes to a sandbox's endpoint without an API key: by ticket, token or signature."""
        if (stream := _SANDBOX_PATHS.fullmatch(scope["path"])) is not None and stream[2] in self._token_paths:
            if scope["type"] == "websocket" and (issuer := self._tickets.redeem(stream[1], _ticket(scope))) is not None:
                return caller_for_sandbox(stream[1], "ticket", issuer) if self._may_use(issuer, stream[1]) else None
            return self._with_token(stream[1], secrets)
        match = _ENDPOINT_PATHS.fullmatch(scope["path"])
        if match is None:
            return None
        address = address_of(scope)
        if address.signature:
            is_signed = self._credentials.is_signature(match[1], match[2], address.expires, address.signature)
            return caller_for_sandbox(match[1], "signature") if is_signed and not address.is_expired else None
        return self._with_token(match[1], secrets)

    def _may_use(self, issuer: Caller, sandbox_id: str) -> bool:
        """Return whether who asked for a ticket is still known, and may still run code in the sandbox."""
        if issuer.sign_in and self._access.sign_ins.again(issuer.sign_in) is None:
            return False
        return not issuer.key_id or self._access.keys.may_use(issuer.key_id, sandbox_id)

    def _with_token(self, sandbox_id: str, secrets: list[str]) -> Caller | None:
        is_token = any(self._credentials.is_sandbox_token(sandbox_id, secret) for secret in secrets)
        return caller_for_sandbox(sandbox_id, "token") if is_token else None

    def _refusal(self, scope: Scope, *, has_secrets: bool) -> Response:
        if (refusal := failed_attempt(self._access.attempts, scope)) is not None:
            return refusal
        if not has_secrets and (why := self._cookies.why_not(scope)) is not None:
            return flat(*why)
        if (address := address_of(scope)).signature:
            return flat(401, "INVALID_API_KEY", f"this address {_why_not(address)}")
        if has_secrets:
            return flat(401, "INVALID_API_KEY", "the API key or token is wrong")
        return flat(401, "MISSING_API_KEY", _what_is_needed(scope["path"]))


def failed_attempt(attempts: Attempts, scope: Scope) -> Response | None:
    """Count a failed attempt of the client. Return the answer after too many of them."""
    client = scope.get("client")
    if not (retry_after_s := attempts.failed(client[0] if client else "")):
        return None
    message = "too many requests of this address had no API key or a wrong one; a right one is always served"
    return flat(429, "TOO_MANY_FAILED_ATTEMPTS", message, {"Retry-After": str(retry_after_s)})


def _ticket(scope: Scope) -> str:
    tickets: list[str] = parse_qs(scope["query_string"].decode("latin-1")).get("ticket", [""])
    return tickets[0]


def carries_secret(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request has a key or a token in one of its headers, right or wrong."""
    return any(True for _ in _secrets(headers))


def _what_is_needed(path: str) -> str:
    if (place := _ENDPOINT_PATHS.fullmatch(path)) is None:
        return "an API key is needed, in the header OPEN-SANDBOX-API-KEY"
    return (
        f"the sandbox's token is needed, in a header as GET /v1/sandboxes/{place[1]}/endpoints/{place[2]} names it; "
        "for a browser, ask there for a signed address, with ?expires= and a Unix time in seconds"
    )


def _why_not(address: Address) -> str:
    return "has expired; ask for another one" if address.is_expired else "is not signed by this server"


def _secrets(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
    """Yield what may be a key or a token. The Go SDK sends its key in the token headers too."""
    for name, value in headers:
        if name == API_KEY_HEADER or name in TOKEN_HEADERS:
            yield value.decode("latin-1")
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            yield value[7:].strip().decode("latin-1")


def _what_ended(caller: Caller) -> str:
    return "the API key or the sign-in" if caller.sign_in else "the API key"


def _uncached(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Keep an answer out of caches, where it would outlive the sign-in."""
    headers = list(headers)
    if not any(name.lower() == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    return headers


async def _close(send: Send, reason: str) -> None:
    """Close a WebSocket whose key or sign-in has ended, if it is still open."""
    with contextlib.suppress(RuntimeError, OSError):
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})
