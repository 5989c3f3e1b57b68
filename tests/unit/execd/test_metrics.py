"""What a sandbox uses, read from trees of files as kernels show them inside a container."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from execd import metrics
from execd.metrics import Meter
from execd.sockets import MAX_TABLE_BYTES
from execd.wire.messages import MAX_PORTS
from tests.support.clock import Clock

MEMINFO = "MemTotal:       8000000 kB\nMemFree:         100 kB\nMemAvailable:   6000000 kB\n"
V2 = {
    "proc/meminfo": MEMINFO,
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 5000000\nuser_usec 1\nsystem_usec 2\n",
    "sys/fs/cgroup/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/memory.current": "500000000\n",
    "sys/fs/cgroup/memory.max": "1000000000\n",
    "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 200000000\nactive_file 7\n",
}
V1 = {
    "proc/meminfo": MEMINFO,
    "proc/self/cgroup": "4:memory:/docker/abc\n2:cpuacct,cpu:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n",
    "sys/fs/cgroup/cpuacct/cpuacct.usage": "5000000000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "500000000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000000\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 200000000\n",
}
MACHINE = {
    "proc/meminfo": MEMINFO,
    "proc/stat": "cpu  100 100 100 99999 99999 50 50 100 0 0\ncpu0 1 2 3\n",
}


SOCKETS = {
    "proc/net/tcp": (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n"
        "   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1\n"
        "   2: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 3 1\n"
        "   3: 0100007F:1F90 0100007F:C002 06 00000000:00000000 00:00000000 00000000     0        0 4 1\n"
    ),
    "proc/net/tcp6": (
        "  sl  local_address                         remote_address                        st\n"
        "   0: 00000000000000000000000000000000:0BB8 00000000000000000000000000000000:0000 0A 0:0 0:0 0\n"
        "   1: 00000000000000000000000001000000:0BB9 00000000000000000000000000000000:0000 0A 0:0 0:0 0\n"
        "   2: nonsense:0BB9 00000000000000000000000000000000:0000 0A 0:0 0:0 0\n"
        "   3: 000000000000"
    ),
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics.time, "monotonic", clock)
    return clock


@pytest.fixture
def cpus() -> int:
    return len(os.sched_getaffinity(0))


def show(root: Path, files: Mapping[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_memory_and_cpus_are_those_of_the_group(tmp_path: Path, files: Mapping[str, str]) -> None:
    read = Meter(show(tmp_path, files)).read()
    assert read.memory_used_bytes == 300_000_000  # without what the kernel would drop
    assert read.memory_total_bytes == 1_000_000_000
    assert read.cpu_count == 0.5


@pytest.mark.parametrize(
    ("files", "later"),
    [
        (V1, {"sys/fs/cgroup/cpuacct/cpuacct.usage": "5250000000\n"}),
        (V2, {"sys/fs/cgroup/cpu.stat": "usage_usec 5250000\n"}),
    ],
    ids=["v1", "v2"],
)
def test_cpu_is_a_share_of_what_the_group_may_use_since_the_reading_before(
    tmp_path: Path, clock: Clock, files: Mapping[str, str], later: Mapping[str, str]
) -> None:
    meter = Meter(show(tmp_path, files))
    clock.now += 1
    show(tmp_path, later)
    assert meter.read().cpu_used_pct == pytest.approx(50)  # a quarter of a second in one, of half a CPU
    clock.now += 1
    assert meter.read().cpu_used_pct == 0


def test_readings_close_to_one_another_repeat_the_last_share(tmp_path: Path, clock: Clock) -> None:
    meter = Meter(show(tmp_path, V2))
    clock.now += 1
    show(tmp_path, {"sys/fs/cgroup/cpu.stat": "usage_usec 5250000\n"})
    assert meter.read().cpu_used_pct == pytest.approx(50)
    clock.now += 0.001
    show(tmp_path, {"sys/fs/cgroup/cpu.stat": "usage_usec 5260000\n"})
    assert meter.read().cpu_used_pct == pytest.approx(50)
    clock.now += 0.999
    assert meter.read().cpu_used_pct == pytest.approx(2)


def test_a_share_is_never_more_than_all_and_never_negative(tmp_path: Path, clock: Clock) -> None:
    meter = Meter(show(tmp_path, V2))
    clock.now += 1
    show(tmp_path, {"sys/fs/cgroup/cpu.stat": "usage_usec 95000000\n"})
    assert meter.read().cpu_used_pct == 100
    clock.now += 1
    show(tmp_path, {"sys/fs/cgroup/cpu.stat": "usage_usec 1\n"})
    assert meter.read().cpu_used_pct == 0


@pytest.mark.parametrize(
    ("files", "unlimited"),
    [
        (
            V1,
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
        ),
        (V2, {"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"}),
    ],
    ids=["v1", "v2"],
)
def test_without_limits_it_is_the_machine_that_limits(
    tmp_path: Path, cpus: int, files: Mapping[str, str], unlimited: Mapping[str, str]
) -> None:
    read = Meter(show(tmp_path, {**files, **unlimited})).read()
    assert read.cpu_count == cpus
    assert read.memory_total_bytes == 8_000_000 * 1024
    assert read.memory_used_bytes == 300_000_000


def test_a_limit_above_the_machine_is_no_limit(tmp_path: Path, cpus: int) -> None:
    above = {"sys/fs/cgroup/cpu.max": "6400000 100000\n", "sys/fs/cgroup/memory.max": "90000000000\n"}
    read = Meter(show(tmp_path, {**V2, **above})).read()
    assert read.cpu_count == cpus
    assert read.memory_total_bytes == 8_000_000 * 1024


def test_a_group_below_the_mount_is_found_by_its_path(tmp_path: Path) -> None:
    """As an ordinary process, or in a container that shares the host's cgroup namespace."""
    inner = {name.replace("cgroup/", "cgroup/system/app/"): text for name, text in V2.items() if "sys/" in name}
    inner["sys/fs/cgroup/system/app/memory.max"] = "700000000\n"
    read = Meter(show(tmp_path, {**V2, **inner, "proc/self/cgroup": "0::/system/app\n"})).read()
    assert read.memory_total_bytes == 700_000_000


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_free_is_what_the_limit_leaves_beside_cached_files(tmp_path: Path, files: Mapping[str, str]) -> None:
    assert metrics.free_memory_bytes(show(tmp_path, files)) == 700_000_000


def test_without_a_limit_memory_is_free(tmp_path: Path) -> None:
    unlimited = {**V2, "sys/fs/cgroup/memory.max": "max\n"}
    assert metrics.free_memory_bytes(show(tmp_path, unlimited)) == metrics.UNLIMITED_BYTES


def test_limits_changed_later_are_seen(tmp_path: Path) -> None:
    """The engine resizes a warm container when it is claimed."""
    meter = Meter(show(tmp_path, V2))
    show(tmp_path, {"sys/fs/cgroup/cpu.max": "25000 100000\n", "sys/fs/cgroup/memory.max": "600000000\n"})
    assert (meter.read().cpu_count, meter.read().memory_total_bytes) == (0.25, 600_000_000)


def test_without_a_group_the_machine_is_read(tmp_path: Path, clock: Clock, cpus: int) -> None:
    meter = Meter(show(tmp_path, MACHINE))
    clock.now += 1
    ticks = os.sysconf("SC_CLK_TCK")
    show(tmp_path, {"proc/stat": f"cpu  {100 + ticks} 100 100 99999 99999 50 50 100 0 0\n"})
    read = meter.read()
    assert read.cpu_used_pct == pytest.approx(100 / cpus)
    assert (read.cpu_count, read.memory_total_bytes) == (cpus, 8_000_000 * 1024)
    assert read.memory_used_bytes == 2_000_000 * 1024


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/meminfo": "", "proc/self/cgroup": "x", "proc/stat": "cpu\n"},
        {
            **dict.fromkeys((name for name in V2 if "sys/" in name), "what?\n"),
            "proc/meminfo": "MemTotal: what? kB\nnothing\n",
        },
    ],
    ids=["nothing", "empty", "nonsense"],
)
def test_what_the_kernel_does_not_tell_is_minus_one(tmp_path: Path, clock: Clock, files: Mapping[str, str]) -> None:
    meter = Meter(show(tmp_path, files))
    clock.now += 1
    read = meter.read()
    assert (read.cpu_used_pct, read.memory_total_bytes, read.memory_used_bytes) == (-1, -1, -1)


def test_this_machine_tells_something() -> None:
    read = Meter().read()
    assert 0 < read.memory_used_bytes <= read.memory_total_bytes
    assert read.cpu_count > 0
    assert 0 <= read.cpu_used_pct <= 100
    assert read.at > 1_700_000_000


def test_processes_connections_and_ports_are_told_in_detail(tmp_path: Path) -> None:
    processes = {f"proc/{number}/stat": "" for number in (1, 7, 40)}
    meter = Meter(show(tmp_path, {**V2, **SOCKETS, **processes}))
    assert (meter.read().processes, meter.read().ports) == (-1, ())
    told = meter.read(detail=True)
    assert (told.processes, told.connections) == (2, 1)
    assert [(one.port, one.address) for one in told.ports] == [
        (80, "0.0.0.0"),
        (3000, "::"),
        (3001, "::1"),
        (8080, "127.0.0.1"),
    ]


def test_a_sandbox_without_tables_of_sockets(tmp_path: Path) -> None:
    told = Meter(show(tmp_path, V2)).read(detail=True)
    assert (told.connections, told.ports) == (-1, ())


def test_the_told_ports_are_bounded(tmp_path: Path) -> None:
    lines = "".join(f"{n}: 00000000:{n + 1:04X} 00000000:0000 0A 0 0 0 0 0\n" for n in range(MAX_PORTS + 10))
    told = Meter(show(tmp_path, {**V2, "proc/net/tcp": "head\n" + lines})).read(detail=True)
    assert [one.port for one in told.ports] == list(range(1, MAX_PORTS + 1))


def test_a_table_without_end_is_read_in_part(tmp_path: Path) -> None:
    line = "0: 00000000:0050 00000000:0000 01 0 0 0 0 0\n"
    endless = "head\n" + line * (2 * MAX_TABLE_BYTES // len(line))
    told = Meter(show(tmp_path, {**V2, "proc/net/tcp": endless})).read(detail=True)
    assert 0 < told.connections <= MAX_TABLE_BYTES // len(line)
