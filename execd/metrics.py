"""The CPU and memory that the sandbox uses, read from its own cgroup; its processes and sockets. No call waits."""

from __future__ import annotations

import os
import time

import msgspec

from execd.dispatch import Handler
from execd.sockets import read_sockets
from execd.wire.aio import Stream
from execd.wire.messages import Metrics, MetricsRead, Request

MIN_INTERVAL_S = 0.05  # CPU time is counted in ticks: over a shorter time a percentage means nothing
UNLIMITED_BYTES = 1 << 60  # cgroup v1 expresses "no limit" by a number close to 2**63
UNKNOWN = -1


class Meter:
    """A reader of the cgroup. A percentage covers the time since the last reading, or since the object was created."""

    def __init__(self, root: str = "/") -> None:
        """Begin to count. *root* is the directory of /proc and /sys."""
        self._root = root.rstrip("/")
        self._group = _find_group(self._root)
        self._machine_cpus = len(os.sched_getaffinity(0))
        self._read_at = time.monotonic()
        self._cpu_s = self._group.cpu_s()
        self._used_pct = 0.0

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return {MetricsRead: self._serve}

    def read(self, *, detail: bool = False) -> Metrics:
        """Return the present usage; in detail, also processes, connections and listening ports."""
        usage = self._usage()
        if not detail:
            return usage
        sockets = read_sockets(self._root)
        return msgspec.structs.replace(
            usage,
            processes=_count_processes(self._root),
            connections=UNKNOWN if sockets is None else sockets.connections,
            ports=() if sockets is None else sockets.ports,
        )

    def _usage(self) -> Metrics:
        machine_bytes = _fields(_read(f"{self._root}/proc/meminfo")).get("MemTotal:", 0) * 1024
        limit = self._group.memory_limit_bytes()
        limits = [size for size in (limit, machine_bytes) if 0 < size < UNLIMITED_BYTES]
        cpu_count = float(self._machine_cpus)
        if (quota := self._group.cpu_quota()) > 0:
            cpu_count = min(cpu_count, quota)
        return Metrics(
            cpu_count=cpu_count,
            cpu_used_pct=self._cpu_used_pct(cpu_count),
            memory_total_bytes=min(limits, default=UNKNOWN),
            memory_used_bytes=self._group.memory_used_bytes(),
            at=time.time(),
        )

    def _cpu_used_pct(self, cpu_count: float) -> float:
        now, cpu_s = time.monotonic(), self._group.cpu_s()
        if cpu_s < 0:
            return UNKNOWN
        if (elapsed_s := now - self._read_at) >= MIN_INTERVAL_S:
            self._used_pct = min(100.0, max(0.0, 100 * (cpu_s - self._cpu_s) / (elapsed_s * cpu_count)))
            self._read_at, self._cpu_s = now, cpu_s
        return self._used_pct

    async def _serve(self, stream: Stream, request: MetricsRead) -> None:
        await stream.send(self.read(detail=request.detail))


class _Machine:
    """The whole machine, in place of a cgroup that cannot be read."""

    def __init__(self, root: str) -> None:
        self._root = root

    def cpu_s(self) -> float:
        ticks = _read(f"{self._root}/proc/stat").partition("\n")[0].split()[1:9]
        if len(ticks) < 8:
            return UNKNOWN
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks)
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

    def cpu_quota(self) -> float:
        return UNKNOWN

    def memory_used_bytes(self) -> int:
        memory = _fields(_read(f"{self._root}/proc/meminfo"))
        if "MemTotal:" not in memory or "MemAvailable:" not in memory:
            return UNKNOWN
        return (memory["MemTotal:"] - memory["MemAvailable:"]) * 1024

    def memory_limit_bytes(self) -> int:
        return UNKNOWN


class _GroupV2(_Machine):
    """cgroup v2: one directory for everything."""

    def __init__(self, root: str, directory: str) -> None:
        super().__init__(root)
        self._directory = directory

    def cpu_s(self) -> float:
        return _fields(_read(f"{self._directory}/cpu.stat")).get("usage_usec", UNKNOWN * 10**6) / 1e6

    def cpu_quota(self) -> float:
        quota, _, period = _read(f"{self._directory}/cpu.max").partition(" ")
        return _ratio(_number(quota), _number(period))

    def memory_used_bytes(self) -> int:
        used = _number(_read(f"{self._directory}/memory.current"))
        return _without(used, _fields(_read(f"{self._directory}/memory.stat")).get("inactive_file", 0))

    def memory_limit_bytes(self) -> int:
        return _number(_read(f"{self._directory}/memory.max"))


class _GroupV1(_Machine):
    """cgroup v1: a directory for each controller."""

    def __init__(self, root: str, cpuacct: str, cpu: str, memory: str) -> None:
        super().__init__(root)
        self._cpuacct, self._cpu, self._memory = cpuacct, cpu, memory

    def cpu_s(self) -> float:
        used_ns = _number(_read(f"{self._cpuacct}/cpuacct.usage"))
        return used_ns / 1e9 if used_ns >= 0 else UNKNOWN

    def cpu_quota(self) -> float:
        return _ratio(_number(_read(f"{self._cpu}/cpu.cfs_quota_us")), _number(_read(f"{self._cpu}/cpu.cfs_period_us")))

    def memory_used_bytes(self) -> int:
        used = _number(_read(f"{self._memory}/memory.usage_in_bytes"))
        return _without(used, _fields(_read(f"{self._memory}/memory.stat")).get("total_inactive_file", 0))

    def memory_limit_bytes(self) -> int:
        return _number(_read(f"{self._memory}/memory.limit_in_bytes"))


def cpu_quota(root: str = "/") -> float:
    """Return how many CPUs the sandbox may use at once, or -1 without a limit.

    *root* is the directory of /proc and /sys.
    """
    return _find_group(root.rstrip("/")).cpu_quota()


def free_memory_bytes(root: str = "/") -> int:
    """Return how much memory the sandbox may still take; UNLIMITED_BYTES if nothing limits it.

    *root* is the directory of /proc and /sys.
    """
    group = _find_group(root.rstrip("/"))
    used, limit = group.memory_used_bytes(), group.memory_limit_bytes()
    return max(0, limit - used) if used >= 0 and 0 < limit < UNLIMITED_BYTES else UNLIMITED_BYTES


def _count_processes(root: str) -> int:
    """Return the number of processes that /proc shows, without the agent itself."""
    try:
        names = os.listdir(f"{root}/proc")
    except OSError:
        return UNKNOWN
    return max(0, sum(map(str.isdecimal, names)) - 1)


def _find_group(root: str) -> _Machine:
    mounts = f"{root}/sys/fs/cgroup"
    paths: dict[str, str] = {}
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update(dict.fromkeys(controllers.split(","), path))

    def directory(mount: str, controller: str, file: str) -> str:
        # In a container the mount is the sandbox's own group, while /proc may still show its path on the host.
        own = mount + paths.get(controller, "").rstrip("/")
        return own if os.path.exists(f"{own}/{file}") else mount

    unified = directory(mounts, "", "memory.current")
    if os.path.exists(f"{unified}/memory.current"):
        return _GroupV2(root, unified)
    memory = directory(f"{mounts}/memory", "memory", "memory.usage_in_bytes")
    if os.path.exists(f"{memory}/memory.usage_in_bytes"):
        cpuacct = directory(f"{mounts}/cpuacct", "cpuacct", "cpuacct.usage")
        return _GroupV1(root, cpuacct, directory(f"{mounts}/cpu", "cpu", "cpu.cfs_quota_us"), memory)
    return _Machine(root)


def _read(path: str) -> str:
    """Return a file of the kernel, or "" if it does not exist."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 64 * 1024).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isdecimal() else UNKNOWN


def _fields(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _ratio(quota: int, period: int) -> float:
    return quota / period if quota > 0 and period > 0 else UNKNOWN


def _without(used: int, cache: int) -> int:
    """Return the memory in use, without the file pages that the kernel would drop first."""
    return max(0, used - cache) if used >= 0 else UNKNOWN
