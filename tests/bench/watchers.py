"""Clients that watch an activity and read as fast as they can: a process of their own.

usage: watchers.py HOST:PORT COUNT PATH HEADERS-AS-JSON
Prints a line when all are connected. At the end of stdin it prints what they have read as JSON, and ends.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop


class Watcher:
    """One connection. Counts bytes, and entries that were skipped."""

    def __init__(self) -> None:
        self.read_bytes = self.events = self.skipped = 0

    async def watch(self, host: str, port: int, request: bytes, begun: asyncio.Event) -> None:
        """Read until the connection ends."""
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        while data := await reader.read(1 << 20):
            self.read_bytes += len(data)
            self.events += data.count(b"\ndata: ")
            self.skipped += data.count(b'"type":"skipped"')


async def main() -> None:
    """Watch until stdin ends."""
    where, count, path, headers = sys.argv[1:]
    host, _, port = where.rpartition(":")
    lines = [f"GET {path} HTTP/1.1", f"Host: {where}", "Accept: text/event-stream"]
    lines += [f"{name}: {value}" for name, value in json.loads(headers).items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    watchers = [Watcher() for _ in range(int(count))]
    begun = [asyncio.Event() for _ in watchers]
    tasks = [
        asyncio.create_task(each.watch(host, int(port), request, event))
        for each, event in zip(watchers, begun, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    print("watching", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    print(json.dumps([{"bytes": w.read_bytes, "events": w.events, "skipped": w.skipped} for w in watchers]))


if __name__ == "__main__":
    uvloop.run(main())
