"""`make bench`: measure what DESIGN section 11 promises, print the table, write build/bench.json.

The floor (the SDK against canned replies) is measured in the same run, in turn with the server, because only the
difference is ours. `--peer HOST:PORT` measures another OpenSandbox server by the same client in the same run.
No time fails anything.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from controlplane.runtime.labels import SANDBOX
from tests.support.server.live_server import ROOT, LiveServer, engine_request, sdk_python
from tests.support.server.stream_client import MSGPACK, streaming

HERE = Path(__file__).parent
CREATE = {
    "image": {"uri": "sandlot/code-interpreter"},
    "entrypoint": ["tail", "-f", "/dev/null"],
    "timeout": 600,
    "resourceLimits": {"cpu": "1", "memory": "2Gi"},
}
LARGE = CREATE | {"resourceLimits": {"cpu": "2", "memory": "4Gi"}}


class Table:
    """Rows of numbers, printed as they come and kept for the JSON file."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        print(f"{'operation':44}{'p50':>10}{'p99':>10}  {'unit':8}{'n':>5}  target")

    def add(self, name: str, values: list[float], *, unit: str = "ms", target: str = "") -> None:
        """One row from its samples."""
        if not values:
            return
        ordered = sorted(values)
        p50, p99 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        self.rows.append({"name": name, "p50": p50, "p99": p99, "unit": unit, "n": len(ordered), "target": target})
        print(f"{name:44}{p50:10.2f}{p99:10.2f}  {unit:8}{len(ordered):5}  {target}", flush=True)


def sdk(environment: Mapping[str, str], what: str, rounds: int) -> dict[str, list[float]]:
    """Run the SDK's client script; return its samples in ms."""
    done = subprocess.run(
        [sdk_python(), HERE / "sdk_client.py", what, str(rounds)],
        env=dict(environment),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@contextlib.contextmanager
def canned() -> Iterator[dict[str, str]]:
    """The canned server; yields the SDK's environment for it."""
    with subprocess.Popen([sys.executable, HERE / "canned.py"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        yield {**os.environ, "OPEN_SANDBOX_DOMAIN": f"127.0.0.1:{port}", "OPEN_SANDBOX_API_KEY": "none"}
        process.terminate()


def http(server: LiveServer, clients: int, requests: int, method: str, path: str, *bodies: object) -> dict[str, Any]:
    """Plain HTTP load by a process of its own; all answers must be good."""
    headers = {"OPEN-SANDBOX-API-KEY": server.key, "Content-Type": "application/json"}
    command = [sys.executable, str(HERE / "http_load.py"), server.address.removeprefix("http://")]
    command += [str(clients), str(requests), method, path, json.dumps(headers), *map(json.dumps, bodies)]
    result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300).stdout)
    if set(result["statuses"]) - {"200", "202", "204"}:
        raise RuntimeError(f"{method} {path} answered {result['statuses']}")
    return result  # type: ignore[no-any-return]


def pss(pid: int) -> float:
    """Proportional memory of a process, in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss")


def rss(pid: int) -> float:
    """Resident memory of a process, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"/proc/{pid}/status has no VmRSS")


def agent(server: LiveServer, sandbox: str) -> int:
    """Return the process id of a sandbox's execd."""
    inspected = (engine_request("GET", f"/containers/{one}/json") for one in server.containers())
    return next(one["State"]["Pid"] for one in inspected if one["Config"]["Labels"].get(SANDBOX) == sandbox)


def start_times(table: Table, rounds: int) -> None:
    """From nothing to answering, and to a full pool."""
    healthy, warm = [], []
    for _ in range(rounds):
        server = LiveServer()
        began = time.perf_counter()
        try:
            server.start(until="Sandlot ")
            server.request("GET", "/health")
            healthy.append(time.perf_counter() - began)
            server.wait_line("ready:")
            warm.append(time.perf_counter() - began)
        finally:
            server.__exit__()
    table.add("start to healthy", healthy, unit="s", target="≤ 0.6")
    table.add("start to five warm", warm, unit="s", target="≤ 2")


def through_the_sdk(table: Table, server: LiveServer, rounds: int) -> None:
    """The rows of the unmodified SDK, beside its floor."""
    with canned() as environment:
        floor = sdk(environment, "floor", rounds)
        for row, times in sdk(environment, "at-once-floor", 10).items():
            table.add(f"SDK floor: {row}", times)
        ours = sdk(server.sdk_environment(), "full", rounds)
        more = sdk(environment, "floor", rounds)
    for row in floor:
        table.add(f"SDK floor: {row}", floor[row] + more[row])
    targets = {
        "create": "≤ floor + 5",
        "kill": "≤ 4",
        "command true": "≤ 5",
        "20 commands at once": "≤ 60",
        "seq 1 20000": "≤ 100",
        "write 1 KB": "≤ 3.5",
        "read 1 KB": "≤ 3.5",
        "upload 32 MiB": "≥ 200 MiB/s",
        "download 32 MiB": "≥ 300 MiB/s",
        "first 1+1": "",
        "code 1+1": "≤ 4",
        "new context": "≤ 12",
        "get info": "≤ 3",
        "get metrics": "≤ 4",
        "list": "≤ 4",
    }
    for row, target in targets.items():
        if "32 MiB" in row:
            table.add(f"SDK {row}", [32_000 / ms for ms in ours[row]], unit="MiB/s", target=target)
        else:
            table.add(f"SDK {row}", ours[row], target=target)


def at_once(table: Table, pool: int, count: int, target: str) -> None:
    """Many creates in the same moment, through the SDK; each sandbox is used."""
    with LiveServer(["--pool-size", str(pool)]) as server:
        server.wait_full()
        if pool >= count:
            wall = http(server, count, count, "POST", "/v1/sandboxes", CREATE)["wall_s"]
            table.add(f"plain HTTP {count} creates at once, pool of {pool}", [wall * 1000], target="≤ 30")
            for sandbox in server.request("GET", "/v1/sandboxes")["items"]:
                server.request("DELETE", f"/v1/sandboxes/{sandbox['id']}")
            server.wait_full()
        row = sdk(server.sdk_environment(), "at-once", count)
    for name, times in row.items():
        table.add(f"SDK {name}, pool of {pool}", times, target=target)


def plain_http(table: Table, server: LiveServer) -> None:
    """The rows without an SDK."""
    times = []
    for _ in range(15):
        server.wait_full()
        times += http(server, 1, 1, "POST", "/v1/sandboxes", CREATE)["ms"]
        for sandbox in server.request("GET", "/v1/sandboxes?pageSize=50")["items"]:
            server.request("DELETE", f"/v1/sandboxes/{sandbox['id']}")
    table.add("POST /v1/sandboxes, warm", times, target="≤ 3 (p99 10)")
    server.wait_full()
    sandbox = server.request("POST", "/v1/sandboxes", CREATE)["id"]
    server.wait_full()
    table.add("agent, idle, proportional", [pss(agent(server, sandbox))], unit="MB", target="≤ 12")
    at = f"/v1/sandboxes/{sandbox}/proxy/44772"
    run = {"code": "1+1", "context": {"language": "python"}}
    http(server, 1, 20, "POST", f"{at}/code", run)
    table.add("POST /code 1+1, one client", http(server, 1, 1000, "POST", f"{at}/code", run)["ms"], target="≤ 1.5")
    contexts = [server.request("POST", f"{at}/code/context", {"language": "python"})["id"] for _ in range(10)]
    runs = [{"code": "1+1", "context": {"language": "python", "id": context}} for context in contexts]
    result = http(server, 10, 5000, "POST", f"{at}/code", *runs)
    table.add("executions, ten clients, ten contexts", [5000 / result["wall_s"]], unit="/s", target="≥ 3000")
    result = http(server, 1, 500, "POST", f"{at}/command", {"command": "true"})
    table.add("POST /command true, one client", result["ms"])
    result = http(server, 200, 20_000, "GET", f"{at}/ping")
    table.add("pings, 200 at once", [20_000 / result["wall_s"]], unit="/s", target="≥ 3000")
    server.request("DELETE", f"/v1/sandboxes/{sandbox}")


# For each language: what to run, how long a spare takes to be there again, and the targets of a context and of a run.
LANGUAGES = {
    "python": ("1+1", 0.3, "≤ 12", "≤ 1.5"),
    "javascript": ("1+1", 0.6, "≤ 80", ""),
    "typescript": ("1+1 as number", 0.8, "≤ 80", ""),
    "java": ("1+1", 3.0, "", ""),
    "go": ('fmt.Println("hello")', 0.5, "", "≤ 250"),
    "bash": ("echo $((1 + 1))", 0.1, "≤ 15", ""),
}


def languages(table: Table, server: LiveServer) -> None:
    """Contexts in all six languages of one sandbox, a spare for each of them there."""
    sandbox = server.request("POST", "/v1/sandboxes", LARGE)["id"]
    at = f"/v1/sandboxes/{sandbox}/proxy/44772"
    for language, (code, pause_s, open_target, run_target) in LANGUAGES.items():
        server.request("POST", f"{at}/code/context", {"language": language})
        time.sleep(1.5)  # until the first spare is made, where none was
        opened, first, later = [], [], []
        for _ in range(8):
            time.sleep(pause_s)
            began = time.monotonic()
            context = server.request("POST", f"{at}/code/context", {"language": language})["id"]
            opened.append((time.monotonic() - began) * 1000)
            run = {"code": code, "context": {"id": context}}
            first += http(server, 1, 1, "POST", f"{at}/code", run)["ms"]
            later += http(server, 1, 10, "POST", f"{at}/code", run)["ms"]
            server.request("DELETE", f"{at}/code/contexts/{context}")
        table.add(f"{language}: new context", opened, target=open_target)
        table.add(f"{language}: its first run", first)
        table.add(f"{language}: a run", later, target=run_target)
    imports = []
    for _ in range(8):
        time.sleep(LANGUAGES["python"][1])
        context = server.request("POST", f"{at}/code/context", {"language": "python"})["id"]
        run = {"code": "import pandas", "context": {"id": context}}
        imports += http(server, 1, 1, "POST", f"{at}/code", run)["ms"]
    table.add("python: import pandas in a new context", imports, target="≤ 5")
    before = used_mb(server, at)
    ten = [server.request("POST", f"{at}/code/context", {"language": "python"})["id"] for _ in range(10)]
    http(server, 10, 20, "POST", f"{at}/code", *({"code": "1+1", "context": {"id": one}} for one in ten))
    table.add("python: ten contexts", [used_mb(server, at) - before], unit="MB", target="≤ 80")
    forks(table, server, at)
    table.add("native stream: 1+1", asyncio.run(over_the_stream(server, sandbox, context, 500)), target="≤ 1")
    server.request("DELETE", f"/v1/sandboxes/{sandbox}")


def java_without_a_spare(table: Table, server: LiveServer) -> None:
    """From the wish for a context to the first value, in sandboxes in which no JVM waits."""
    times = []
    for _ in range(8):
        server.wait_full()
        sandbox = server.request("POST", "/v1/sandboxes", LARGE)["id"]
        at = f"/v1/sandboxes/{sandbox}/proxy/44772"
        server.wait_full()
        began = time.monotonic()
        context = server.request("POST", f"{at}/code/context", {"language": "java"})["id"]
        opened = (time.monotonic() - began) * 1000
        run = {"code": "1+1", "context": {"id": context}}
        times += [opened + ran for ran in http(server, 1, 1, "POST", f"{at}/code", run)["ms"]]
        server.request("DELETE", f"/v1/sandboxes/{sandbox}")
        server.wait_gone()
    table.add("java: context and first value, no JVM waits", times, target="≤ 450")


def small_sandbox(table: Table, server: LiveServer) -> None:
    """What a sandbox takes in which nothing runs but the agent and its entrypoint; and a list of ten."""
    asked = CREATE | {"image": {"uri": "sandlot/base"}}
    sandboxes = [server.request("POST", "/v1/sandboxes", asked)["id"] for _ in range(10)]
    used = [used_mb(server, f"/v1/sandboxes/{one}/proxy/44772") for one in sandboxes]
    table.add("sandbox of sandlot/base, in all", used, unit="MB", target="≤ 16")
    table.add("GET /v1/sandboxes, ten", http(server, 1, 200, "GET", "/v1/sandboxes")["ms"], target="≤ 4")
    for one in sandboxes:
        server.request("DELETE", f"/v1/sandboxes/{one}")
    server.wait_gone()


def forks(table: Table, server: LiveServer, at: str) -> None:
    """Copies of a context that holds a large array, and the memory that they add."""
    context = server.request("POST", f"{at}/code/context", {"language": "python"})["id"]
    hold = {"code": "import numpy; big = numpy.ones(62_500_000); len(big)", "context": {"id": context}}
    http(server, 1, 1, "POST", f"{at}/code", hold)
    before = used_mb(server, at)
    copies, times = [], []
    for _ in range(10):
        began = time.monotonic()
        copies += server.request("POST", f"{at}/code/contexts/{context}/fork?count=1")
        times.append((time.monotonic() - began) * 1000)
    look = [{"code": "float(big[-1])", "context": {"id": copy["id"]}} for copy in copies]
    http(server, len(look), len(look), "POST", f"{at}/code", *look)
    table.add("python: fork of a context with 500 MB", times, target="≤ 30")
    table.add("python: ten such forks", [used_mb(server, at) - before], unit="MB")
    for one in (context, *(copy["id"] for copy in copies)):
        server.request("DELETE", f"{at}/code/contexts/{one}")


def isolated(table: Table, rounds: int) -> None:
    """Isolated sessions of one sandbox, and a run in each."""
    with LiveServer(["--pool-size", "0", "--allow-user-namespaces", "true"]) as server:
        asked = CREATE | {"extensions": {"bootstrap.execd.isolation": "enable"}}
        at = f"/v1/sandboxes/{server.request('POST', '/v1/sandboxes', asked)['id']}/proxy/44772/v1/isolated/session"
        for mode in ("rw", "overlay"):
            opened, ran = [], []
            for _ in range(rounds):
                began = time.monotonic()
                session = server.request("POST", at, {"workspace": {"path": "/srv", "mode": mode}})["session_id"]
                opened.append((time.monotonic() - began) * 1000)
                ran += http(server, 1, 20, "POST", f"{at}/{session}/run", {"code": "true"})["ms"]
                server.request("DELETE", f"{at}/{session}")
            table.add(f"isolated session, {mode}: created", opened)
            table.add(f"isolated session, {mode}: run true", ran)


def used_mb(server: LiveServer, at: str) -> float:
    """Memory that a sandbox uses, in MB."""
    return float(server.request("GET", f"{at}/metrics")["mem_used_mib"]) * 1.048576


async def over_the_stream(server: LiveServer, sandbox: str, context: str, count: int) -> list[float]:
    """Times of runs one after another on one native stream, in ms."""
    url = f"{server.address.replace('http', 'ws')}/v1/sandboxes/{sandbox}/stream"
    times = []
    async with streaming(url, subprotocol=MSGPACK, headers={"OPEN-SANDBOX-API-KEY": server.key}) as client:
        await client.hello()
        for _ in range(count):
            began = time.monotonic()
            await client.ask("run", code="1+1", context=context)
            times.append((time.monotonic() - began) * 1000)
    return times[count // 10 :]


def cold(table: Table, server: LiveServer, name: str, target: str, rounds: int) -> None:
    """Creates of an image that has no pool."""
    times = []
    for _ in range(rounds):
        times += http(server, 1, 1, "POST", "/v1/sandboxes", CREATE | {"image": {"uri": "sandlot/base"}})["ms"]
        for sandbox in server.request("GET", "/v1/sandboxes")["items"]:
            server.request("DELETE", f"/v1/sandboxes/{sandbox['id']}")
        server.wait_gone()
    table.add(f"POST /v1/sandboxes, cold, {name}", times, target=target)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="Measure Sandlot through the official SDK and through plain HTTP.")
    parser.add_argument(
        "--peer", metavar="HOST:PORT", help="measure this OpenSandbox server as well, by the same client"
    )
    parser.add_argument("--peer-key", default="", help="its API key")
    parser.add_argument("--rounds", type=int, default=20, help="samples of the slow rows (default: 20)")
    options = parser.parse_args()
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )
    print(f"{machine}; {time.strftime('%Y-%m-%d %H:%M')}; make bench")
    table = Table()
    start_times(table, 3)
    with LiveServer() as server:
        table.add("server, resident, idle", [rss(server.pid)], unit="MB", target="≤ 70")
        server.wait_full()
        through_the_sdk(table, server, options.rounds)
        plain_http(table, server)
        small_sandbox(table, server)
        languages(table, server)
        java_without_a_spare(table, server)
        table.add("server, resident, after all this", [rss(server.pid)], unit="MB")
    isolated(table, options.rounds)
    at_once(table, 10, 10, "≤ floor + 50")
    at_once(table, 5, 100, "100 of 100, ≥ 5 /s")
    for flag, name, target in (("false", "no network", "≤ 220"), ("true", "network", "≤ 350")):
        with LiveServer(["--pool-size", "0", "--allow-network", flag]) as server:
            cold(table, server, name, target, options.rounds)
    if options.peer:
        environment = {**os.environ, "OPEN_SANDBOX_DOMAIN": options.peer, "OPEN_SANDBOX_API_KEY": options.peer_key}
        for row, values in sdk(environment, "full", options.rounds).items():
            table.add(f"peer: {row}", values)
    target = ROOT / "build" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"machine": machine, "at": time.time(), "rows": table.rows}, indent=1))
    print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
