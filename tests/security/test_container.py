"""Attacks from inside a container, each with its required outcome. The containers are the Docker driver's, unchanged.

Attackers are root inside unless a test says otherwise: the engine runs their programs, which then have exactly what
execd and its children have.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.runtime.docker import containers
from controlplane.runtime.docker.hardening import CAPABILITIES
from controlplane.runtime.driver import ContainerState
from controlplane.runtime.events import EventKind
from controlplane.sandbox import Limits, Network
from tests.contract.driver import LIMITS, PATIENCE_S, following, only
from tests.contract.worlds import DockerWorld, Ran
from tests.support.server.boxes import PYTHON, Box, running

# capability.h
_CAPABILITY_BITS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
}
# System calls by which kernels have been attacked: x86-64 and arm64.
_SYSCALLS = {
    "x86_64": {"keyctl": 250, "perf_event_open": 298, "bpf": 321, "userfaultfd": 323, "open_by_handle_at": 304},
    "aarch64": {"keyctl": 219, "perf_event_open": 241, "bpf": 280, "userfaultfd": 282, "open_by_handle_at": 265},
}


@pytest.fixture
async def hardened(world: DockerWorld) -> AsyncIterator[Box]:
    async with running(world, hardened=True) as box:
        yield box


# -- the host


async def test_no_socket_of_the_host_but_the_link(box: Box) -> None:
    """Neither the engine's nor any other socket is in the container's file system."""
    assert (await box.sh("find / -type s -not -path '/proc/*' 2>/dev/null")).output == "/run/sandlot/link.sock"


async def test_what_is_lent_cannot_be_changed(world: DockerWorld) -> None:
    """The agent, the link's directory and the hosts file are shared with others, and stay as they are."""
    attacks = (
        "touch /run/sandlot/x",
        "rm /run/sandlot/link.sock",
        "ln -sf /etc/passwd /run/sandlot/link.sock",
        "mv /run/sandlot /run/elsewhere",
        "chmod 777 /run/sandlot/link.sock",
        "touch /opt/execd/x",
        "echo evil > /opt/execd/boot.pyc",
        "cp /bin/sh /opt/execd/bin/python3",
        "mv /opt/execd /opt/mine",
        "echo evil >> /etc/hosts",
        "mount -o remount,rw /opt/execd",
        "mount -o remount,rw,bind /opt/execd",
        "mount -o remount,rw /run/sandlot",
        "mount -o remount,rw,bind /run/sandlot",
        "mount -o remount,rw,bind /etc/hosts",
        "umount /opt/execd",
        "umount -l /run/sandlot",
        "umount /etc/hosts",
    )

    driver = await world.with_own_execd()
    try:
        async with running(world, driver) as box:
            assert await box.successful(attacks) == []
            untouched = "test -S /run/sandlot/link.sock && test -x /opt/execd/bin/python3"
            assert (await box.sh(untouched)).exit_code == 0
    finally:
        await driver.aclose()


@pytest.mark.parametrize("user", ["root", "1000"])
async def test_no_namespace_and_no_mount(box: Box, user: str) -> None:
    """Nobody inside can make a mount, a namespace, or a user namespace in which he would be more than he is."""
    assert (await box.sh("mkdir -p /m")).exit_code == 0
    attacks = (
        "mount -t tmpfs tmpfs /m",
        "mount -t proc proc /m",
        "mount --bind / /m",
        "mount -t cgroup -o memory cgroup /m",
        "mount -t cgroup2 cgroup2 /m",
        "mount -t overlay overlay -o lowerdir=/etc,upperdir=/tmp,workdir=/var/tmp /m",
        "unshare --user true",
        "unshare --user --map-root-user --mount true",
        "unshare --mount true",
        "unshare --net true",
        "unshare --pid --fork true",
        "unshare --cgroup true",
        "nsenter --target 1 --mount true",
        "nsenter --target 1 --net true",
        "chroot / true",
        "hostname other",
        "dmesg",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
    )

    assert await box.successful(attacks, user=user) == []


async def test_no_device_nodes(box: Box) -> None:
    """Neither a disk nor memory nor FUSE can be reached through a node made inside."""
    kinds = ("b 254 0", "b 8 0", "c 1 1", "c 10 229")

    assert await box.successful([f"mknod /tmp/node {kind}" for kind in kinds]) == []


async def test_no_devices_of_the_host(box: Box) -> None:
    """What is in /dev are the few that every program expects; no disk among them."""
    assert (await box.sh("find /dev -type b")).output == ""
    names = ("mem", "kmsg", "fuse", "kvm", "net/tun", "vsock", "vhost-vsock")
    assert await box.successful([f"test -e /dev/{name}" for name in names]) == []


async def test_kernel_settings_cannot_be_written(box: Box) -> None:
    """Not even opened for writing; nothing is written, so that a hole would hurt nobody's machine."""
    source = """
import os
paths = [
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/irq/default_smp_affinity",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
]
for root, _, names in os.walk("/sys/fs/cgroup"):
    paths += [os.path.join(root, name) for name in names]
for path in paths:
    try:
        os.open(path, os.O_WRONLY)
        print("open:", path)
    except OSError:
        pass
print(len(paths))
"""
    ran = await box.python(source)

    assert ran.exit_code == 0
    assert "open:" not in ran.output
    assert int(ran.output) > 30  # some cgroup files were among them


async def test_kernel_internals_cannot_be_read(box: Box) -> None:
    """The engine's masks are in place: what is there is empty."""
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"):
        assert (await box.sh(f"cat {path}/* {path} 2>/dev/null | head -c 1 | wc -c")).output == "0", path


@pytest.mark.parametrize("user", ["root", "1000"])
async def test_dangerous_system_calls_are_refused(box: Box, user: str) -> None:
    """EPERM or ENOSYS from the engine's seccomp profile; EINVAL would mean that the kernel looked at it."""
    for name, number in _SYSCALLS[platform.machine()].items():
        ran = await box.sh(f"perl -e 'syscall({number}, -1, 0, 0, 0, 0, 0); print $!+0'", user=user)
        assert ran.output in ("1", "38"), name


async def test_raw_and_packet_sockets_are_refused(box: Box) -> None:
    """Without NET_RAW nobody forges packets."""
    for kind in ("AF_INET, socket.SOCK_RAW, 1", "AF_PACKET, socket.SOCK_RAW, 3"):
        ran = await box.python(f"import socket; socket.socket(socket.{kind})")
        assert "Operation not permitted" in ran.output


# -- privileges


async def test_process_1_has_what_we_say_and_no_more(box: Box) -> None:
    """The capabilities of the list, no new privileges, a seccomp filter, our OOM score, no core files."""
    status = dict(line.split(":", 1) for line in (await box.sh("cat /proc/1/status")).output.splitlines())
    ours = sum(1 << _CAPABILITY_BITS[name] for name in CAPABILITIES)

    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == int(status["CapPrm"], 16) == ours
    assert int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert (await box.sh("cat /proc/1/oom_score_adj; grep 'core file' /proc/1/limits")).output.split()[0] == "500"
    assert (await box.sh("ulimit -c; ulimit -Hc")).output.split() == ["0", "0"]


async def test_setuid_programs_give_nothing(box: Box) -> None:
    """A root-owned set-id program run by another user runs as that user."""
    assert (await box.sh("cp /usr/bin/id /tmp/id && chmod 6755 /tmp/id")).exit_code == 0

    assert (await box.sh("/tmp/id -u; /tmp/id -g", user="1000:1000")).output.split() == ["1000", "1000"]


async def test_file_capabilities_cannot_be_made(box: Box) -> None:
    """A program cannot be given capabilities, not even by root."""
    ran = await box.python(
        "import os; os.setxattr('/bin/true', 'security.capability', bytes.fromhex('0100000200040000') + bytes(12))"
    )

    assert "Operation not permitted" in ran.output


async def test_packages_install_all_the_same(box: Box) -> None:
    """What the few capabilities are for: a package with users, owners and a set-id program, and a process of others."""
    script = """
        set -e
        mkdir -p /pkg/DEBIAN /pkg/usr/bin /pkg/var/lib/thing
        printf 'Package: thing\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y>\\nDescription: x\\n' \\
            > /pkg/DEBIAN/control
        printf '#!/bin/sh\\nset -e\\nuseradd --system thing\\nchown thing:thing /var/lib/thing\\n' \\
            > /pkg/DEBIAN/postinst
        chmod 755 /pkg/DEBIAN/postinst
        cp /bin/true /pkg/usr/bin/thing
        chown 33:33 /pkg/usr/bin/thing
        chmod 6755 /pkg/usr/bin/thing
        dpkg-deb --build /pkg /thing.deb
        dpkg --install /thing.deb
        stat --format '%u %g %a' /usr/bin/thing
        stat --format '%U %G' /var/lib/thing
        su --shell /bin/sh thing -c 'touch /var/lib/thing/mine'
        echo over >> /var/lib/thing/mine
        setpriv --reuid thing --regid thing --clear-groups sleep 60 &
        kill $!
        wait $! || echo ended with $?
    """
    ran = await box.sh(script)

    told = [line for line in ran.output.splitlines() if line != "Terminated"]  # some shells say so
    assert told[-3:] == ["33 33 6755", "thing thing", "ended with 143"], ran.output


async def test_other_processes_are_invisible(box: Box) -> None:
    """Process 1 is execd, and there is nothing of the host's."""
    assert (await box.sh("tr '\\0' ' ' < /proc/1/cmdline")).output.startswith("/opt/execd/bin/python3 ")
    pids = (await box.sh("ls /proc | grep -E '^[0-9]+$' | wc -l")).output
    assert int(pids) < 8


async def test_the_host_is_not_named(box: Box) -> None:
    """The host name is one for all, and no container id shows in it or in the cgroup's path."""
    assert (await box.sh("hostname")).output == "sandbox"
    assert box.id[:12] not in (await box.sh("cat /proc/self/cgroup /etc/hostname /etc/hosts")).output


# -- no network


async def test_without_network_only_loopback(box: Box) -> None:
    """One interface, no route, nothing reachable."""
    assert (await box.sh("ls /sys/class/net")).output == "lo"
    assert len((await box.sh("cat /proc/net/route")).output.splitlines()) <= 1
    for address in ("172.17.0.1", "169.254.169.254", "192.0.2.1"):
        ran = await box.python(f"import socket; socket.create_connection(({address!r}, 80), 5)")
        assert "Network is unreachable" in ran.output


async def test_loopback_works_as_programs_expect(box: Box) -> None:
    """It is up, also on low ports; `localhost` and the host's own name lead to it."""
    source = """
import socket
for family, bind in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    listener = socket.create_server((bind, 80), family=family)
    socket.create_connection((bind, 80), 5)
    listener.accept()
    listener.close()
"""
    assert await box.python(source) == Ran(0, "")
    assert (await box.python(source, user="1000")).exit_code == 0
    assert "127.0.0.1" in (await box.sh("getent ahosts localhost")).output
    assert "127.0.0.1" in (await box.sh("getent ahosts $(hostname)")).output


# -- with a network


async def test_sandboxes_cannot_reach_each_other(world: DockerWorld) -> None:
    """A server in one is reached by itself and by the host, and by no neighbour, on no address of its own."""
    serve = """
import os, socket
listener = socket.create_server(("::", 8000), family=socket.AF_INET6, dualstack_ipv6=True)
if os.fork():
    os._exit(0)  # it listens
os.closerange(0, 3)
while True:
    listener.accept()[0].close()
"""
    connect = "import socket, sys; socket.create_connection((sys.argv[1], 8000), 2)"
    async with running(world, network=Network.BRIDGE) as victim, running(world, network=Network.BRIDGE) as attacker:
        assert (await victim.python(serve)).exit_code == 0
        address = await victim.address()
        _, writer = await asyncio.open_connection(address, 8000)
        writer.close()

        for source, reached in ((victim, True), (attacker, False)):
            ran = await world.run_inside(source.id, *PYTHON, connect, address)
            assert (ran.exit_code == 0) is reached, ran.output

        local = [
            ":".join(word[at : at + 4] for at in range(0, 32, 4))
            for word, *_, name in map(str.split, (await victim.sh("cat /proc/net/if_inet6")).output.splitlines())
            if name == "eth0"
        ]
        for address in local:
            ran = await world.run_inside(attacker.id, *PYTHON, connect, f"{address}%eth0")
            assert ran.exit_code != 0, ran.output


@pytest.mark.attack(
    "network",
    "a sandbox asks the engine's DNS for the names of the addresses around it",
    "no name holds the id of a sandbox or of an installation",
)
async def test_names_of_neighbours_tell_nothing(world: DockerWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that held the id, as of earlier releases, would be told."""
    async with running(world, network=Network.BRIDGE) as attacker, running(world, network=Network.BRIDGE) as victim:
        told = (await attacker.sh(f"getent hosts {await victim.address()}")).output
        known = {container.sandbox_id for container in await world.driver.containers.list()} | {world.instance}
        assert told
        assert not [word for word in known if word in told]

        monkeypatch.setattr(containers, "_name_of", lambda spec, instance: f"sandlot-{spec.sandbox_id}")
        async with running(world, network=Network.BRIDGE) as named:
            told = (await attacker.sh(f"getent hosts {await named.address()}")).output
            assert "sandlot-" in told


async def test_network_is_not_more_than_a_network(world: DockerWorld) -> None:
    """With a network there is no further capability: no packets of one's own making, no settings."""
    async with running(world, network=Network.BRIDGE) as box:
        assert (await box.sh("ls /sys/class/net")).output.split() == ["eth0", "lo"]
        ran = await box.python("import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)")
        assert "Operation not permitted" in ran.output
        assert (await box.sh("echo 1 > /proc/sys/net/ipv4/ip_forward")).exit_code != 0


# -- resources


async def test_fork_bomb_is_bounded(world: DockerWorld, box: Box) -> None:
    """It stops at the limit of processes; the engine still answers, others still start, and it can be removed."""
    source = """
import os, signal
count = 0
try:
    while os.fork():
        count += 1
    signal.pause()
except BlockingIOError:
    print(count, flush=True)
    os.kill(0, signal.SIGKILL)
"""
    ran = await box.python(source)
    assert LIMITS.pids // 2 < int(ran.output.splitlines()[0]) < LIMITS.pids

    await world.start_inside(box.id, "sh", "-c", "bomb() { bomb | bomb & }; bomb")
    async with asyncio.timeout(PATIENCE_S), running(world) as other:
        assert (await other.sh("echo alive")).output == "alive"
        await world.driver.containers.destroy(box.id)
    assert await world.leftovers() == []


async def test_memory_bomb_kills_only_the_bomb(world: DockerWorld) -> None:
    """The kernel ends what eats the memory, the engine tells of it, and execd lives on."""
    async with following(world.driver) as events, running(world) as box, running(world) as neighbour:
        ran = await box.sh("echo 1000 > /proc/self/oom_score_adj; exec perl -e 'my $x = \"x\" x (1 << 30)'")

        assert ran.exit_code == 137
        event = await events.next()
        assert (event.kind, event.container_id) == (EventKind.OOM, box.id)
        assert {it.state for it in await world.driver.containers.list()} == {ContainerState.RUNNING}
        assert (await box.sh("echo alive")).output == (await neighbour.sh("echo alive")).output == "alive"


async def test_memory_file_systems_count_as_memory(box: Box) -> None:
    """/dev/shm ends at half of the memory; filled, it is the sandbox's own memory that is gone."""
    ran = await box.sh("head -c 1G /dev/zero > /dev/shm/x 2>/dev/null; stat --format %s /dev/shm/x")

    assert int(ran.output.splitlines()[-1]) == LIMITS.memory_bytes // 2


async def test_no_swap_beyond_the_limit(box: Box) -> None:
    """The limit of memory and swap together is the limit of memory."""
    v1 = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
    ran = await box.sh(f"cat {v1} 2>/dev/null || cat /sys/fs/cgroup/memory.swap.max 2>/dev/null || echo none")

    assert ran.output in (str(LIMITS.memory_bytes), "0", "none")  # v1 tells the sum, v2 the swap alone


async def test_cpu_time_is_bounded(world: DockerWorld) -> None:
    """Two busy processes under half a core get half a core between them."""
    source = """
import os, time
child = os.fork()
end = time.monotonic() + 1.0
while time.monotonic() < end:
    pass
if child:
    os.wait()
print(time.process_time(), flush=True)
"""
    async with running(world, limits=Limits(cpus=0.5, memory_bytes=256 << 20, pids=64)) as box:
        used = (await box.python(source)).output.split()

        assert len(used) == 2
        assert sum(map(float, used)) < 0.75


# -- the hardened profile


async def test_hardened_has_no_privilege_at_all(hardened: Box) -> None:
    """An ordinary user without any capability, also in the bounding set, and a root that nobody can write."""
    status = dict(line.split(":", 1) for line in (await hardened.sh("cat /proc/1/status")).output.splitlines())

    assert (await hardened.sh("id -u; id -g")).output.split() == ["1000", "1000"]
    assert {int(status[name], 16) for name in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    assert status["Uid"].split() == ["1000"] * 4
    for path in ("/x", "/etc/x", "/usr/bin/x", "/root/x", "/opt/execd/x", "/run/x"):
        assert (await hardened.sh(f"touch {path}")).exit_code != 0
        assert (await hardened.sh(f"touch {path}", user="root")).exit_code != 0


async def test_hardened_still_runs_code(hardened: Box) -> None:
    """It starts where it may write, its home is there, and what it writes it can run; set-id bits mean nothing."""
    script = """
        set -e
        pwd; echo $HOME
        for directory in /tmp /var/tmp /workspace; do
            printf '#!/bin/sh\\necho ran\\n' > $directory/program
            chmod 4755 $directory/program
            $directory/program
            grep " $directory " /proc/mounts | grep -o nosuid,nodev
        done
    """
    ran = await hardened.sh(script)

    assert ran.output.split() == ["/workspace", "/workspace", *["ran", "nosuid,nodev"] * 3]


async def test_hardened_disk_is_bounded_memory(hardened: Box) -> None:
    """What it can write at all has a size, and counts as its memory."""
    ran = await hardened.sh("head -c 1G /dev/zero > /workspace/x; stat --format %s /workspace/x")

    assert int(ran.output.splitlines()[-1]) == LIMITS.memory_bytes // 2


async def test_hardened_with_network(world: DockerWorld) -> None:
    """Both go together; the engine's hosts file is then the read-only one."""
    async with running(world, network=Network.BRIDGE, hardened=True) as box:
        assert (await box.sh("ls /sys/class/net")).output.split() == ["eth0", "lo"]
        assert (await box.sh("echo x >> /etc/hosts")).exit_code != 0
        assert (await only(world.driver, box.id)).state is ContainerState.RUNNING


async def test_host_sees_the_link_directory_unchanged(world: DockerWorld) -> None:
    """After all that a sandbox may try, its directory on the host holds the socket and nothing else."""
    async with running(world) as box:
        await box.sh("for i in 1 2 3; do ln -s / /run/sandlot/$i; mkfifo /run/sandlot/f$i; done; rm -rf /run/sandlot")

        directories = await asyncio.to_thread(lambda: [sorted(_names(path)) for path in world.root.iterdir()])
        assert directories == [["link.sock"]]


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]
