"""Attacks on the edge by services in sandboxes, whose answers the server passes on."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from controlplane.attack.attacks.secrets import PORT, wait_served
from controlplane.attack.client import raw
from controlplane.attack.client.api import Unreachable
from controlplane.attack.client.outcome import Outcome, broken, held
from controlplane.attack.client.program import given
from controlplane.attack.client.target import LEAST_MEMORY, Box, Target

_SERVICE = """
import threading
listener = socket.create_server(("127.0.0.1", port))
def serve(line):
    try:
        line.recv(65536)
        line.sendall(answer)
        while endless:
            line.sendall(endless)
    except OSError:
        pass
    line.close()
while True:
    line, _ = listener.accept()
    threading.Thread(target=serve, args=(line,)).start()
"""
_ENDLESS = {
    "endless 102": (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000),
    "endless head": (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1000),
    "tiny chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
    "endless trailer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 1000),
}
_BAD_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
    b"nonsense\r\n\r\n",
    b"",
)


@contextlib.asynccontextmanager
async def _service(target: Target, answer: bytes, endless: bytes = b"") -> AsyncIterator[Box]:
    async with target.sandbox(memory=LEAST_MEMORY, cpu="500m") as box:
        await box.start(given(_SERVICE, answer=answer, port=PORT, endless=endless))
        yield box


async def endless_services(target: Target) -> Outcome:
    """Ask services that never stop answering; others are served meanwhile."""
    neighbour = await target.neighbour()
    for name, (beginning, piece) in _ENDLESS.items():
        async with _service(target, beginning, piece) as box, raw.Watched(target) as watched:
            for _ in range(20):
                with contextlib.suppress(Unreachable):
                    answer = await target.api.request("GET", box.port(PORT) + "/", timeout_s=3)
                    if answer.status == 502 and b"refused" in answer.body:
                        await asyncio.sleep(0.1)
                        continue
                break
            outcome = held() if await neighbour.answers() else broken("another sandbox answers no more")
        if (outcome := watched.judge(outcome)) != held():
            return broken(f"{name}: {outcome.text}")
    return held(f"{len(_ENDLESS)} ways")


async def bad_answers(target: Target) -> Outcome:
    """Ask services whose answers no server may pass on; the client gets a valid answer, and no connection is lost."""
    for text in _BAD_ANSWERS:
        async with _service(target, text) as box:
            for _ in range(40):
                try:
                    answer = await target.api.request("GET", box.port(PORT) + "/", timeout_s=10)
                except Unreachable as error:
                    return broken(f"{text[:30]!r}: {error}")
                if not (answer.status == 502 and b"refused" in answer.body):
                    break
                await asyncio.sleep(0.05)
            if answer.status == 500 or not 200 <= answer.status < 600:
                return broken(f"{text[:30]!r}: {answer.status}")
    return held(f"{len(_BAD_ANSWERS)} answers")


_ORIGIN_ANSWER = (
    b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2; Domain=example.com; Path=/\r\n"
    b'Service-Worker-Allowed: /\r\nClear-Site-Data: "*"\r\nStrict-Transport-Security: max-age=9\r\n'
    b"Access-Control-Allow-Origin: *\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
)


async def one_origin(target: Target) -> Outcome:
    """Have a service take the origin that sandboxes share in a browser: cookies, workers, data."""
    async with _service(target, _ORIGIN_ANSWER) as box:
        answer = await wait_served(box)
        for name in ("service-worker-allowed", "clear-site-data", "strict-transport-security"):
            if name in answer.headers:
                return broken(f"{name} passes")
        for cookie in answer.headers.get("set-cookie", []):
            path = re.search(r"(?i);\s*path=([^;]*)", cookie)
            if path is None or box.id not in path[1]:
                return broken(f"the cookie {cookie!r} reaches other sandboxes")
            if "domain=" in cookie.lower():
                return broken(f"the cookie {cookie!r} reaches other hosts")
        return held()
