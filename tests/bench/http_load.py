"""Plain HTTP/1.1 over kept connections, as fast as Python can: the rows in which no SDK stands between.

usage: http_load.py HOST:PORT CLIENTS REQUESTS METHOD PATH HEADERS-AS-JSON [BODY…]
Clients take the bodies in turn.
Prints {"ms": [each], "wall_s": …, "statuses": {…}} as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

import uvloop


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request, read the whole answer, return its status."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        while (size := int((await reader.readuntil(b"\r\n")).strip(), 16)) > 0:
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    else:
        at = lowered.find(b"content-length:")
        if at >= 0:
            await reader.readexactly(int(lowered[at + 15 : lowered.index(b"\r\n", at)]))
    return int(head[9:12])


async def client(
    address: tuple[str, int], request: bytes, count: int, times: list[float], statuses: Counter[int]
) -> None:
    """One client: *count* requests, one after the other."""
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(count):
        began = time.perf_counter()
        statuses[await exchange(reader, writer, request)] += 1
        times.append((time.perf_counter() - began) * 1000)
    writer.close()


async def main() -> None:
    """Run the clients side by side."""
    where, clients, count, method, path, headers, *bodies = sys.argv[1:]
    host, _, port = where.rpartition(":")
    requests = []
    for body in bodies or [""]:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {where}", f"Content-Length: {len(body.encode())}"]
        lines += [f"{name}: {value}" for name, value in json.loads(headers).items()]
        requests.append(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
    times: list[float] = []
    statuses: Counter[int] = Counter()
    began = time.perf_counter()
    share = int(count) // int(clients)
    work = [requests[number % len(requests)] for number in range(int(clients))]
    await asyncio.gather(*(client((host, int(port)), request, share, times, statuses) for request in work))
    json.dump({"ms": times, "wall_s": time.perf_counter() - began, "statuses": statuses}, sys.stdout)


uvloop.run(main())
