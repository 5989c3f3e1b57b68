"""The addresses of a sandbox's port: by path, by a host name of its own, and both of them signed.

    /sandboxes/{id}/proxy/{port}/…                              with the sandbox's token, or an API key
    /sandboxes/{id}/signed/{port}/{expires}/{signature}/…       by itself, until it expires: also for a browser
    {port}-{id}.{domain}                                        for what uses absolute paths
    {port}-{id}-{expires}-{signature}.{domain}

`PortAddresses` turns the others into the first, so that all that follows knows one of them only. `expires` is Unix time
in base 36. A domain is a setting; `localhost` is one always, because browsers resolve its names by themselves.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

SCOPE_KEY = "sandlot.address"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

_PATH = re.compile(
    r"(?P<prefix>(?:/v1)?/sandboxes/(?P<id>[^/]+)/signed/(?P<port>\d{1,5})/(?P<expires>[0-9a-z]{1,10})/"
    r"(?P<signature>[a-z2-7]{1,32}))(?P<rest>/.*)?",
    re.ASCII | re.DOTALL,
)
_LABEL = re.compile(
    r"(?P<port>\d{1,5})-(?P<id>[0-9a-f]+)(?:-(?P<expires>[0-9a-z]{1,10})-(?P<signature>[a-z2-7]{1,32}))?",
    re.ASCII | re.IGNORECASE,
)
_PROXY_PATH = re.compile(rb"(?:/v1)?/sandboxes/[^/]+/proxy/(?:44772/proxy/)?[^/]+")


class Address(NamedTuple):
    """How a request came to a port."""

    prefix: str  # path before what the service sees; "" by host name
    expires: str = ""  # of a signed address, in base 36
    signature: str = ""

    @property
    def is_expired(self) -> bool:
        """Whether a signed address is past its time."""
        return int(self.expires or "0", 36) <= time.time()


class PortAddresses:
    """ASGI middleware: any address of a port becomes `/sandboxes/{id}/proxy/{port}/…`."""

    def __init__(self, app: ASGIApp, *, domain: str) -> None:
        """*domain*: host[:port], under which each port has a name; "" is none beside localhost."""
        self._app = app
        domains = {"localhost", domain.partition(":")[0].lower()} - {""}
        self._name = re.compile(rf"([^.]+)\.(?:{'|'.join(map(re.escape, sorted(domains)))})(?::\d+)?", re.IGNORECASE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "lifespan":
            self._translate(scope)
        await self._app(scope, receive, send)

    def _translate(self, scope: Scope) -> None:
        path: str = scope["path"]
        if "/signed/" in path and (match := _PATH.fullmatch(path)):
            rest = match["rest"] or "/"
            raw = scope["raw_path"][len(match["prefix"].encode()) :] or b"/"  # the prefix is ASCII, and not encoded
            prefix = match["prefix"]
        elif (name := self._name.fullmatch(_host(scope))) and (match := _LABEL.fullmatch(name[1])):
            prefix, rest, raw = "", path, scope["raw_path"]
        else:
            return
        signed = (match["expires"].lower(), match["signature"].lower()) if match["signature"] else ("", "")
        to = f"/v1/sandboxes/{match['id'].lower()}/proxy/{match['port']}"
        scope["path"], scope["raw_path"] = to + rest, to.encode() + raw
        scope[SCOPE_KEY] = Address(prefix, *signed)


def address_of(scope: Scope) -> Address:
    """Return how a request came to a port."""
    address = scope.get(SCOPE_KEY)
    if isinstance(address, Address):
        return address
    match = _PROXY_PATH.match(scope["raw_path"])
    return Address(match[0].decode("latin-1") if match else "")


def target_of(scope: Scope) -> bytes:
    """Return path and query as the service is to see them, byte for byte as they came."""
    raw: bytes = scope["raw_path"]
    match = _PROXY_PATH.match(raw)
    path = raw[match.end() :] if match else raw
    query: bytes = scope["query_string"]
    return (path or b"/") + (b"?" + query if query else b"")


def base36(number: int) -> str:
    """Write a number ≥ 0 in base 36."""
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
    return text or "0"


def _host(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
