"""The agent's tree runs in any Linux image, whatever is in it, and touches nothing outside itself."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tarfile
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiodocker
import pytest
from websockets.asyncio.server import ServerConnection, unix_serve

from controlplane.sandbox import EXECD_DIR

COMMAND = [f"{EXECD_DIR}/bin/python3", "-I", "-S", f"{EXECD_DIR}/boot.pyc", "/run/sandlot/link.sock"]

LOCKED_DOWN: dict[str, Any] = {
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
}

# Nothing but one static program: no libc, no loader, no /etc, no /tmp.
STATIC = """
FROM sandlot/base AS build
RUN apt-get update && apt-get install -y --no-install-recommends busybox-static
FROM scratch
COPY --from=build /bin/busybox /bin/busybox
"""

# Settings of an image that would mislead an interpreter that listens to them.
MISLEADING = [
    "PYTHONHOME=/nowhere",
    "PYTHONPATH=/nowhere",
    "PYTHONSTARTUP=/nowhere",
    "LD_LIBRARY_PATH=/lib/x86_64-linux-gnu:/lib/aarch64-linux-gnu:/usr/lib",
    "LANG=de_DE.ISO-8859-1",
    "LC_ALL=de_DE.ISO-8859-1",
    "SSL_CERT_FILE=/nowhere",
]


class Agent(NamedTuple):
    """A running execd: its first message, and the files that its process has mapped."""

    hello: bytes
    mapped: set[str]
    status: str  # /proc/PID/status


@pytest.fixture
async def static_image(engine: aiodocker.Docker) -> str:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(STATIC)
        tar.addfile(member, io.BytesIO(STATIC.encode()))
    context.seek(0)
    await engine.images.build(fileobj=context, encoding="identity", tag="sandlot-test/static")
    return "sandlot-test/static"


@contextlib.asynccontextmanager
async def connected_agent(
    engine: aiodocker.Docker, volume: str, image: str, *, user: str = "", env: list[str] | None = None, **host: Any
) -> AsyncIterator[Agent]:
    """Start a container whose PID 1 is execd, wait until it has dialled this test and sent its first message."""
    hello: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def accept(connection: ServerConnection) -> None:
        message = await connection.recv()
        if not hello.done():
            hello.set_result(message)
        await connection.wait_closed()

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/link.sock"
        os.chmod(folder, 0o755)
        async with unix_serve(accept, path, compression=None):
            os.chmod(path, 0o666)
            mounts = [
                {"Type": "volume", "Source": volume, "Target": EXECD_DIR, "ReadOnly": True},
                {"Type": "bind", "Source": folder, "Target": "/run/sandlot", "ReadOnly": True},
            ]
            config: dict[str, Any] = {
                "Image": image,
                "Entrypoint": COMMAND,
                "Cmd": [],
                "User": user,
                "Env": env or [],
                "NetworkDisabled": True,
                "HostConfig": {"NetworkMode": "none", "Mounts": mounts, **host},
            }
            container = await engine.containers.create(config)
            try:
                await container.start()
                yield await inspect_agent(container, hello)
            finally:
                await container.delete(force=True)


async def inspect_agent(container: Any, hello: asyncio.Future[object]) -> Agent:
    ended = asyncio.create_task(container.wait())
    await asyncio.wait({hello, ended}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    if not hello.done():
        ended.cancel()
        output = "".join(await container.log(stdout=True, stderr=True))
        pytest.fail(f"execd sent no message within 30 s; its output:\n{output}")
    ended.cancel()
    message = hello.result()
    assert isinstance(message, bytes)
    process = Path("/proc", str((await container.show())["State"]["Pid"]))
    lines = (process / "maps").read_text().splitlines()
    files = {line[line.index("/") :] for line in lines if "/" in line}
    return Agent(message, files, (process / "status").read_text())


def assert_self_contained(agent: Agent) -> None:
    assert agent.hello
    assert f"{EXECD_DIR}/bin/python3" in agent.mapped
    assert not {path for path in agent.mapped if not path.startswith(f"{EXECD_DIR}/")}


@pytest.mark.parametrize("image", ["sandlot/python", "sandlot/base"])
@pytest.mark.parametrize("limits", [{}, {"user": "1000:1000", **LOCKED_DOWN}], ids=["plain", "locked-down"])
async def test_runs_in_debian_with_and_without_python(
    engine: aiodocker.Docker, volume: str, image: str, limits: dict[str, Any]
) -> None:
    async with connected_agent(engine, volume, image, **limits) as agent:
        assert_self_contained(agent)


@pytest.mark.parametrize("limits", [{}, {"user": "1000:1000", **LOCKED_DOWN}], ids=["plain", "locked-down"])
async def test_runs_beside_one_static_program(
    engine: aiodocker.Docker, volume: str, static_image: str, limits: dict[str, Any]
) -> None:
    async with connected_agent(engine, volume, static_image, **limits) as agent:
        assert_self_contained(agent)


async def test_the_lock_down_is_in_force(engine: aiodocker.Docker, volume: str) -> None:
    async with connected_agent(engine, volume, "sandlot/base", user="1000:1000", **LOCKED_DOWN) as agent:
        fields = dict(line.split(":\t") for line in agent.status.splitlines())
        assert fields["Uid"].split() == ["1000"] * 4
        assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert fields["NoNewPrivs"] == "1"


async def test_the_image_s_settings_do_not_reach_it(engine: aiodocker.Docker, volume: str) -> None:
    async with connected_agent(engine, volume, "sandlot/python", env=MISLEADING) as agent:
        assert_self_contained(agent)


async def test_the_sandbox_cannot_alter_the_tree(engine: aiodocker.Docker, volume: str) -> None:
    container = await engine.containers.create(
        {
            "Image": "sandlot/base",
            "Cmd": ["sh", "-c", f"echo x > {EXECD_DIR}/boot.pyc"],
            "HostConfig": {
                "NetworkMode": "none",
                "Mounts": [{"Type": "volume", "Source": volume, "Target": EXECD_DIR, "ReadOnly": True}],
            },
        }
    )
    try:
        await container.start()
        assert (await container.wait())["StatusCode"] != 0
        assert "Read-only file system" in "".join(await container.log(stderr=True))
    finally:
        await container.delete(force=True)
