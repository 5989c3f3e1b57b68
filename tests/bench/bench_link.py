"""Measure the link alone: Link on uvloop here, execd's shell with tiny handlers in a process of its own.

`python -m tests.bench.bench_link`; with `--profile` it prints where the control plane's time goes instead. What stands
in the way of every request is the round trip; what a flood of output costs is messages a second; what a file costs is
bytes a second. The processor time of both sides varies less than the clock does on a machine with other work; still,
compare runs in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from websockets.asyncio.server import ServerConnection, unix_serve

from controlplane.link.link import Link
from controlplane.link.stream import Data
from controlplane.link.websocket import LinkSocket
from execd.dispatch import Dispatcher
from execd.server import serve_forever
from execd.wire.aio import MAX_CHUNK_BYTES, Stream
from execd.wire.frames import MAX_PAYLOAD_BYTES, Channel
from execd.wire.messages import (
    Done,
    FileRead,
    FileWrite,
    MetricsRead,
    ProcessList,
    ProcessOutput,
    ProcessState,
    Request,
)

MIB = 1 << 20
ROUND_TRIPS = 4000
SMALL = 50_000
BULK_BYTES = 256 * MIB
LINE = b"12345: a line of output as a program writes\n"


# -- execd's side


async def _done(stream: Stream, _: Request) -> None:
    await stream.send(Done())


async def _messages(stream: Stream, request: ProcessList) -> None:
    state = ProcessState("p", "sleep 1000", 1234, 1.0)
    for _ in range(int(request.id)):
        await stream.send(state)


async def _lines(stream: Stream, request: ProcessOutput) -> None:
    for _ in range(request.offset):
        await stream.write(LINE, Channel.STDOUT)


async def _read(stream: Stream, request: FileRead) -> None:
    chunk = bytes(MAX_PAYLOAD_BYTES)
    for _ in range((request.length or 0) // len(chunk)):
        await stream.write(chunk, Channel.STDOUT)


async def _swallow(stream: Stream, _: FileWrite) -> None:
    while await stream.receive() is not None:
        pass
    await stream.send(Done())


def execd(socket_path: str) -> None:
    """Serve until killed."""
    handlers = {
        MetricsRead: _done,
        ProcessList: _messages,
        ProcessOutput: _lines,
        FileRead: _read,
        FileWrite: _swallow,
    }
    asyncio.run(_serve(socket_path, Dispatcher(handlers)))


async def _serve(socket_path: str, dispatcher: Dispatcher) -> None:
    await serve_forever(socket_path, dispatcher)


# -- the control plane's side


async def round_trips(link: Link) -> dict[str, float]:
    """One call after the other."""
    times = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        await link.call(MetricsRead(), Done)
        times.append((time.perf_counter() - started) * 1e6)
    times.sort()
    return {
        "call p50 µs": statistics.median(times),
        "call p95 µs": times[int(len(times) * 0.95)],
        "call p99 µs": times[int(len(times) * 0.99)],
    }


async def calls_at_once(link: Link) -> dict[str, float]:
    """Fifty callers, each with one call after the other."""
    callers, each = 50, ROUND_TRIPS // 20

    async def caller() -> None:
        for _ in range(each):
            await link.call(MetricsRead(), Done)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return {"calls/s, 50 at once": callers * each / (time.perf_counter() - started)}


async def small_messages(link: Link) -> dict[str, float]:
    """Replies one by one on one stream."""
    started = time.perf_counter()
    async with await link.open(ProcessList(str(SMALL))) as stream:
        while await stream.receive() is not None:
            pass
    return {"messages/s": SMALL / (time.perf_counter() - started)}


async def small_data(link: Link) -> dict[str, float]:
    """Lines of output, each in a frame of its own."""
    started = time.perf_counter()
    async with await link.open(ProcessOutput("p", SMALL)) as stream:
        while await stream.receive() is not None:
            pass
    return {"lines/s": SMALL / (time.perf_counter() - started)}


async def download(link: Link) -> dict[str, float]:
    """64 KiB frames from execd."""
    started = time.perf_counter()
    async with await link.open(FileRead("/f", length=BULK_BYTES)) as stream:
        total = 0
        while isinstance(item := await stream.receive(), Data):
            total += len(item.data)
    assert total == BULK_BYTES
    return {"down MiB/s": BULK_BYTES / MIB / (time.perf_counter() - started)}


async def upload(link: Link) -> dict[str, float]:
    """64 KiB frames to execd."""
    chunk = bytes(MAX_PAYLOAD_BYTES)
    started = time.perf_counter()
    async with await link.open(FileWrite("/f")) as stream:
        for _ in range(BULK_BYTES // len(chunk)):
            await stream.write(chunk)
        stream.end()
        await stream.expect_only(Done)
    return {"up MiB/s": BULK_BYTES / MIB / (time.perf_counter() - started)}


Part = Callable[[Link], Awaitable[dict[str, float]]]

# Each with what it does how often, for the processor time of one.
PARTS: list[tuple[Part, str, int]] = [
    (round_trips, "call", ROUND_TRIPS),
    (calls_at_once, "call at once", 50 * (ROUND_TRIPS // 20)),
    (small_messages, "message", SMALL),
    (small_data, "line", SMALL),
    (download, "MiB down", BULK_BYTES // MIB),
    (upload, "MiB up", BULK_BYTES // MIB),
]


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(repeats: int, profile: bool) -> dict[str, float]:
    """Run all parts in turn, several times; return the median of each number."""
    found: dict[str, list[float]] = {}
    linked: asyncio.Queue[Link] = asyncio.Queue()

    async def answer(websocket: ServerConnection) -> None:
        link = Link("bench", websocket)
        linked.put_nowait(link)
        await link.run()

    with tempfile.TemporaryDirectory() as directory:
        socket_path = str(Path(directory) / "link.sock")
        async with unix_serve(
            answer,
            socket_path,
            create_connection=LinkSocket,
            compression=None,
            ping_interval=None,
            max_size=MAX_CHUNK_BYTES,
        ):
            command = [sys.executable, "-m", "tests.bench.bench_link", "--execd", socket_path]
            process = await asyncio.create_subprocess_exec(*command)
            link = await linked.get()
            await link.wait_hello()
            for _ in range(repeats):
                for part, unit, count in PARTS:
                    if profile:
                        await _profiled(part, link)
                        continue
                    before = cpu_s(os.getpid()), cpu_s(process.pid)
                    numbers = await part(link)
                    numbers[f"  CPU µs a {unit}, here"] = (cpu_s(os.getpid()) - before[0]) / count * 1e6
                    numbers[f"  CPU µs a {unit}, execd"] = (cpu_s(process.pid) - before[1]) / count * 1e6
                    for name, value in numbers.items():
                        found.setdefault(name, []).append(value)
            process.kill()
            await process.wait()
    return {name: statistics.median(values) for name, values in found.items()}


async def _profiled(part: Part, link: Link) -> None:
    with cProfile.Profile() as profile:
        await part(link)
    print(f"== {part.__name__}")
    pstats.Stats(profile).sort_stats("tottime").print_stats(14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--execd", metavar="SOCKET", help="be the other side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    arguments = parser.parse_args()
    if arguments.execd:
        execd(arguments.execd)
        return
    numbers = uvloop.run(measure(1 if arguments.profile else arguments.repeats, arguments.profile))
    for name, value in numbers.items():
        print(f"{name:36}{value:12,.0f}")
    print(f"({os.cpu_count()} cores, median of {arguments.repeats})")
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
