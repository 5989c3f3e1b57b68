"""The file requests: each handler serves one stream, and says at most one thing about each path."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

from execd.dispatch import Handler
from execd.environment import Environment
from execd.errors import ExecdError
from execd.files import tree
from execd.files.disk import Disk, Steps
from execd.files.move import lstat, make_directory, move, remove_directory
from execd.files.owners import Owners
from execd.files.paths import absolute, naming, text
from execd.files.pattern import compile_glob
from execd.files.read import PIECE_BYTES, SMALL_BYTES, Source, cut_range, window
from execd.files.write import Attributes, Replacement, replace_text
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
MAX_VISITED = 1_000_000  # entries that one search looks at
MAX_DEPTH = 10_000
INLINE_PATHS = 16  # so many stats are done on the event loop

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


class Files:
    """Files of the sandbox. Done with the rights of execd."""

    def __init__(self, environment: Environment, owners: Owners | None = None) -> None:
        self._environment = environment
        self._owners = owners or Owners()
        self._disk = Disk()

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what `Dispatcher` needs."""
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

    # -- content ----------------------------------------

    async def _read(self, stream: Stream, request: FileRead) -> None:
        by_lines = request.first_line is not None or request.lines is not None
        first = 1 if request.first_line is None else request.first_line
        if by_lines and (first < 1 or (request.lines or 0) < 0):
            raise ExecdError("request.invalid", "lines are counted from 1, and there are never fewer than none")
        if by_lines and (request.offset or request.length is not None):
            raise ExecdError("request.invalid", "either a range of bytes or a window of lines, not both")
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
            raise ExecdError("file.is_directory", f"{request.path}: names a directory")
        with naming(request.path):
            replacement = Replacement(self._locate(request.path), attributes)
            try:
                await self._take_in(stream, replacement)
                # To put a large file in its place may begin to write it out.
                found = await self._run(replacement.size, replacement.commit)
            except BaseException:
                await self._run(replacement.size, replacement.discard)
                raise
        self._owners.refresh()
        await stream.send(self._describe(request.path, found))

    async def _take_in(self, stream: Stream, replacement: Replacement) -> None:
        # A thread costs the same for much as for little, so it gets much at a time. Meanwhile the next may arrive.
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
                steps = replace_text(self._locate(file.path), file.old.encode(), file.new.encode())
                count = await self._disk.finish(steps)
            await stream.send(FileReplaced(file.path, count or 0))

    # -- what is there ----------------------------------------

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
            raise ExecdError("request.invalid", f"a depth of {request.depth}; 1 lists the entries of the directory")
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
                raise ExecdError("request.invalid", f"more than {MAX_VISITED} entries lie below: begin further down")
            if entry.found is None:
                yield None
                continue
            if sent >= MAX_RESULTS:
                raise ExecdError(
                    "request.invalid", f"more than {MAX_RESULTS} files: begin further down, or ask for less"
                )
            sent += 1
            yield self._describe(entry.path, entry.found)

    # -- changing ----------------------------------------

    async def _remove(self, stream: Stream, request: FileRemove) -> None:
        await self._do(stream, self._removals(request.paths))

    def _removals(self, paths: Sequence[str]) -> Steps[None]:
        located = [self._locate(path) for path in paths]
        for path, place in zip(paths, located, strict=True):
            with naming(path):
                if (found := lstat(place)) is not None and stat.S_ISDIR(found.st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            yield
        for path, place in zip(paths, located, strict=True):
            with naming(path):
                try:
                    os.unlink(place)
                except FileNotFoundError:
                    pass
            yield

    async def _remove_directories(self, stream: Stream, request: DirectoryRemove) -> None:
        await self._do(stream, self._directory_removals(request.paths))

    def _directory_removals(self, paths: Sequence[str]) -> Steps[None]:
        located = [self._locate(path) for path in paths]
        for path, place in zip(paths, located, strict=True):
            with naming(path):
                found = lstat(place)
                if found is not None and not stat.S_ISDIR(found.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                if found is not None and os.path.samestat(found, os.stat("/")):
                    raise ExecdError("file.bad_path", f"{path}: the root directory cannot be removed")
            yield
        for path, place in zip(paths, located, strict=True):
            with naming(path):
                if lstat(place) is not None:
                    yield from remove_directory(place)

    async def _move(self, stream: Stream, request: FileMove) -> None:
        await self._do(stream, self._moves(request.pairs))

    def _moves(self, pairs: Sequence[tuple[str, str]]) -> Steps[None]:
        located = [(self._locate(source), self._locate(destination)) for source, destination in pairs]
        taken: set[str] = set()
        for (source, destination), (from_path, to_path) in zip(pairs, located, strict=True):
            with naming(source):
                os.lstat(from_path)
            with naming(destination):
                if to_path in taken or lstat(to_path) is not None:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if to_path.startswith(from_path.rstrip("/") + "/"):
                raise ExecdError("file.bad_path", f"{destination}: lies inside of {source}, which is to be moved")
            taken.add(to_path)
            yield
        for (source, destination), (from_path, to_path) in zip(pairs, located, strict=True):
            with naming(f"{source} to {destination}"):
                yield from move(from_path, to_path)

    async def _change(self, stream: Stream, request: FileChange) -> None:
        await self._do(stream, self._changes(request.files))

    def _changes(self, files: Sequence[FileAttributes]) -> Steps[None]:
        wanted = [(file.path, self._locate(file.path), self._attributes(file)) for file in files]
        for path, place, _ in wanted:
            with naming(path):
                os.stat(place)
            yield
        for path, place, attributes in wanted:
            with naming(path):
                attributes.apply(place)
            yield

    async def _make_directories(self, stream: Stream, request: DirectoryMake) -> None:
        await self._do(stream, self._directories(request.directories))

    def _directories(self, directories: Sequence[FileAttributes]) -> Steps[None]:
        wanted = [(item.path, self._locate(item.path), self._attributes(item)) for item in directories]
        for path, place, attributes in wanted:
            with naming(path):
                make_directory(place, attributes)
            yield

    # -- what all of them need ----------------------------------------

    async def _do(self, stream: Stream, steps: Steps[None]) -> None:
        await self._disk.finish(steps)
        await stream.send(Done())

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
            created_at=found.st_ctime,  # the standard library does not tell the time of birth
            owner=self._owners.user(found.st_uid),
            group=self._owners.group(found.st_gid),
        )
