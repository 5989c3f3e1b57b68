"""The client of the battery: requests as users send them, and bytes as nobody should."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

KEY_HEADER = "OPEN-SANDBOX-API-KEY"
MAX_ANSWER_BYTES = 4 << 20  # of an answer that is kept; the rest is not read
REQUEST_TIMEOUT_S = 20.0
HEALTH_INTERVAL_S = 0.1
HEALTH_PATIENCE_S = 2.0  # generous: over a network, and beside other load, an answer may take a while
CLOSE_S = 1.0


class Unreachable(Exception):
    """The server does not answer."""


class Answer(msgspec.Struct, frozen=True):
    """An answer; `headers` are in lower case, and a header that comes twice has both values in its list."""

    status: int
    headers: dict[str, list[str]]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    def json(self) -> object:
        """Return the body as JSON; None if it is none."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return None


class Reaction(msgspec.Struct, frozen=True):
    """What the server did about bytes on a raw connection."""

    sent: int  # bytes that it took
    received: bytes
    closed: bool  # by the server

    @property
    def statuses(self) -> list[int]:
        """The status of every HTTP answer that came back."""
        return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", self.received)]


class Memory(msgspec.Struct, frozen=True):
    """The resident size of the server now, and the largest that it has had, in bytes."""

    resident: int
    peak: int

    def growth_since(self, before: Memory) -> int:
        """Return by how much it is larger now, or was meanwhile; 0 where one of both is not known."""
        pairs = ((before.resident, self.resident), (before.peak, self.peak))
        return max((after - then for then, after in pairs if then and after), default=0)


class Api:
    """One server, as a client with an API key sees it. Use it as `async with`."""

    def __init__(self, server: str, key: str) -> None:
        """Connect to *server*, `http://host[:port]` or https."""
        parts = urlsplit(server)
        self.server = f"{parts.scheme}://{parts.netloc}"
        self.host = parts.hostname or ""
        self.is_tls = parts.scheme == "https"
        self.port = parts.port or (443 if self.is_tls else 80)
        self.key = key

    async def __aenter__(self) -> Self:
        # A connection of its own for each request: what an attack does to one must not meet the next.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        data: bytes | AsyncIterator[bytes] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Answer:
        """Send a request with our key, with another *key*, or with none ("").

        Raises:
            Unreachable: no answer, or none within the time.
        """
        sent = dict(headers or {})
        if (used := self.key if key is None else key) != "":
            sent[KEY_HEADER] = used
        if json is not None:
            data = msgspec.json.encode(json)
            sent.setdefault("Content-Type", "application/json")
        try:
            async with self._session.request(
                method,
                URL(self.server + path, encoded=True),
                headers=sent,
                data=io.BytesIO(data) if isinstance(data, bytes) else data,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as answer:
                body = await _read(answer.content)
                names = {name.lower() for name in answer.headers}
                return Answer(answer.status, {name: list(answer.headers.getall(name)) for name in names}, body)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise Unreachable(f"{method} {path[:80]}: {type(error).__name__}: {error}"[:300]) from error

    @contextlib.asynccontextmanager
    async def stream(self, method: str, path: str, *, json: object) -> AsyncIterator[aiohttp.StreamReader]:
        """Send a request; yields its answer as it comes. Raises Unreachable when it is refused."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_S)
        body, headers = msgspec.json.encode(json), {KEY_HEADER: self.key, "Content-Type": "application/json"}
        try:
            async with self._session.request(
                method, self.server + path, data=body, headers=headers, timeout=timeout
            ) as answer:
                if answer.status != 200:
                    raise Unreachable(f"{method} {path}: {answer.status} {(await _read(answer.content))[:200]!r}")
                yield answer.content
        except aiohttp.ClientError as error:
            raise Unreachable(f"{method} {path}: {error}") from error

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a TCP (or TLS) connection for bytes of one's own. Raises Unreachable."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.is_tls or None)
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"{self.server}: {error}") from error
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def send_raw(
        self, data: bytes | AsyncIterator[bytes], *, patience_s: float = CLOSE_S, enough: int = 1 << 20
    ) -> Reaction:
        """Send bytes on a connection of their own; see what the server does until it closes or *patience_s* passes.

        *enough* bytes of answer are kept. Raises Unreachable if there is no connection.
        """
        async with self.connection() as (reader, writer):
            received = bytearray()
            listening = asyncio.ensure_future(_listen(reader, received, enough))
            sent = await _send(writer, data, listening)
            done, _ = await asyncio.wait([listening], timeout=patience_s)
            listening.cancel()
            return Reaction(sent, bytes(received), bool(done) or writer.transport.is_closing())

    async def health_s(self) -> float:
        """Return how long GET /health takes, in s. Raises Unreachable."""
        began = time.monotonic()
        answer = await self.request("GET", "/health", key="", timeout_s=HEALTH_PATIENCE_S * 5)
        if answer.status != 200:
            raise Unreachable(f"GET /health: {answer.status}")
        return time.monotonic() - began

    async def memory(self) -> Memory:
        """Return the resident size of the server; zeros if it does not tell, or not us."""
        answer = await self.request("GET", "/metrics")
        found = dict(re.findall(r"^sandlot_server_(memory|peak_memory)_bytes (\S+)$", answer.text, re.MULTILINE))
        return Memory(int(float(found.get("memory", 0))), int(float(found.get("peak_memory", 0))))


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            break
    return bytes(body)


async def _listen(reader: asyncio.StreamReader, received: bytearray, enough: int) -> None:
    """Read until the server closes."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            if len(received) < enough:
                received += chunk


async def _send(
    writer: asyncio.StreamWriter, data: bytes | AsyncIterator[bytes], listening: asyncio.Future[None]
) -> int:
    """Send until the server closes, or takes nothing for a while; return how many bytes it took."""
    sent = 0
    with contextlib.suppress(OSError, TimeoutError):
        async for chunk in _chunks(data):
            if listening.done():
                break
            writer.write(chunk)
            async with asyncio.timeout(CLOSE_S):
                await writer.drain()
            sent += len(chunk)
    return sent


async def _chunks(data: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    async for chunk in data:
        yield chunk


class Watch:
    """Asks for /health while an attack goes on; `worst_s` is the longest it took."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.worst_s = 0.0

    async def __aenter__(self) -> Self:
        self._watching = asyncio.ensure_future(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching
        with contextlib.suppress(Unreachable):
            self.worst_s = max(self.worst_s, await self._api.health_s())
            return
        self.worst_s = max(self.worst_s, HEALTH_PATIENCE_S * 5)

    async def _ask(self) -> None:
        while True:
            began = time.monotonic()
            with contextlib.suppress(Unreachable):
                await self._api.health_s()
            self.worst_s = max(self.worst_s, time.monotonic() - began)
            await asyncio.sleep(HEALTH_INTERVAL_S)

    @property
    def complaint(self) -> str:
        """What was wrong, or ""."""
        return f"/health took {self.worst_s:.1f} s meanwhile" if self.worst_s > HEALTH_PATIENCE_S else ""
