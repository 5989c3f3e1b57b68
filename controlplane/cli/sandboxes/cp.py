"""`sandlot cp`: files and directories, to and from a sandbox."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import PurePosixPath
from typing import NamedTuple

from controlplane.cli.parsing import Options, Parser, Say, add_place
from controlplane.cli.sandboxes.target import server_of
from controlplane.client.copying import (
    Remote,
    Report,
    download_file,
    download_tree,
    listing,
    look,
    read_file,
    upload_file,
    upload_tree,
    write_file,
)
from controlplane.client.names import find
from controlplane.client.server import Json, Server
from controlplane.client.stream import connected
from controlplane.client.terminal import read_input, write_output
from controlplane.client.text import safe, size
from controlplane.errors import InvalidRequest, SandlotError

DESCRIPTION = """Copy a file or a directory to or from a sandbox. One side is ID:PATH, the other one a local path, or -
for the standard input or output. An existing directory takes the source into it; with /. at its end, the source gives
its content. Modes are kept, and times on this side. Links are left out, and nothing is written outside DESTINATION."""
EXAMPLES = """examples:
  sandlot cp main.py web:/app/
  sandlot cp web:/app/out ./results
  sandlot cp src/. web:/app
  sandlot cp web:/var/log/app.log - | less

exit status:
  0 all was copied (links and devices that were left out are named), 1 something was not, 2 wrong usage
"""
SHOWN = 20  # failures and what was left out
STEP_S = 0.1  # between two changes of the progress line


class Local(NamedTuple):
    """A path of this machine; `-` is a standard stream."""

    path: str


class Inside(NamedTuple):
    """A path of a sandbox."""

    sandbox: str
    path: str


def add(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("-L", "--follow", action="store_true", help="copy what links lead to")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, and no list of what was left out")
    parser.add_argument("--owner", default="", metavar="USER[:GROUP]", help="the owner of what is written in a sandbox")
    parser.add_argument("source", metavar="SOURCE", help="ID:PATH, a local path, or -")
    parser.add_argument("destination", metavar="DESTINATION", help="ID:PATH, a local path, or -")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """Copy; return the exit status."""
    source, destination = place(options.source), place(options.destination)
    inside = source if isinstance(source, Inside) else destination
    if isinstance(source, Inside) == isinstance(destination, Inside) or not isinstance(inside, Inside):
        raise InvalidRequest("one side must be ID:PATH, and the other one a local path or -")
    if options.owner and isinstance(source, Inside):
        raise InvalidRequest("--owner: is for copies into a sandbox")
    server = server_of(options)
    sandbox_id = str(find(server, inside.sandbox)["id"])
    report = Report(_Progress(is_shown=not options.quiet and sys.stderr.isatty()).show)
    try:
        asyncio.run(_copy(server, sandbox_id, source, destination, report, options))
    except OSError as error:
        report.failures.append(_text(error))
    except BaseExceptionGroup as group:
        errors = [error for error in _leaves(group) if isinstance(error, SandlotError | OSError)]
        if not errors:
            raise
        report.failures += [error.message if isinstance(error, SandlotError) else _text(error) for error in errors[:1]]
    return _tell(report, is_quiet=options.quiet)


def place(text: str) -> Local | Inside:
    """Return what an argument means. A local path with a colon is written with `./`. Raises InvalidRequest."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or not name or text.startswith((".", "~")):
        if not text:
            raise InvalidRequest("a path is empty")
        return Local(text)
    if not path:
        raise InvalidRequest(f"{text}: write a path after the colon, such as {text}/")
    return Inside(name, path)


async def _copy(
    server: Server,
    sandbox_id: str,
    source: Local | Inside,
    destination: Local | Inside,
    report: Report,
    options: Options,
) -> None:
    async with connected(server, sandbox_id) as connection:
        remote = Remote(server, sandbox_id, connection)
        if isinstance(source, Inside):
            await _download(remote, source.path, destination.path, report, follow=options.follow)
        else:
            await _upload(remote, source.path, destination.path, report, options)


async def _download(remote: Remote, path: str, target: str, report: Report, *, follow: bool) -> None:
    is_content = path.endswith("/.")
    path = _plain(path)
    found = await asyncio.to_thread(look, remote, path)
    if found is None:
        raise InvalidRequest(f"{path}: the sandbox has no such file")
    if found.kind == "directory" or (found.kind == "symlink" and _is_directory(remote, path)):
        if target == "-":
            raise InvalidRequest(f"{path}: is a directory, which needs a directory here")
        if os.path.isdir(target) and not is_content and (name := PurePosixPath(path).name):
            target = os.path.join(target, name)
        await download_tree(remote, path, target, report, follow=follow)
    elif target == "-":

        async def take(data: bytes) -> None:
            await write_output(1, data)

        await read_file(remote, path, take)
        report.files += 1
    else:
        if target.endswith("/") and not os.path.isdir(target):
            raise InvalidRequest(f"{target}: there is no such directory")
        target = os.path.join(target, PurePosixPath(path).name) if os.path.isdir(target) else target
        await download_file(remote, path, target, report)


async def _upload(remote: Remote, source: str, path: str, report: Report, options: Options) -> None:
    owner = _owner(options.owner)
    is_into = path.endswith(("/", "/."))
    path = _plain(path)
    if source == "-":
        if is_into:
            raise InvalidRequest(f"{path}: write the name of the file that the input becomes")
        await write_file(remote, path, read_input(0), report, owner=owner)
        return
    is_content = source.endswith("/.")
    found = await asyncio.to_thread(look, remote, path)
    is_directory = found is not None and (
        found.kind == "directory" or (found.kind == "symlink" and _is_directory(remote, path))
    )
    name = os.path.basename(os.path.abspath(source))
    if (is_directory or (is_into and not os.path.isdir(source))) and not is_content and name:
        path = f"{path.rstrip('/')}/{name}"
    if os.path.isdir(source):
        await upload_tree(remote, source, path, report, follow=options.follow, owner=owner)
    else:
        await upload_file(remote, source, path, report, owner=owner)


def _is_directory(remote: Remote, path: str) -> bool:
    """Return whether a link of a sandbox leads to a directory."""
    try:
        next(listing(remote, path), None)
    except SandlotError:
        return False
    return True


def _plain(path: str) -> str:
    """Return a path of a sandbox without `/.` and slashes at its end."""
    path = path.removesuffix("/.") or "/"
    return path.rstrip("/") or "/"


def _owner(text: str) -> Json:
    owner, _, group = text.partition(":")
    return {key: value for key, value in (("owner", owner), ("group", group)) if value}


def _text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


class _Progress:
    """A line on the terminal that says how far a copy is."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._began = time.monotonic()
        self._next = self._began + STEP_S

    def show(self, report: Report) -> None:
        """Show the line, not too often."""
        now = time.monotonic()
        if self._is_shown and now >= self._next:
            self._next = now + STEP_S
            pace = size(report.bytes / (now - self._began))
            sys.stderr.write(f"\r\x1b[K{report.files} file(s), {size(report.bytes)}, {pace}/s")
            sys.stderr.flush()


def _tell(report: Report, *, is_quiet: bool) -> int:
    """Tell how the copy ended; return the exit status."""
    if sys.stderr.isatty() and not is_quiet:
        sys.stderr.write(f"\r\x1b[Kcopied {report.files} file(s), {size(report.bytes)}\n")
    for kind, lines in (("left out", report.skipped if not is_quiet else []), ("failed", report.failures)):
        for line in lines[:SHOWN]:
            sys.stderr.write(f"sandlot: {kind}: {safe(line)}\n")
        if len(lines) > SHOWN:
            sys.stderr.write(f"sandlot: {kind}: and {len(lines) - SHOWN} more\n")
    return int(bool(report.failures))
