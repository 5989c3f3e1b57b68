"""The handlers of the requests about files. Each serves one stream, and sends at most one reply for each path."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Sequence
from typing import Any

from execd.dispatch import Handler
from execd.errors import ExecdError
from execd.files import tree
from execd.files.disk import Disk, Steps
from execd.files.locks import Locks, path_key
from execd.files.move import lstat, make_directory, move, remove_directory
from execd.files.owners import Owners
from execd.files.paths import absolute, make_parents, naming, text, unmake
from execd.files.pattern import compile_glob
from execd.files.read import PIECE_BYTES, SMALL_BYTES, Source, cut_range, window
from execd.files.write import Attributes, Replacement, find_target, replace_text
from execd.launch.environment import Environment
from execd.wire.aio import Data, Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    DirectoryMake,
    DirectoryRemove,
    Done,
    FileAttributes,
    FileChange,
    FileInfo,
    FileList,
    FileMove,
    FileRead,
    FileRemove,
    FileReplace,
    FileReplaced,
    FileSearch,
    FileStat,
    FileWrite,
    Request,
)

MAX_RESULTS = 100_000  # of one listing or search
MAX_VISITED = 1_000_000  # entries that one search examines
MAX_DEPTH = 10_000
INLINE_PATHS = 16  # up to so many stats are done on the event loop
LOCKED_PATHS = 16  # so many paths are locked and changed at once

Item = tuple[str, str]  # the path as the client wrote it, and the place that it means

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


class Files:
    """The files of the sandbox, with the rights of execd.

    Changes of one file follow each other: each holds the file's lock, which the processes that share `locks` also hold.
    """

    def __init__(self, environment: Environment, owners: Owners | None = None, locks: Locks | None = None) -> None:
        self._environment = environment
        self._owners = owners or Owners()
        self._disk = Disk()
        self._locks = locks or Locks()

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return {
            FileRead: self._read,
            FileWrite: self._write,
            FileStat: self._stat,
            FileList: self._list,
            FileSearch: self._search,
            FileRemove: self._remove,
            FileMove: self._move,
            FileChange: self._change,
            FileReplace: self._replace,
            DirectoryMake: self._make_directories,
            DirectoryRemove: self._remove_directories,
        }

    # -- content

    async def _read(self, stream: Stream, request: FileRead) -> None:
        by_lines = request.first_line is not None or request.lines is not None
        first = 1 if request.first_line is None else request.first_line
        if by_lines and (first < 1 or (request.lines or 0) < 0):
            raise ExecdError("request.invalid", "the first line is 1, and a number of lines must not be negative")
        if by_lines and (request.offset or request.length is not None):
            raise ExecdError("request.invalid", "a range of bytes and a window of lines exclude each other")
        self._owners.refresh()
        with naming(request.path):
            source = Source(self._locate(request.path), self._disk)
            try:
                content = await source.read_small()
                size = source.found.st_size if content is None else len(content)
                start, stop = (0, size) if by_lines else cut_range(size, request.offset, request.length)
                await stream.send(self._describe(request.path, source.found, size))
                if content is not None:
                    if by_lines:
                        content = window(content, first, request.lines)
                    await stream.write(memoryview(content)[start:stop], Channel.STDOUT)
                elif by_lines:
                    await source.send_lines(stream, first, request.lines)
                else:
                    await source.send_range(stream, start, stop)
            finally:
                source.close()

    async def _write(self, stream: Stream, request: FileWrite) -> None:
        attributes = self._attributes(request)
        if request.path.endswith("/"):
            raise ExecdError("file.is_directory", f"{request.path}: is the name of a directory")
        with naming(request.path):
            replacement = Replacement(self._locate(request.path), attributes)
            try:
                await self._take_in(stream, replacement)
                async with self._locks.hold_file(replacement.directory, replacement.name):
                    # To put a large file in its place may start its writeback.
                    found = await self._run(replacement.size, replacement.commit)
            except BaseException:
                await self._run(replacement.size, replacement.discard)
                raise
        self._owners.refresh()
        await stream.send(self._describe(request.path, found))

    async def _take_in(self, stream: Stream, replacement: Replacement) -> None:
        # A thread costs the same for little as for much, so it gets much at a time. Meanwhile more may arrive.
        pieces: list[bytes] = []
        waiting = 0
        while (item := await stream.receive()) is not None:
            if isinstance(item, Data):
                pieces.append(item.data)
                waiting += len(item.data)
            if waiting >= PIECE_BYTES:
                await self._disk.run(replacement.write, pieces)
                pieces, waiting = [], 0
        await self._run(replacement.size + waiting, replacement.write, pieces)

    async def _run(self, size: int, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args) if size <= SMALL_BYTES else await self._disk.run(function, *args)

    async def _replace(self, stream: Stream, request: FileReplace) -> None:
        if not all(file.old for file in request.files):
            raise ExecdError("request.invalid", "the text to be replaced is empty")
        for file in request.files:
            with naming(file.path):
                count = await self._replace_text(self._locate(file.path), file.old.encode(), file.new.encode())
            await stream.send(FileReplaced(file.path, count))

    async def _replace_text(self, path: str, old: bytes, new: bytes) -> int:
        directory, name = find_target(path)
        try:
            async with self._locks.hold_file(directory, name):
                return await self._disk.finish(replace_text(path, old, new)) or 0
        finally:
            os.close(directory)

    # -- what exists

    async def _stat(self, stream: Stream, request: FileStat) -> None:
        self._owners.refresh()
        infos = self._stats(request.paths)
        if len(request.paths) > INLINE_PATHS:
            await self._send_all(stream, infos)
            return
        for info in infos:
            await stream.send(info)

    def _stats(self, paths: Sequence[str]) -> Steps[FileInfo]:
        for path in paths:
            with naming(path):
                info = self._describe(path, os.lstat(self._locate(path)))
            yield info

    async def _list(self, stream: Stream, request: FileList) -> None:
        if not 1 <= request.depth <= MAX_DEPTH:
            raise ExecdError(
                "request.invalid",
                f"the depth is {request.depth}: it must be at least 1",
            )
        await self._send_tree(stream, request.path, request.depth)

    async def _search(self, stream: Stream, request: FileSearch) -> None:
        matches = compile_glob(request.pattern)
        await self._send_tree(
            stream, request.path, None, lambda path, is_directory: not is_directory and matches(text(path))
        )

    async def _send_tree(
        self, stream: Stream, root: str, depth: int | None, wanted: Callable[[str, bool], bool] | None = None
    ) -> None:
        self._owners.refresh()
        with naming(root):
            await self._send_all(stream, self._infos(tree.walk(self._locate(root), depth, wanted)))

    def _infos(self, entries: Steps[tree.Entry]) -> Steps[FileInfo | None]:
        sent = 0
        for visited, entry in enumerate(entries):
            if visited >= MAX_VISITED:
                raise ExecdError("request.invalid", f"there are more than {MAX_VISITED} entries: begin further down")
            if entry.found is None:
                yield None
                continue
            if sent >= MAX_RESULTS:
                raise ExecdError(
                    "request.invalid", f"there are more than {MAX_RESULTS} files: begin further down, or ask for fewer"
                )
            sent += 1
            yield self._describe(entry.path, entry.found)

    # -- changes

    async def _remove(self, stream: Stream, request: FileRemove) -> None:
        items = [(path, self._locate(path)) for path in request.paths]
        await self._disk.finish(_check_files(items))
        await self._change_all(stream, items, _unlink)

    async def _remove_directories(self, stream: Stream, request: DirectoryRemove) -> None:
        items = [(path, self._locate(path)) for path in request.paths]
        await self._disk.finish(_check_directories(items))
        await self._change_all(stream, items, _remove_directory)

    async def _move(self, stream: Stream, request: FileMove) -> None:
        items = [(pair, (self._locate(pair[0]), self._locate(pair[1]))) for pair in request.pairs]
        await self._disk.finish(_check_moves(items))
        for (source, destination), (from_path, to_path) in items:
            with naming(f"{source} to {destination}"):
                made = make_parents(to_path)
                try:
                    async with self._locks.hold((path_key(from_path), path_key(to_path))):
                        with naming(destination):
                            _check_free(to_path)
                        await self._disk.finish(move(from_path, to_path))
                except BaseException:
                    unmake(made)
                    raise
        await stream.send(Done())

    async def _change(self, stream: Stream, request: FileChange) -> None:
        wanted = {file.path: self._attributes(file) for file in request.files}
        items = [(file.path, self._locate(file.path)) for file in request.files]
        # The lock belongs to the place that a path leads to, whichever path is used.
        items = await self._disk.finish(_follow(items)) or []
        await self._change_all(stream, items, lambda path, place: _apply(wanted[path], place))

    async def _make_directories(self, stream: Stream, request: DirectoryMake) -> None:
        wanted = {item.path: self._attributes(item) for item in request.directories}
        items = [(item.path, self._locate(item.path)) for item in request.directories]
        await self._change_all(stream, items, lambda path, place: _make(wanted[path], place))

    async def _change_all(
        self, stream: Stream, items: Sequence[Item], change: Callable[[str, str], Steps[None]]
    ) -> None:
        """Change what is at each place, under its lock. Then confirm."""
        for at in range(0, len(items), LOCKED_PATHS):
            batch = items[at : at + LOCKED_PATHS]
            with naming(batch[0][0]):
                keys = [path_key(place) for _, place in batch]
                async with self._locks.hold(keys):
                    await self._disk.finish(_each(batch, change))
        await stream.send(Done())

    # -- for all of them

    async def _send_all(self, stream: Stream, infos: Steps[FileInfo | None]) -> None:
        try:
            while turn := await self._disk.turn(infos):
                for info in turn:
                    if info is not None:
                        await stream.send(info)
        finally:
            infos.close()

    def _locate(self, path: str) -> str:
        return absolute(path, self._environment.cwd, self._environment.home)

    def _attributes(self, wanted: FileWrite | FileAttributes) -> Attributes:
        return Attributes(wanted.mode, self._owners.uid(wanted.owner), self._owners.gid(wanted.group))

    def _describe(self, path: str, found: os.stat_result, size: int | None = None) -> FileInfo:
        return FileInfo(
            path=text(path),
            kind=_KINDS.get(stat.S_IFMT(found.st_mode), "other"),
            size=found.st_size if size is None else size,
            mode=stat.S_IMODE(found.st_mode),
            modified_at=found.st_mtime,
            created_at=found.st_ctime,  # the standard library does not report the time of birth
            owner=self._owners.user(found.st_uid),
            group=self._owners.group(found.st_gid),
        )


# -- the steps of changes: each has the path as the client wrote it, and the place that it means


def _each(items: Sequence[Item], change: Callable[[str, str], Steps[None]]) -> Steps[None]:
    for path, place in items:
        with naming(path):
            yield from change(path, place)


def _check_files(items: Sequence[Item]) -> Steps[None]:
    for path, place in items:
        with naming(path):
            if (found := lstat(place)) is not None and stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        yield


def _unlink(_path: str, place: str) -> Steps[None]:
    try:
        os.unlink(place)
    except FileNotFoundError:
        pass
    yield


def _check_directories(items: Sequence[Item]) -> Steps[None]:
    for path, place in items:
        with naming(path):
            found = lstat(place)
            if found is not None and not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if found is not None and os.path.samestat(found, os.stat("/")):
                raise ExecdError("file.bad_path", f"{path}: the root directory cannot be removed")
        yield


def _remove_directory(_path: str, place: str) -> Steps[None]:
    if lstat(place) is not None:
        yield from remove_directory(place)


def _check_moves(items: Sequence[tuple[tuple[str, str], tuple[str, str]]]) -> Steps[None]:
    taken: set[str] = set()
    for (source, destination), (from_path, to_path) in items:
        with naming(source):
            os.lstat(from_path)
        with naming(destination):
            _check_free(to_path, taken)
        if to_path.startswith(from_path.rstrip("/") + "/"):
            raise ExecdError("file.bad_path", f"{destination}: lies inside of {source}, which is being moved")
        taken.add(to_path)
        yield


def _check_free(path: str, taken: Collection[str] = ()) -> None:
    if path in taken or lstat(path) is not None:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _follow(items: Sequence[Item]) -> Steps[list[Item]]:
    followed = []
    for path, place in items:
        with naming(path):
            os.stat(place)
        followed.append((path, os.path.realpath(place)))
        yield followed


def _apply(attributes: Attributes, place: str) -> Steps[None]:
    attributes.apply(place)
    yield


def _make(attributes: Attributes, place: str) -> Steps[None]:
    make_directory(place, attributes)
    yield
