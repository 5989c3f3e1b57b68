"""Who may ask: API keys everywhere, at a sandbox's endpoint also that sandbox's token."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.api.addresses import Address, address_of
from controlplane.api.problems import flat
from controlplane.api.tickets import Tickets

API_KEY_HEADER = b"open-sandbox-api-key"
# The names under which the SDKs know a token: for execd, for the egress sidecar, for any other port.
EXECD_TOKEN_HEADER = "X-EXECD-ACCESS-TOKEN"  # noqa: S105 - a header's name
EGRESS_TOKEN_HEADER = "OPENSANDBOX-EGRESS-AUTH"  # noqa: S105
PORT_TOKEN_HEADER = "OpenSandbox-Secure-Access"  # noqa: S105
TOKEN_HEADERS = frozenset(
    name.lower().encode() for name in (EXECD_TOKEN_HEADER, EGRESS_TOKEN_HEADER, PORT_TOKEN_HEADER)
)

_OPEN_PATHS = re.compile(r"(?:/v1)?/(?:health|version)")
_METRICS_PATHS = re.compile(r"(?:/v1)?/metrics")
_STREAM_PATHS = re.compile(r"(?:/v1)?/sandboxes/([^/]+)/stream(?:/tickets)?")
_ENDPOINT_PATHS = re.compile(r"(?:/v1)?/sandboxes/([^/]+)/proxy/([^/]+)(?:/.*)?", re.DOTALL)


class Checks(Protocol):
    """What is needed of `controlplane.credentials.Credentials`."""

    def is_api_key(self, key: str) -> bool: ...

    def is_sandbox_token(self, sandbox_id: str, token: str) -> bool: ...

    def sandbox_token(self, sandbox_id: str) -> str: ...

    def sign(self, sandbox_id: str, port: str, expires: str) -> str: ...

    def is_signature(self, sandbox_id: str, port: str, expires: str, signature: str) -> bool: ...


class Authentication:
    """ASGI middleware: lets a request through, or answers 401. A path that nobody knows needs a key as well."""

    def __init__(self, app: ASGIApp, credentials: Checks, tickets: Tickets, *, open_metrics: bool) -> None:
        self._app = app
        self._credentials = credentials
        self._tickets = tickets
        self._open_metrics = open_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan" or self._is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        secrets = list(_secrets(scope["headers"]))
        if self._opens_endpoint(scope, secrets) or any(map(self._credentials.is_api_key, secrets)):
            await self._app(scope, receive, send)
        elif (address := address_of(scope)).signature:
            await flat(401, "INVALID_API_KEY", f"this address {_why_not(address)}")(scope, receive, send)
        elif secrets:
            await flat(401, "INVALID_API_KEY", "the API key or token is wrong")(scope, receive, send)
        else:
            await flat(401, "MISSING_API_KEY", "an API key is needed, in the header OPEN-SANDBOX-API-KEY")(
                scope, receive, send
            )

    def _is_open(self, path: str) -> bool:
        return bool(_OPEN_PATHS.fullmatch(path) or (self._open_metrics and _METRICS_PATHS.fullmatch(path)))

    def _opens_endpoint(self, scope: Scope, secrets: list[str]) -> bool:
        if (stream := _STREAM_PATHS.fullmatch(scope["path"])) is not None:
            ticket = parse_qs(scope["query_string"].decode("latin-1")).get("ticket", [""])[0]
            return (scope["type"] == "websocket" and self._tickets.redeem(stream[1], ticket)) or any(
                self._credentials.is_sandbox_token(stream[1], secret) for secret in secrets
            )
        match = _ENDPOINT_PATHS.fullmatch(scope["path"])
        if match is None:
            return False
        address = address_of(scope)
        if address.signature:
            is_signed = self._credentials.is_signature(match[1], match[2], address.expires, address.signature)
            return is_signed and not address.is_expired
        return any(self._credentials.is_sandbox_token(match[1], secret) for secret in secrets)


def _why_not(address: Address) -> str:
    return "has expired; ask for another one" if address.is_expired else "is not signed by this server"


def _secrets(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
    """Yield what may be a key or a token. The Go SDK sends its key in the token headers too."""
    for name, value in headers:
        if name == API_KEY_HEADER or name in TOKEN_HEADERS:
            yield value.decode("latin-1")
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            yield value[7:].strip().decode("latin-1")
