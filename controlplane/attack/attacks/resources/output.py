"""Attacks on the server by what commands print."""

from __future__ import annotations

from controlplane.attack.attacks.resources.survival import attack, is_left_alone
from controlplane.attack.client.api import Watch
from controlplane.attack.client.outcome import Outcome, broken, held, unclear
from controlplane.attack.client.program import command, given
from controlplane.attack.client.target import LEAST_MEMORY, Target

MAX_GROWTH_BYTES = 192 << 20  # of the server, while one sandbox sends all it can

FLOOD_BYTES = 64 << 20

SLOW_READ_BYTES = 32 << 20

_PRINT = """
for _ in range(count):
    os.write(1, block * (65536 // len(block)))
"""

_FLOOD = given(_PRINT, block=b"y\n", count=FLOOD_BYTES // 65536)

_ONE_LINE = given(_PRINT, block=b"y" * 64, count=FLOOD_BYTES // 65536)

_EMPTY_LINES = given(_PRINT, block=b"\n", count=64)

_GARBAGE = """
for _ in range(128):
    os.write(1, os.urandom(65536))
"""


async def _floods(target: Target, source: str) -> Outcome:
    """Have a command print all it can, to a client who reads it and to one who does not."""
    before = await target.api.memory()
    async with target.sandbox(memory=LEAST_MEMORY, cpu="1") as box, Watch(target.api) as watch:
        argv = command(source)[0]
        read = 0
        async with target.api.stream("POST", f"{box.agent}/command", json={"argv": argv, "timeout": 20000}) as unread:
            async with target.api.stream(
                "POST", f"{box.agent}/command", json={"argv": argv, "timeout": 20000}
            ) as lines:
                async for chunk in lines.iter_any():
                    read += len(chunk)
                    if read > SLOW_READ_BYTES:
                        break
            await unread.read(1024)
        if not read:
            return unclear("the command printed nothing")
        growth = (await target.api.memory()).growth_since(before)
        if growth > MAX_GROWTH_BYTES:
            return broken(f"the server grew by {growth >> 20} MiB")
        outcome = await is_left_alone(
            target, box, held(f"{read >> 20} MiB read, {growth >> 20} MiB more in the server")
        )
    return broken(watch.complaint) if watch.complaint else outcome


async def _output(target: Target) -> Outcome:
    return await _floods(target, _FLOOD)


async def _one_line(target: Target) -> Outcome:
    return await _floods(target, _ONE_LINE)


async def _empty_lines(target: Target) -> Outcome:
    return await _floods(target, _EMPTY_LINES)


async def _garbage(target: Target) -> Outcome:
    return await _floods(target, _GARBAGE)


_REPORT = "report it, with the server's log: output is bounded by the reader's pace, and no reader may cost others"


ATTACKS = (
    attack(
        "output",
        f"Print {FLOOD_BYTES >> 20} MiB to a client who reads and to one who does not",
        "The server's memory is bounded, and /health and the neighbour answer meanwhile",
        _output,
        _REPORT,
    ),
    attack(
        "one-line",
        f"Print {FLOOD_BYTES >> 20} MiB without a newline",
        "The server's memory is bounded, and /health and the neighbour answer meanwhile",
        _one_line,
        _REPORT,
    ),
    attack(
        "empty-lines",
        "Print millions of empty lines",
        "The server's memory is bounded, and /health and the neighbour answer meanwhile",
        _empty_lines,
        _REPORT,
    ),
    attack(
        "garbage",
        "Print bytes that are no text, with control characters",
        "Clients get valid events; the server and the neighbour answer meanwhile",
        _garbage,
        _REPORT,
    ),
)
