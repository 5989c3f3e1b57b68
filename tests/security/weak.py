"""Containers that are weaker than Sandlot's own, for attacks to succeed in: so that a held attack means something."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from controlplane.attack.client.program import PYTHON
from tests.contract.worlds import DockerWorld

# capability.h, from bit 0 on; later ones are not needed here.
CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
)
# It leaves things behind for attacks to find: shared memory, an abstract socket, a listener on every interface.
_SQUAT = """
import ctypes, socket
ctypes.CDLL(None).shmget(0x5a17, 4096, 0o1666)
hidden = socket.socket(socket.AF_UNIX)
hidden.bind("\\0attack")
hidden.listen()
listener = socket.create_server(("0.0.0.0", 8123))
print("there", flush=True)
while True:
    listener.accept()[0].close()
"""


@contextlib.asynccontextmanager
async def naked_container(world: DockerWorld) -> AsyncIterator[str]:
    """A container without any confinement, in which everything that is lent can be written.

    It is not "privileged" in the engine's word, which is more than engines have that run in a container themselves.
    Its process 1 may be traced. The sockets of a container engine and of a link are there, of this test's making: that
    of the link takes everybody for the agent.
    """
    with tempfile.TemporaryDirectory(prefix="slt-") as folder, contextlib.ExitStack() as stack:
        for name in ("link/link.sock", "debug/kprobes"):
            (Path(folder) / name).parent.mkdir()
        (Path(folder) / "debug/kprobes").touch()
        link = await asyncio.start_unix_server(_take_anybody, f"{folder}/link/link.sock")
        async with link:
            engine = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
            engine.bind(f"{folder}/docker.sock")
            mounts = [
                {"Type": "volume", "Source": await world.execd_copy(), "Target": "/opt/execd"},
                {"Type": "bind", "Source": f"{folder}/link", "Target": "/run/sandlot"},
                {"Type": "bind", "Source": f"{folder}/docker.sock", "Target": "/run/docker.sock"},
                {"Type": "bind", "Source": "/sys", "Target": "/sys"},
                {"Type": "bind", "Source": f"{folder}/debug", "Target": "/sys/kernel/debug"},
            ]
            host = {
                "CapAdd": own_capabilities(),
                "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
                "MaskedPaths": [],
                "ReadonlyPaths": [],
                "DeviceCgroupRules": ["a *:* rwm"],
                "Devices": [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg", "CgroupPermissions": "r"}],
                "CgroupnsMode": "host",
                "Mounts": mounts,
                "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 1 << 20}],
                "IpcMode": "shareable",
                "ShmSize": 1 << 30,
                # Names as a careless resolver has them; the engine's default bridge is 172.17.0.0/16.
                "ExtraHosts": ["host.docker.internal:192.0.2.1", *(f"sandlot-{n}:172.17.0.{n}" for n in range(1, 24))],
            }
            async with container(world, host) as container_id, _squat(world, container_id):
                yield container_id


@contextlib.asynccontextmanager
async def shared_container(world: DockerWorld) -> AsyncIterator[str]:
    """A container in the host's own process, network and IPC namespaces, whose root may look at other processes."""
    mounts = [{"Type": "volume", "Source": world.execd_volume, "Target": "/opt/execd", "ReadOnly": True}]
    host = {
        "PidMode": "host",
        "NetworkMode": "host",
        "IpcMode": "host",
        "CapAdd": ["SYS_PTRACE"],
        "SecurityOpt": ["apparmor=unconfined"],
        "Mounts": mounts,
    }
    async with container(world, host) as container_id:
        yield container_id


@contextlib.asynccontextmanager
async def container(world: DockerWorld, host: dict[str, Any]) -> AsyncIterator[str]:
    """Run a container of the test image with such a HostConfig; it is removed with the block."""
    config = {"Image": world.image, "Entrypoint": ["sleep", "inf"], "Cmd": [], "HostConfig": host}
    made = await world.docker.containers.create(config)
    try:
        await made.start()
        yield made.id
    finally:
        await made.delete(force=True, v=True)


@contextlib.asynccontextmanager
async def _squat(world: DockerWorld, container_id: str) -> AsyncIterator[None]:
    """Run the program that leaves things behind, within the block; they are there when it begins."""
    execution = await world.docker.containers.container(container_id).exec([*PYTHON, _SQUAT])
    async with execution.start(detach=False) as stream:
        message = await stream.read_out()
        assert message is not None
        assert b"there" in message.data, message.data
        yield


def own_capabilities() -> list[str]:
    """Return the capabilities that a container can be given here: those that this process could have."""
    bits = int(re.search(r"CapBnd:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16)  # type: ignore[index]
    return [name for bit, name in enumerate(CAPABILITIES) if bits >> bit & 1]


async def _take_anybody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    await writer.drain()
    writer.close()
