"""A soak: many clients of the official SDKs on one server for minutes. No operation fails; its memory stays flat."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.support.server.live_server import LiveServer, sdk_python

PROGRAM = Path(__file__).with_name("sdk_clients.py")
SAMPLE_S = 0.5
# Caches fill in the beginning: the first part does not count. Later each minute may add so much, of the noise that
# requests under way make.
WARM_UP = 0.4
MAX_GROWTH_BYTES = 24 << 20
# Whoever asks first has the first value first, but for those whose container was ready and those beside it in the line.
MAX_OVERTAKEN_SHARE = 0.5  # of the clients
LEAST_OVERTAKEN = 4
_ERROR = re.compile(r'"level": ?"(error|critical)"')
# The official SDKs ask for 2 GiB for each sandbox: two hundred are more than most machines have.
FLAGS = ("--pool-size", "5", "--memory-overcommit", "1000", "--cpu-overcommit", "1000")


class Load(msgspec.Struct, frozen=True):
    """How much is asked of the server."""

    seconds: int
    clients: int
    live: int
    commands: int
    seed: int = 1


class Memory(threading.Thread):
    """Notes the resident memory of a process every half second, until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int]] = []  # seconds since the beginning, bytes
        self._pid = pid
        self._began = time.monotonic()
        self._stopped = threading.Event()

    def run(self) -> None:
        """Called by the thread."""
        while not self._stopped.wait(SAMPLE_S):
            pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
            self.samples.append((time.monotonic() - self._began, pages * 4096))

    def stop(self) -> None:
        """Take no more samples."""
        self._stopped.set()
        self.join()


def soak(load: Load) -> dict[str, Any]:
    """Run; return what happened. Raises RuntimeError when the clients did not end well."""
    sdk = sdk_python()
    with LiveServer(FLAGS) as server:
        memory = Memory(server.pid)
        memory.start()
        arguments = [str(value) for value in (load.seconds, load.clients, load.live, load.commands, load.seed)]
        clients = subprocess.Popen(
            [sdk, PROGRAM, *arguments],
            env=server.sdk_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        work_ends_at = _wait_crowd(clients, memory)
        said, complaints = clients.communicate()
        memory.stop()
        if clients.returncode:
            raise RuntimeError(f"the clients ended with {clients.returncode}: {complaints[-3000:]}")
        server.wait_gone()
        log = server.log
    return summary(load, json.loads(said.splitlines()[-1]), memory.samples, work_ends_at, log)


def _wait_crowd(clients: subprocess.Popen[str], memory: Memory) -> float:
    """Return when the clients have worked, in seconds of the memory's clock: the crowd needs memory of its own."""
    assert clients.stdout is not None
    clients.stdout.readline()
    return memory.samples[-1][0] if memory.samples else 0.0


def summary(
    load: Load, said: Mapping[str, Any], samples: Sequence[tuple[float, int]], work_ends_at: float, log: str
) -> dict[str, Any]:
    """Return what happened, for JSON."""
    working = [sample for sample in samples if sample[0] <= work_ends_at]
    return {
        **msgspec.to_builtins(load),
        "operations": {name: _figures(took) for name, took in sorted(said["took_ms"].items())},
        "failures": said["failures"],
        "first_values_overtaken": most_overtaken(said["firsts"]),
        "memory_mib": {"first": _mib(samples[0][1]), "most": _mib(max(size for _, size in samples))},
        "growth_bytes": growth_bytes(working),
        "server_errors": sorted({line[:300] for line in log.splitlines() if _ERROR.search(line)}),
    }


def _figures(took_ms: Sequence[float]) -> dict[str, float]:
    ordered = sorted(took_ms)
    at = {f"p{share}_ms": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95, 99)}
    return {"count": len(ordered), **{name: round(value, 1) for name, value in at.items()}}


def _mib(size: int) -> float:
    return round(size / (1 << 20), 1)


def growth_bytes(samples: Sequence[tuple[float, int]]) -> int:
    """Return by how much memory grew after the warm-up: the slope of a straight line through it, times its length."""
    steady = samples[int(len(samples) * WARM_UP) :]
    if len(steady) < 10:
        return 0
    mean_at = sum(at for at, _ in steady) / len(steady)
    mean_size = sum(size for _, size in steady) / len(steady)
    spread = sum((at - mean_at) ** 2 for at, _ in steady)
    slope = sum((at - mean_at) * (size - mean_size) for at, size in steady) / spread
    return round(slope * (steady[-1][0] - steady[0][0]))


def most_overtaken(firsts: Sequence[tuple[float, float]]) -> int:
    """Return how many at most were asked for after a first value and came before it."""
    return max(
        (sum(asked < later and came < answered for later, came in firsts) for asked, answered in firsts), default=0
    )


def complaints(result: Mapping[str, Any]) -> list[str]:
    """Return what was not as it should be. Times are no complaint."""
    found = list(result["failures"])
    if result["growth_bytes"] > MAX_GROWTH_BYTES:
        found.append(f"the server's memory grew by {_mib(result['growth_bytes'])} MiB while it should have been flat")
    if result["first_values_overtaken"] > max(LEAST_OVERTAKEN, MAX_OVERTAKEN_SHARE * result["clients"]):
        found.append(f"a first value was overtaken by {result['first_values_overtaken']} others: the line has no order")
    return found + [f"the server's log: {line}" for line in result["server_errors"]]


def table(result: Mapping[str, Any]) -> str:
    """Return the summary for people."""
    return "\n".join(_lines(result))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{result['clients']} clients for {result['seconds']} s, "
        f"then {result['live']} sandboxes and {result['commands']} commands at once"
    )
    yield ""
    yield f"{'operation':<24}{'count':>8}{'p50 ms':>11}{'p95 ms':>11}{'p99 ms':>11}"
    for name, figures in result["operations"].items():
        times = "".join(f"{figures[f'p{share}_ms']:>11,.1f}" for share in (50, 95, 99))
        yield f"{name:<24}{figures['count']:>8}{times}"
    memory = result["memory_mib"]
    yield ""
    yield f"memory of the server: {memory['first']:g} MiB in the beginning, {memory['most']:g} at most"
    yield f"growth after the warm-up: {_mib(result['growth_bytes']):g} MiB"
    yield f"a first value was overtaken by {result['first_values_overtaken']} others at most"
    found = complaints(result)
    yield ""
    yield f"failed: {len(found)}"
    yield from (f"  {complaint}" for complaint in found[:50])
