"""What an activity costs: `python -m tests.bench.bench_activity [ROUNDS [WORK …]]`.

One server for each level, on the real engine. In each round every variant runs in turn: the levels without watchers,
and the levels with ten watchers, which are a process of their own. A row has the median time of a request, and the CPU
time that the server and the agent took for it: the latter says more on a machine that does other things. No time fails
anything.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.__main__ import CREATE, agent, http
from tests.support.server.live_server import LiveServer

HERE = Path(__file__).parent
WATCHERS = 10


class Work(NamedTuple):
    """What runs in a round: so many requests, by so many clients at once."""

    path: str
    body: dict[str, Any]
    requests: int
    clients: int = 1


WORK = {
    "code 1+1": Work("code", {"code": "1+1", "context": {"language": "python"}}, 200),
    "command echo": Work("command", {"command": "echo hello"}, 200),
    # A machine that does other things is slow for one client. With several, as much happens in a second as otherwise.
    "echo, 8 clients": Work("command", {"command": "echo hello"}, 400, 8),
    "command, 1 MB": Work("command", {"command": "head -c 1000000 /dev/zero | tr '\\0' x | fold -w 100"}, 20),
    "command, 50 MB": Work("command", {"command": "head -c 50000000 /dev/zero | tr '\\0' x | fold -w 1000"}, 2),
}


class Variant(NamedTuple):
    """A server, and how many watch the sandbox."""

    name: str
    server: LiveServer
    sandbox: str
    watchers: int


class Sample(NamedTuple):
    """One round of one variant."""

    ms: float  # median of a request
    cpu_ms: float  # of server and agent, for a request


def cpu_s(pid: int) -> float:
    """Return the CPU time that the living threads of a process have taken."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


@contextlib.contextmanager
def watched(variant: Variant) -> Iterator[list[dict[str, int]]]:
    """Watch a sandbox inside of the block; afterwards, the list has what each watcher read."""
    found: list[dict[str, int]] = []
    if not variant.watchers:
        yield found
        return
    headers = json.dumps({"OPEN-SANDBOX-API-KEY": variant.server.key})
    where, path = variant.server.address.removeprefix("http://"), f"/v1/sandboxes/{variant.sandbox}/activity"
    # Not from the beginning: what was kept before is read once, and not what is measured.
    status = variant.server.request("GET", f"{path}?limit=1")
    command = [
        sys.executable,
        HERE / "watchers.py",
        where,
        str(variant.watchers),
        f"{path}?after={status['last']}",
        headers,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        yield found
        process.stdin.close()
        found += json.loads(process.stdout.read())


def measure(variant: Variant, work: str) -> tuple[Sample, list[dict[str, int]]]:
    """Run one kind of work once."""
    path, body, count, clients = WORK[work]
    pids = [variant.server.pid, agent(variant.server, variant.sandbox)]
    with watched(variant) as seen:
        before = sum(map(cpu_s, pids))
        result = http(
            variant.server, clients, count, "POST", f"/v1/sandboxes/{variant.sandbox}/proxy/44772/{path}", body
        )
        cpu_ms = (sum(map(cpu_s, pids)) - before) * 1000 / count
    return Sample(statistics.median(result["ms"]), cpu_ms), seen


def main() -> None:
    """Measure, and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with contextlib.ExitStack() as stack:
        variants = []
        for level in ("off", "outline", "full"):
            server = stack.enter_context(LiveServer(["--pool-size", "1", "--activity-keep", level]))
            sandbox = server.request("POST", "/v1/sandboxes", CREATE | {"timeout": 3600})["id"]
            variants += [Variant(level, server, sandbox, 0)]
            if level != "off":
                variants += [Variant(f"{level}, {WATCHERS} watchers", server, sandbox, WATCHERS)]
        print(
            f"{'work':18}{'activity':22}{'ms':>9}{'against off':>12}{'CPU ms':>9}{'against off':>12}  seen by a watcher"
        )
        for work in sys.argv[2:] or WORK:
            samples: dict[str, list[Sample]] = {variant.name: [] for variant in variants}
            seen: dict[str, list[dict[str, int]]] = {}
            for variant in variants:
                measure(variant, work)  # the first of each is not counted
            for _ in range(rounds):
                for variant in variants:
                    sample, seen[variant.name] = measure(variant, work)
                    samples[variant.name].append(sample)
            show(work, samples, seen)


def show(work: str, samples: dict[str, list[Sample]], seen: dict[str, list[dict[str, int]]]) -> None:
    """Print the rows of one kind of work: medians over the rounds, and the least of a watcher's."""
    base = samples["off"]
    for name, found in samples.items():
        ms, cpu = (statistics.median(getattr(each, field) for each in found) for field in ("ms", "cpu_ms"))
        off_ms, off_cpu = (statistics.median(getattr(each, field) for each in base) for field in ("ms", "cpu_ms"))
        watched_by = min(seen[name], key=lambda each: each["bytes"]) if seen[name] else None
        told = f"{watched_by['bytes'] / 1e6:.1f} MB, {watched_by['skipped']} gaps" if watched_by else ""
        print(
            f"{work:18}{name:22}{ms:9.2f}{100 * (ms / off_ms - 1):+11.1f}%{cpu:9.2f}"
            f"{100 * (cpu / max(off_cpu, 0.01) - 1):+11.1f}%  {told}",
            flush=True,
        )


if __name__ == "__main__":
    main()
