"""Headers of a service's answer that carry addresses, as its client has to see them.

A service does not know the address by which its client came: the prefix of a path, or the host name. The service names
its own paths, the host that it was told, or the loopback that it listens on. `PortView` turns these into addresses
that the client can use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import Scope

from controlplane.api.edge.addresses import address_of, port_of, target_of
from controlplane.api.edge.origins import is_our_cookie

RawHeaders = list[tuple[bytes, bytes]]

# RFC 9110, 10.2.2 and 8.7; the source maps' own specification.
_URLS = frozenset((b"location", b"content-location", b"sourcemap", b"x-sourcemap"))
# These speak to a reverse proxy before us, which would fetch its own files for a stranger; or of more than this origin.
_NEVER = frozenset((b"x-accel-redirect", b"x-sendfile", b"x-lighttpd-send-file", b"alt-svc", b"clear-site-data"))
# At a path address the origin is not the service's alone, and these speak of the whole of it.
_OF_THE_ORIGIN = frozenset(
    b"service-worker-allowed strict-transport-security public-key-pins public-key-pins-report-only expect-ct nel "
    b"report-to reporting-endpoints origin-agent-cluster accept-ch critical-ch".split()
)
# RFC 9110, section 7.6.1: these speak of one connection, not of the request.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade".split()
)
_WHOLE = re.compile(r"(?:(https?):)?//([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_AUTHORITY = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(\d*))?", re.ASCII | re.IGNORECASE)
_REFRESH = re.compile(r"(\s*[\d.]*\s*[;,\s]\s*(?:url\s*=\s*)?)(['\"]?)([^'\"]*)(.*)", re.IGNORECASE | re.DOTALL)
_REALM = re.compile(r"(\brealm\s*=\s*)(?:\"([^\"]*)\"|([^\s,\"]+))", re.IGNORECASE)
_LINK = re.compile(r"<([^<>]*)>")
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|0\.0\.0\.0|\[::1?\]", re.ASCII | re.IGNORECASE)
_DOTS = re.compile(r"(?:(?<=/)|^)(?:\.|%2e){1,2}(?=/|$)", re.IGNORECASE)  # browsers take %2e for a dot here
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NATIVE_PORTS = (44772, 18080)  # ours, whatever a service calls them


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """Return the headers that are for the other end, without those of this connection alone."""
    headers = list(headers)
    named = {
        word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")
    }
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP | named]


class _Host(NamedTuple):
    name: str
    port: int | None  # None: the scheme's


class PortView:
    """One request's addresses, as its client and as the service see them."""

    def __init__(self, scope: Scope) -> None:
        came = Headers(raw=scope["headers"])
        hosts = (came.get("host", ""), came.get("x-forwarded-host", "").partition(",")[0].strip())
        self._told = {host for text in hosts if (host := _host(text)) is not None}
        self._host = _host(hosts[0])
        self._scheme = scope["scheme"].replace("ws", "http")
        address = address_of(scope)
        self.prefix = address.prefix
        self._is_signed = bool(address.signature)
        self._path = target_of(scope).decode("latin-1").partition("?")[0]
        self._sandbox_id, _, _ = port_of(scope) or ("", "", "")
        self._port = int(scope["path_params"]["port"])

    def headers(self, headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
        """Return the headers of an answer for the client."""
        dropped = _NEVER | _OF_THE_ORIGIN if self.prefix else _NEVER
        kept = [
            (name, self._value(name.lower(), value.decode("latin-1")).encode("latin-1"))
            for name, value in headers
            if name.lower() not in dropped and not (name.lower() == b"set-cookie" and _is_ours(value))
        ]
        if self._is_signed and not any(name.lower() == b"referrer-policy" for name, _ in kept):
            kept.append((b"Referrer-Policy", b"same-origin"))  # the host name is the credential
        return kept

    def _value(self, name: bytes, value: str) -> str:
        if name in _URLS:
            return self.url(value)
        if name == b"link":
            return _LINK.sub(lambda match: f"<{self.url(match[1])}>", value)
        if name == b"refresh" and (match := _REFRESH.fullmatch(value)) is not None:
            return f"{match[1]}{match[2]}{self.url(match[3])}{match[4]}"
        if name == b"set-cookie":
            return self.cookie(value)
        if name == b"www-authenticate" and self.prefix:
            return self.challenge(value)
        return value

    def url(self, url: str) -> str:
        """Translate one URL or reference. A URL of another host stays unchanged."""
        if (whole := _WHOLE.fullmatch(url)) is not None:
            return self._whole(url, whole[1] or "", whole[2], whole[3])
        if url.startswith("/"):
            return self._below(self.prefix, url)
        if self.prefix and _DOTS.search(re.split(r"[?#]", url, maxsplit=1)[0]) and not _SCHEME.match(url):
            directory = self._path.rpartition("/")[0]
            return self._below(self.prefix, f"{directory}/{url}")  # it may climb, but not out
        return url

    def cookie(self, cookie: str) -> str:
        """Bind a cookie to the service: to its host name, or to its prefix.

        Without a path, a cookie is for the directory of the request (RFC 6265, section 5.1.4).
        """
        first, *rest = cookie.split(";")
        kept, path = [first], ""
        for attribute in rest:
            name, _, value = attribute.partition("=")
            match name.strip().lower():
                case "domain":
                    continue  # it would reach the services beside this one
                case "path" if self.prefix:
                    path = value.strip()
                case _:
                    kept.append(attribute)
        if self.prefix:
            if not path.startswith("/"):
                path = self._path.rpartition("/")[0] or "/"
            kept.append(f" Path={self._below(self.prefix, path)}")
        return ";".join(kept)

    def challenge(self, challenge: str) -> str:
        """Give a realm to the service alone.

        A browser sends a password to every service that names the same realm at the same origin. A realm of Digest is
        part of the answer's hash, and stays; such an answer is no password.
        """
        if "digest" in challenge.lower():
            return challenge
        return _REALM.sub(lambda match: f'{match[1]}"{match[2] or match[3] or ""} {self.prefix}/"', challenge)

    def _whole(self, url: str, scheme: str, authority: str, rest: str) -> str:
        host = _host(authority)
        if host is None:
            return url
        rest = rest if rest.startswith("/") else f"/{rest}"
        if self._is_told(host, scheme.lower() or self._scheme):
            return self._below(self.prefix, rest) if self.prefix else url
        port = _DEFAULT_PORTS[scheme.lower() or "http"] if host.port is None else host.port
        if port == self._port and (_LOOPBACK.fullmatch(host.name) or host.name in {told.name for told in self._told}):
            return self._below(self.prefix, rest)
        if _LOOPBACK.fullmatch(host.name) and scheme.lower() != "https" and not self._is_signed:
            return self._at_port(port, rest) or url
        return url

    def _is_told(self, host: _Host, scheme: str) -> bool:
        default = _DEFAULT_PORTS[scheme]
        return any(host.name == told.name and (host.port or default) == (told.port or default) for told in self._told)

    def _at_port(self, port: int, rest: str) -> str:
        """Return the address of another port of the sandbox, which the same token opens; "" if that is none."""
        if port in _NATIVE_PORTS or not 0 < port < 1 << 16:
            return ""
        if self.prefix:
            return self._below(f"/v1/sandboxes/{self._sandbox_id}/proxy/{port}", rest)
        _, _, domain = self._host.name.partition(".") if self._host is not None else ("", "", "")
        suffix = f":{self._host.port}" if self._host is not None and self._host.port else ""
        return f"//{port}-{self._sandbox_id}.{domain}{suffix}{rest}" if domain else ""

    @staticmethod
    def _below(prefix: str, path: str) -> str:
        """Put a path below a prefix, unless the service has done that: we tell it the prefix."""
        path = _without_dots(path)
        if not prefix and path.startswith("//"):
            return f"/.{path}"  # a path, not another host
        return path if re.match(re.escape(prefix) + r"(?:[/?#]|$)", path) else prefix + path


def _is_ours(cookie: bytes) -> bool:
    """Return whether a service sets a cookie by a name of the console's."""
    return is_our_cookie(cookie.partition(b"=")[0].decode("latin-1"))


def _without_dots(url: str) -> str:
    """Resolve the dot segments of an absolute path as a client does (RFC 3986, section 5.2.4)."""
    path = re.split(r"[?#]", url, maxsplit=1)[0]
    if not _DOTS.search(path):
        return url
    kept: list[str] = []
    segments = path.split("/")[1:]
    for number, segment in enumerate(segments, start=1):
        dots = segment.lower().replace("%2e", ".")
        if dots == "..":
            del kept[-1:]
        elif dots != ".":
            kept.append(segment)
        if dots in (".", "..") and number == len(segments):
            kept.append("")
    return "/" + "/".join(kept) + url[len(path) :]


def _host(authority: str) -> _Host | None:
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    return _Host(match[1].lower(), int(match[2]) if match[2] and len(match[2]) < 6 else None)
