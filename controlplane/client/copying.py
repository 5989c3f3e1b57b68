"""Files and directories, copied between this machine and a sandbox over its native stream, several files at a time."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote

from controlplane.client.answers import Refused
from controlplane.client.server import Json, Server, sandbox_path
from controlplane.client.stream import Connection, OperationFailed
from controlplane.client.text import moment
from controlplane.client.tree import Tree, parts_below
from controlplane.errors import InvalidRequest, SandlotError

FILES_AT_ONCE = 8
READ_BYTES = 128 << 10
STREAMED_BYTES = 1 << 20  # larger files have a request of their own, which is faster
DIRECTORIES_AT_ONCE = 500  # in one request
_FILES = "/proxy/44772"


class Remote(NamedTuple):
    """A sandbox as a place for files."""

    server: Server
    sandbox_id: str
    connection: Connection


class Report:
    """What was copied, and what was not. `changed` is called after each step."""

    def __init__(self, changed: Callable[[Report], None]) -> None:
        self.files = 0
        self.bytes = 0
        self.failures: list[str] = []
        self.skipped: list[str] = []
        self._changed = changed
        self._lock = threading.Lock()  # a large file is sent by a thread of its own

    def add(self, *, size: int = 0, files: int = 0) -> None:
        """Note that so much more was copied."""
        with self._lock:
            self.bytes += size
            self.files += files
            self._changed(self)


class Found(NamedTuple):
    """An entry of a sandbox's file system."""

    path: str
    kind: str
    mode: int
    modified_at: float


def look(remote: Remote, path: str) -> Found | None:
    """Return what is at a path of a sandbox, or None. Raises Refused."""
    try:
        answer = remote.server.ask("GET", _at(remote, "/files/info", path))
    except Refused as refused:
        if refused.status == 404:
            return None
        raise
    found: Json = next(iter(answer.values()))
    return _found(found)


def listing(remote: Remote, path: str) -> Iterator[Found]:
    """Yield all that is below a directory of a sandbox, each directory before its content. Raises Refused."""
    try:
        yield from map(_found, remote.server.ask("GET", _at(remote, "/directories/list", path) + "&depth=10000"))
    except Refused as refused:
        if refused.status != 400 or ("too large" not in refused.said and "more than" not in refused.said):
            raise
        for entry in map(_found, remote.server.ask("GET", _at(remote, "/directories/list", path))):
            yield entry
            if entry.kind == "directory":
                yield from listing(remote, entry.path)


# -- from a sandbox


async def download_tree(remote: Remote, path: str, target: str, report: Report, *, follow: bool) -> None:
    """Copy a directory of a sandbox into the directory *target*. Raises OSError, SandlotError about the whole."""
    entries = await asyncio.to_thread(lambda: list(listing(remote, path)))
    tree = Tree(target)
    try:
        root = os.path.dirname(entries[0].path) if entries else path
        async with _several(report) as begin:
            for entry in entries:
                names = parts_below(root, entry.path)
                if entry.kind == "directory":
                    try:
                        tree.directory(names, entry.mode, entry.modified_at)
                    except (NotADirectoryError, FileExistsError) as error:  # here, something else is in its place
                        report.failures.append(f"{entry.path}: {error.strerror}")
                elif entry.kind == "file" or (entry.kind == "symlink" and follow):
                    await begin(entry.path, _download_below(remote, entry, tree, names, report))
                else:
                    report.skipped.append(f"{entry.path}: is a {_kind(entry.kind)}")
    finally:
        tree.close()


async def download_file(remote: Remote, path: str, target: str, report: Report) -> None:
    """Copy a file of a sandbox to the path *target*. Raises OSError, SandlotError."""
    target = os.path.realpath(target)
    if os.path.exists(target) and not os.path.isfile(target):  # a FIFO, or a device such as /dev/null
        with open(target, "wb", buffering=0) as file:
            await read_file(remote, path, _writing(file.write, report))
        report.add(files=1)
        return
    parent, name = os.path.split(target)
    if not os.path.isdir(parent):
        raise FileNotFoundError(f"{parent}: there is no such directory")
    tree = Tree(parent)
    try:
        await _download_below(remote, Found(path, "file", 0o644, 0.0), tree, (name,), report)
    finally:
        tree.close()


async def read_file(remote: Remote, path: str, take: Callable[[bytes], Awaitable[None]]) -> None:
    """Read a file of a sandbox. Raises OperationFailed, LinkLost, and what *take* raises."""
    opened = await remote.connection.open("file.read", path=path)
    try:
        while (message := await opened.next())["type"] != "done":
            if message["type"] == "data":
                await take(message["data"])
    finally:
        with contextlib.suppress(SandlotError):
            await opened.cancel()


async def _download_below(remote: Remote, entry: Found, tree: Tree, names: tuple[str, ...], report: Report) -> None:
    opened = await remote.connection.open("file.read", path=entry.path)
    try:
        # The properties of the file that is read: a link's own say nothing.
        found = await opened.next()
        file = tree.file(names, int(str(found["mode"]), 8), float(found["modified_at"]))
        try:
            while (message := await opened.next())["type"] != "done":
                file.write(message["data"])
                report.add(size=len(message["data"]))
            file.commit()
        finally:
            file.close()
    finally:
        with contextlib.suppress(SandlotError):
            await opened.cancel()
    report.add(files=1)


# -- to a sandbox


async def upload_tree(remote: Remote, source: str, path: str, report: Report, *, follow: bool, owner: Json) -> None:
    """Copy a local directory into the directory *path* of a sandbox. Raises OSError, SandlotError about the whole."""
    local = list(_walk(source, follow, report))
    directories = [(path, stat.S_IMODE(os.stat(source).st_mode))]
    directories += [(f"{path}/{each.below}", each.mode) for each in local if each.is_directory]
    for begin in range(0, len(directories), DIRECTORIES_AT_ONCE):
        some = directories[begin : begin + DIRECTORIES_AT_ONCE]
        body = {name: {"mode": int(f"{mode & 0o777:o}"), **owner} for name, mode in some}
        url = sandbox_path(remote.sandbox_id, f"{_FILES}/directories")
        await asyncio.to_thread(remote.server.ask, "POST", url, body)
    async with _several(report) as begin_file:
        for each in local:
            if not each.is_directory:
                place = f"{path}/{each.below}"
                await begin_file(each.path, upload_file(remote, each.path, place, report, owner=owner))


async def upload_file(remote: Remote, source: str, path: str, report: Report, *, owner: Json) -> None:
    """Copy a local file to a path of a sandbox. Raises OSError, SandlotError."""
    with open(source, "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        mode = stat.S_IMODE(found.st_mode) & 0o777
        if stat.S_ISREG(found.st_mode) and found.st_size > STREAMED_BYTES:
            metadata = {"path": path, "mode": int(f"{mode:o}"), **owner}
            pieces_of_file = _pieces(file, found.st_size, report)
            url = sandbox_path(remote.sandbox_id, f"{_FILES}/files/upload")
            await asyncio.to_thread(remote.server.upload, url, metadata, pieces_of_file, found.st_size)
            report.add(files=1)
            return

        async def pieces() -> AsyncIterator[bytes]:
            while data := file.read(READ_BYTES):
                yield data

        await write_file(remote, path, pieces(), report, owner={"mode": f"{mode:o}", **owner})


async def write_file(remote: Remote, path: str, pieces: AsyncIterator[bytes], report: Report, *, owner: Json) -> None:
    """Write a file of a sandbox, which appears when it is complete. Raises OSError, SandlotError."""
    opened = await remote.connection.open("file.write", path=path, **owner)
    try:
        async for data in pieces:
            await opened.send(data)
            if opened.is_over:
                break  # it has failed, and says why
            report.add(size=len(data))
        await opened.end()
        await opened.all()
    finally:
        with contextlib.suppress(SandlotError):
            await opened.cancel()
    report.add(files=1)


def _pieces(file: io.FileIO, size: int, report: Report) -> Iterator[bytes]:
    """Yield exactly *size* bytes of a file. Raises OSError if there are fewer."""
    while size:
        data = file.read(min(size, READ_BYTES))
        if not data:
            raise OSError("the file became shorter while it was copied")
        size -= len(data)
        yield data
        report.add(size=len(data))


class _Local(NamedTuple):
    """An entry below a local directory."""

    path: str
    below: str
    is_directory: bool
    mode: int


def _walk(source: str, follow: bool, report: Report) -> Iterator[_Local]:
    """Yield what is below a local directory, each directory before its content."""
    top = os.stat(source)
    waiting = [(source, "", frozenset({(top.st_dev, top.st_ino)}))]
    while waiting:
        directory, below, above = waiting.pop()
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            report.failures.append(f"{directory}: {error.strerror}")
            continue
        for name in names:
            path, place = os.path.join(directory, name), f"{below}{name}"
            try:
                found = os.stat(path, follow_symlinks=follow)
            except OSError as error:
                report.failures.append(f"{path}: {error.strerror}")
                continue
            identity = (found.st_dev, found.st_ino)
            if stat.S_ISDIR(found.st_mode) and identity not in above:
                yield _Local(path, place, is_directory=True, mode=stat.S_IMODE(found.st_mode))
                waiting.append((path, f"{place}/", above | {identity}))
            elif stat.S_ISREG(found.st_mode):
                yield _Local(path, place, is_directory=False, mode=stat.S_IMODE(found.st_mode))
            else:
                report.skipped.append(f"{path}: is a {_kind_of(found.st_mode)}")


@contextlib.asynccontextmanager
async def _several(report: Report) -> AsyncIterator[Callable[[str, Awaitable[None]], Awaitable[None]]]:
    """Run several copies at a time. The failure of one is noted, and ends no other; a broken connection ends all."""
    room = asyncio.Semaphore(FILES_AT_ONCE)

    async def copy(path: str, work: Awaitable[None]) -> None:
        try:
            await work
        except (OperationFailed, Refused) as error:
            said = error.said if isinstance(error, Refused) else error.message
            report.failures.append(said if path in said else f"{path}: {said}")
        except OSError as error:
            report.failures.append(f"{path}: {error.strerror or error}")
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:

        async def begin(path: str, work: Awaitable[None]) -> None:
            await room.acquire()
            group.create_task(copy(path, work))

        yield begin


def _writing(write: Callable[[bytes], object], report: Report) -> Callable[[bytes], Awaitable[None]]:
    async def take(data: bytes) -> None:
        write(data)
        report.add(size=len(data))

    return take


def _at(remote: Remote, operation: str, path: str) -> str:
    return sandbox_path(remote.sandbox_id, f"{_FILES}{operation}?path={quote(path, safe='/')}")


def _found(view: Json) -> Found:
    at = moment(view.get("modified_at"))
    try:
        return Found(str(view["path"]), str(view["type"]), int(str(view["mode"]), 8), at.timestamp() if at else 0.0)
    except (KeyError, ValueError) as error:
        raise InvalidRequest(f"the sandbox described a file without {error}") from None


def _kind(kind: str) -> str:
    return "link" if kind == "symlink" else "device, socket or FIFO"


def _kind_of(mode: int) -> str:
    return "loop of links" if stat.S_ISDIR(mode) else _kind("symlink" if stat.S_ISLNK(mode) else "other")
