"""The door of a sandbox: execd comes in, user code does not, and costs nothing while it knocks."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from controlplane.errors import ConfigError, LinkLost
from controlplane.link import accept as accept_module
from controlplane.link.accept import MAX_CONNECTIONS, SOCKET_NAME, Accept
from controlplane.link.directory import Directory
from execd.dispatch import Dispatcher
from execd.server import serve_forever
from tests.control_plane import until

SANDBOX = "0123456789abcdef"


class Door:
    """One sandbox's door, and whoever stands before it."""

    def __init__(self, run_dir: Path) -> None:
        self.is_execd = True
        self.asked: list[tuple[int, str]] = []
        self.directory = Directory()
        self.accept = Accept(run_dir, self.directory, verify=self.verify)
        self.accept.prepare()
        self.path = self.accept.socket_dir(SANDBOX) / SOCKET_NAME
        self.execd: asyncio.Task[None] | None = None
        self.writers: list[asyncio.StreamWriter] = []

    def verify(self, pid: int, container_id: str) -> bool:
        self.asked.append((pid, container_id))
        return self.is_execd

    async def dial(self) -> None:
        """Let execd come."""
        self.execd = asyncio.ensure_future(serve_forever(str(self.path), Dispatcher({})))
        await self.directory.wait(SANDBOX, timeout_s=5)

    async def knock(self) -> asyncio.StreamReader:
        """Connect and say nothing."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.writers.append(writer)
        return reader

    async def aclose(self) -> None:
        for writer in self.writers:
            writer.close()
        if self.execd is not None:
            self.execd.cancel()
            await asyncio.wait([self.execd])
        await self.accept.close(SANDBOX)
        await self.accept.aclose()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sandlot-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def door(run_dir: Path) -> AsyncIterator[Door]:
    door = Door(run_dir)
    yield door
    await door.aclose()


async def test_execd_comes_in(door: Door) -> None:
    """The kernel's word about it is asked for, and the container that is expected."""
    await door.accept.listen(SANDBOX)
    door.accept.expect(SANDBOX, "c" * 64)
    await door.dial()
    assert door.asked == [(os.getpid(), "c" * 64)]


async def test_nobody_comes_in_before_the_container_is_known(door: Door) -> None:
    """Between listening and creating."""
    await door.accept.listen(SANDBOX)
    with capture_logs():
        assert await (await door.knock()).read() == b""
    assert door.asked == []


async def test_user_code_is_turned_away_before_it_has_said_a_word(door: Door) -> None:
    """Each connection ends at once, however many come; the log has one line of them."""
    await door.accept.listen(SANDBOX, "c")
    await door.dial()
    door.is_execd = False
    with capture_logs() as logs:
        for _ in range(50):
            assert await asyncio.wait_for((await door.knock()).read(), 5) == b""
    assert [(entry["event"], entry["reason"]) for entry in logs if entry["log_level"] == "warning"] == [
        ("link.refused", "not process 1 of the container")
    ]
    assert door.directory.get(SANDBOX) is not None


async def test_one_execd_cannot_hold_many_connections(door: Door) -> None:
    """Descriptors of ours are for all sandboxes: even process 1 has but a few. Its link goes on."""
    await door.accept.listen(SANDBOX, "c")
    await door.dial()
    with capture_logs():
        kept = [await door.knock() for _ in range(MAX_CONNECTIONS - 1)]
        for _ in range(20):
            assert await asyncio.wait_for((await door.knock()).read(), 5) == b""
    assert not any(reader.at_eof() for reader in kept)
    assert door.directory.get(SANDBOX) is not None
    for writer in door.writers:
        writer.close()
    await until(lambda: door.accept._doors[SANDBOX].connections == 1)


async def test_a_peer_that_says_nothing_is_sent_away(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """In time, so that execd can come after it."""
    monkeypatch.setattr(accept_module, "HELLO_TIMEOUT_S", 0.05)
    await door.accept.listen(SANDBOX, "c")
    reader = await door.knock()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    await door.dial()


async def test_closing_a_door_ends_its_link_and_removes_its_directory(door: Door) -> None:
    """Twice is no error; others stay open."""
    await door.accept.listen(SANDBOX, "c")
    await door.accept.listen("f" * 16, "d")
    await door.dial()
    await door.accept.close(SANDBOX)
    await door.accept.close(SANDBOX)
    assert door.directory.get(SANDBOX) is None
    assert door.accept.known() == ["f" * 16]
    with pytest.raises(LinkLost):
        await door.directory.wait(SANDBOX, timeout_s=0.05)


async def test_the_container_can_reach_the_socket_and_nobody_else_can(door: Door) -> None:
    """The parent is closed to other users of this machine; the container's user, whoever that is, gets through."""
    await door.accept.listen(SANDBOX)
    assert stat.S_IMODE(door.path.stat().st_mode) == 0o666
    assert stat.S_IMODE(door.path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(door.path.parent.parent.stat().st_mode) == 0o700


async def test_listening_again_replaces_the_socket_in_the_same_directory(door: Door) -> None:
    """A container has mounted the directory: a new one would be another."""
    await door.accept.listen(SANDBOX, "c")
    await door.dial()
    inode = door.path.parent.stat().st_ino
    await door.accept.aclose()
    again = Door(door.accept._run_dir)
    await again.accept.listen(SANDBOX, "c")
    assert again.path.parent.stat().st_ino == inode
    await again.directory.wait(SANDBOX, timeout_s=5)
    await again.accept.aclose()


def test_a_directory_is_for_one_server(run_dir: Path) -> None:
    """The second one is refused, and says what to do."""
    first = Accept(run_dir, Directory())
    first.prepare()
    with pytest.raises(ConfigError, match=r"another Sandlot server uses .*: stop it, or give this one a \[paths\]"):
        Accept(run_dir, Directory()).prepare()
    asyncio.run(first.aclose())
    second = Accept(run_dir, Directory())
    second.prepare()
    asyncio.run(second.aclose())


def test_a_path_that_is_too_long_for_sockets(run_dir: Path) -> None:
    """The kernel's limit, with what to do about it, before anything is made."""
    with pytest.raises(ConfigError, match=r"\[paths\] run_dir: .* is too long for Unix sockets; choose a shorter one"):
        Accept(run_dir / ("x" * 80), Directory()).prepare()
    assert list(run_dir.iterdir()) == []


def test_a_directory_that_cannot_be_made(run_dir: Path) -> None:
    """A file is in the way."""
    (run_dir / "file").touch()
    with pytest.raises(ConfigError, match=r"\[paths\] run_dir: .*Not a directory"):
        Accept(run_dir / "file", Directory()).prepare()
