"""The addresses of a sandbox's port: by path, by a host name of its own, and both of them signed.

    /sandboxes/{id}/proxy/{port}/…                              with the sandbox's token, or an API key
    /sandboxes/{id}/signed/{port}/{expires}/{signature}/…       by itself, until it expires: also for a browser
    {port}-{id}.{domain}                                        for what uses absolute paths
    {port}-{id}-{expires}-{signature}.{domain}                  without the dashes of the id

`PortAddresses` turns the others into the first, so that all that follows knows one of them only. `expires` is Unix time
in base 36. A domain is a setting; `localhost` is one always, because browsers resolve its names by themselves.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

# Ports of every sandbox at which this server itself answers: the contracts of execd and of the egress sidecar.
EXECD_PORT = 44772
EGRESS_PORT = 18080

SCOPE_KEY = "sandlot.address"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MAX_EXPIRES = 36**7 - 1  # Unix time, s: the year 4453; seven digits fit into a host name

_PATH = re.compile(
    r"(?P<prefix>(?:/v1)?/sandboxes/(?P<id>[^/]+)/signed/(?P<port>\d{1,5})/(?P<expires>[0-9a-z]{1,10})/"
    r"(?P<signature>[a-z2-7]{1,32}))(?P<rest>/.*)?",
    re.ASCII | re.DOTALL,
)
# A UUID with or without its dashes, or an id of an earlier release.
_UUID_DIGITS = 32
_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{16}"
_LABEL = re.compile(
    rf"(?P<port>\d{{1,5}})-(?P<id>{_ID})(?:-(?P<expires>[0-9a-z]{{1,10}})-(?P<signature>[a-z2-7]{{1,32}}))?",
    re.ASCII | re.IGNORECASE,
)
_ENDPOINT_PATH = re.compile(rb"(?:/v1)?/sandboxes/(?P<id>[^/]+)/proxy/(?P<port>[^/]+)")
_PROXY_PATH = re.compile(rb"(?:/v1)?/sandboxes/[^/]+/proxy/(?:%d(?P<through>/proxy/[^/]+)|[^/]+)" % EXECD_PORT)


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
        """Find ports by names below *domain*, host[:port]; "": below localhost only."""
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
            rest = match["rest"] or ""
            raw = scope["raw_path"][len(match["prefix"].encode()) :]  # the prefix is ASCII, and not encoded
            prefix = match["prefix"]
        elif (name := self._name.fullmatch(_host(scope))) and (match := _LABEL.fullmatch(name[1])):
            prefix, rest, raw = "", path, scope["raw_path"]
        else:
            return
        signed = (match["expires"].lower(), match["signature"].lower()) if match["signature"] else ("", "")
        to = f"/v1/sandboxes/{_whole_id(match['id'])}/proxy/{match['port']}"
        scope["path"], scope["raw_path"] = to + rest, to.encode() + raw
        scope[SCOPE_KEY] = Address(prefix, *signed)


def signed_label(sandbox_id: str, port: int | str, expires: str, signature: str) -> str:
    """Return the first label of a signed host name: at most 63 characters, as DNS has it (RFC 1035, 2.3.4)."""
    return f"{port}-{sandbox_id.replace('-', '')}-{expires}-{signature}"


def _whole_id(text: str) -> str:
    """Return the id that a host name means; a signed one names a UUID without its dashes."""
    return str(uuid.UUID(text)) if len(text) == _UUID_DIGITS else text.lower()


def address_of(scope: Scope) -> Address:
    """Return how a request came to a port."""
    address = scope.get(SCOPE_KEY)
    match = _PROXY_PATH.match(scope["raw_path"])
    if not isinstance(address, Address):
        return Address(match[0].decode("latin-1") if match else "")
    if match and match["through"]:  # one port by way of another, as the official agent has it
        return address._replace(prefix=address.prefix + match["through"].decode("latin-1"))
    return address


def port_of(scope: Scope) -> tuple[str, str, str] | None:
    """Return the id of the sandbox, the port that the address names, and path and query after it, if it is one."""
    match = _ENDPOINT_PATH.match(scope["raw_path"])
    if match is None:
        return None
    query = scope["query_string"]
    rest = scope["raw_path"][match.end() :] + (b"?" + query if query else b"")
    return match["id"].decode("latin-1"), match["port"].decode("latin-1"), rest.decode("latin-1")


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
