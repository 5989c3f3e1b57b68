"""The HTTP API of a running server, for the commands."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from controlplane.client.address import is_local
from controlplane.client.answers import NoAnswer, Refused

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 64 << 20
MAX_ERROR_BYTES = 64 << 10
MAX_EVENT_BYTES = 16 << 20  # of one line of server-sent events
PAGE_SIZE = 200
DRAIN_BYTES = 64 << 10
KEY_HEADER = "OPEN-SANDBOX-API-KEY"

Json = dict[str, Any]


class Text(NamedTuple):
    """A text answer, and the headers of the answer."""

    text: str
    headers: Mapping[str, str]


class _Body(NamedTuple):
    """A body that is no JSON."""

    pieces: Iterable[bytes]
    headers: dict[str, str]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirect. A Sandlot server sends none, and a redirect would carry the key away."""

    def redirect_request(self, *_: object) -> None:
        """Follow no redirect."""


class Server:
    """The API of a running server.

    All methods raise NoAnswer if no Sandlot server answers, and Refused for a refusal.
    """

    def __init__(self, address: str, key: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address.rstrip("/").removesuffix("/v1")
        self.key = key
        self._timeout_s = timeout_s
        # A proxy of the environment is meant for other machines.
        proxies = [urllib.request.ProxyHandler({})] if is_local(address) else []
        self._open = urllib.request.build_opener(_NoRedirects, *proxies).open

    def answers(self) -> bool:
        """Return whether a server answers."""
        try:
            self.ask("GET", "/version")
        except NoAnswer:
            return False
        except Refused:
            pass  # a refusal is an answer
        return True

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Send a request; return the JSON of the answer, or None for an empty answer."""
        with self._request(method, path, body) as response:
            return json.loads(response.read(MAX_ANSWER_BYTES) or b"null")

    def text(self, path: str) -> Text:
        """Return a text answer."""
        with self._request("GET", path) as response:
            return Text(response.read(MAX_ANSWER_BYTES).decode(errors="replace"), response.headers)

    def drain(self, path: str, body: object, *, timeout_s: float) -> None:
        """Send a request, and read its answer to the end. The server may be silent for *timeout_s*."""
        with self._request("POST", path, body, timeout_s=timeout_s) as response:
            while response.read(DRAIN_BYTES):
                pass

    def upload(self, path: str, metadata: Json, pieces: Iterable[bytes], size: int) -> None:
        """Write a file of *size* bytes by the upload operation at *path*. *pieces* may raise OSError."""
        boundary = secrets.token_hex(16)
        part = f"--{boundary}\r\nContent-Disposition: form-data; name="
        head = (
            f'{part}"metadata"\r\nContent-Type: application/json\r\n\r\n{json.dumps(metadata)}\r\n'
            f'{part}"file"; filename="file"\r\nContent-Type: application/octet-stream\r\n\r\n'
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        body = _Body(
            itertools.chain((head,), pieces, (tail,)),
            {
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Content-Length": str(len(head) + size + len(tail)),
            },
        )
        with self._request("POST", path, body):
            pass

    def pages(self, path: str) -> Iterator[Json]:
        """Yield the items of all pages of a list."""
        page = 1
        while True:
            answer = self.ask("GET", f"{path}{'&' if '?' in path else '?'}page={page}&pageSize={PAGE_SIZE}")
            yield from answer["items"]
            if not answer["pagination"]["hasNextPage"]:
                return
            page += 1

    def events(self, path: str) -> Iterator[Json]:
        """Yield the data of server-sent events, until the server ends the answer."""
        with self._request("GET", path, accept="text/event-stream", timeout_s=None) as response:
            while line := response.readline(MAX_EVENT_BYTES):
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    @contextlib.contextmanager
    def _request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        accept: str = "*/*",
        timeout_s: float | None = -1.0,
    ) -> Iterator[Any]:
        headers = {KEY_HEADER: self.key, "Content-Type": "application/json", "Accept": accept}
        data: Any = None
        if isinstance(body, _Body):
            data, headers = body.pieces, headers | body.headers
        elif body is not None:
            data = json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, method=method, headers=headers)  # noqa: S310 - http or https, as `is_address` checks
        try:
            with self._open(request, timeout=self._timeout_s if timeout_s == -1.0 else timeout_s) as response:
                yield response
        except urllib.error.HTTPError as error:
            with error:
                code, said = _problem(error.read(MAX_ERROR_BYTES))
                raise Refused(self.address, error.code, code, said) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error) or type(error).__name__
            raise NoAnswer(f"{self.address} does not answer as a Sandlot server does: {reason}") from None


def sandbox_path(sandbox_id: str, rest: str = "") -> str:
    """Return the path of a sandbox in the API."""
    return f"/v1/sandboxes/{quote(sandbox_id, safe='')}{rest}"


def _problem(body: bytes) -> tuple[str, str]:
    """Return code and message of an error's body."""
    try:
        problem = json.loads(body)
        return str(problem.get("code", "")), str(problem["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", body[:200].decode(errors="replace")
