"""The door of a sandbox: execd comes in, user code does not, and costs nothing while it knocks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from controlplane.errors import ConfigError, LinkLost, StartFailed
from controlplane.link import accept as accept_module
from controlplane.link import listener, websocket
from controlplane.link.accept import MAX_CONNECTIONS, SOCKET_NAME, Accept
from controlplane.link.directory import Directory
from controlplane.sandbox import new_sandbox_id
from execd.dispatch import Dispatcher
from execd.server import serve_forever
from tests.support.server.control_plane import until

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


async def test_a_server_that_sees_no_process_says_so_at_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container without the host's process ids, every peer has number 0; nobody waits for the link in vain."""
    monkeypatch.setattr(accept_module, "peer_pid", lambda connection: 0)
    await door.accept.listen(SANDBOX, "c")
    with door.directory.expect(SANDBOX) as arrival, capture_logs() as logs:
        assert await (await door.knock()).read() == b""
        with pytest.raises(StartFailed, match="pid: host"):
            await arrival.wait(timeout_s=5)
    assert door.asked == []
    assert [entry["reason"] for entry in logs] == [accept_module.UNSEEN]


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
    await until(lambda: len(door.accept._doors[SANDBOX].connections) == 1)


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


async def test_the_longest_directory_is_good_for_the_longest_id(run_dir: Path) -> None:
    """Ids have 36 characters; what `prepare()` takes, `listen()` takes too."""
    longest = 107 - len(f"{run_dir}//sandboxes/{'0' * 16}/link.sock")
    accept = Accept(run_dir / ("x" * longest), Directory())
    accept.prepare()
    sandbox_id = new_sandbox_id()
    directory = await accept.listen(sandbox_id)
    assert (directory / "link.sock").is_socket()
    await accept.close(sandbox_id)
    assert not directory.exists()
    await accept.aclose()


@pytest.mark.parametrize("turns", range(5))
async def test_a_listener_that_is_cancelled_while_it_opens_is_closed(run_dir: Path, turns: int) -> None:
    """After however many turns of the event loop the cancellation comes."""
    accept = Accept(run_dir, Directory())
    accept.prepare()
    before = len(os.listdir("/proc/self/fd"))
    opening = asyncio.ensure_future(accept.listen(SANDBOX))
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    await accept.close(SANDBOX)
    await until(lambda: len(os.listdir("/proc/self/fd")) == before)
    await accept.aclose()


def test_a_directory_that_cannot_be_made(run_dir: Path) -> None:
    """A file is in the way."""
    (run_dir / "file").touch()
    with pytest.raises(ConfigError, match=r"\[paths\] run_dir: .*Not a directory"):
        Accept(run_dir / "file", Directory()).prepare()


async def _storm(door: Door, duration_s: float) -> None:
    """Connect in a loop, as user code can, and never wait for an answer."""
    loop = asyncio.get_running_loop()
    until_then = loop.time() + duration_s
    while loop.time() < until_then:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(0)
        with contextlib.suppress(OSError):
            connection.connect(str(door.path))
        connection.close()
        await asyncio.sleep(0)


@pytest.mark.attack(
    "agent",
    "User code in a sandbox, or a hijacked agent, connects to the link socket in a loop",
    "The server looks at a few connections a second and lets the others wait in connect()",
)
@pytest.mark.parametrize("is_execd", [False, True], ids=["user code", "process 1"])
@pytest.mark.parametrize("rests", [True, False], ids=["bounded", "unbounded"])
async def test_a_storm_of_connections_makes_the_door_rest(
    door: Door, monkeypatch: pytest.MonkeyPatch, *, rests: bool, is_execd: bool
) -> None:
    """The kernel's word is asked for each connection: so many were looked at. Afterwards execd comes in."""
    if not rests:
        monkeypatch.setattr(listener, "CONNECTIONS_IN_A_ROW", 1 << 30)
    door.is_execd = is_execd
    await door.accept.listen(SANDBOX, "c")
    with capture_logs():
        await _storm(door, 0.5)
    # 0.1 + 0.2 + 0.4 + 0.8 s of rest, with 8 connections before each. Without a rest it is thousands.
    assert (len(door.asked) <= 40) is rests
    door.is_execd = True
    await door.dial()


@pytest.mark.parametrize("piece", [b"x" * 100, b"x"], ids=["a header without end", "one byte at a time"])
@pytest.mark.attack(
    "agent",
    "A hijacked agent sends a handshake that does not end, as a long one or byte by byte",
    "It is hung up on after 4 KiB or 64 reads",
)
@pytest.mark.parametrize("bounded", [True, False], ids=["bounded", "unbounded"])
async def test_a_handshake_that_does_not_end(
    door: Door, monkeypatch: pytest.MonkeyPatch, piece: bytes, *, bounded: bool
) -> None:
    """Without the bounds the library would read headers of a megabyte, or a thousand single bytes."""
    if not bounded:
        monkeypatch.setattr(websocket, "MAX_HANDSHAKE_BYTES", 1 << 30)
        monkeypatch.setattr(websocket, "MAX_HANDSHAKE_READS", 1 << 30)
    await door.accept.listen(SANDBOX, "c")
    reader = await door.knock()
    (writer,) = door.writers
    writer.write(b"GET /link HTTP/1.1\r\nX: ")
    ended = asyncio.ensure_future(reader.read())
    for _ in range(5000 // len(piece)):  # more than the bound, less than the library takes
        if ended.done():
            break
        writer.write(piece)
        await asyncio.sleep(0)
    await asyncio.wait([ended], timeout=5 if bounded else 0.05)
    assert ended.done() is bounded
    ended.cancel()
    await asyncio.wait([ended])


async def test_a_socket_that_cannot_listen_is_closed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the caller's; no descriptor stays open."""
    accept = Accept(run_dir, Directory())
    accept.prepare()
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(listener, "BACKLOG", "not a number")
    with pytest.raises(TypeError):
        await accept.listen(SANDBOX)
    assert len(os.listdir("/proc/self/fd")) == before
    await accept.close(SANDBOX)
    await accept.aclose()


async def test_a_server_without_descriptors_goes_on_when_it_has_some(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who connects meanwhile waits; it is told once."""
    monkeypatch.setattr(listener, "LAST_REST_S", 0.01)
    await door.accept.listen(SANDBOX, "c")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    waiting.connect(str(door.path))
    with capture_logs() as logs:
        resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
        try:
            for _ in range(10):
                await asyncio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [entry["event"] for entry in logs] == ["link.accept_failed"]
    await until(lambda: door.asked)
    waiting.close()
