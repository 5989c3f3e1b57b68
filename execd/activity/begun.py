"""The entry that each operation begins with: what the activity tells of a request. Never a variable, never content."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from execd.launch.shell import quoted
from execd.wire.messages import (
    ENTRYPOINT_ID,
    ActivityBegun,
    ContextClose,
    ContextFork,
    ContextInterrupt,
    ContextOpen,
    ContextRestart,
    ContextRun,
    DirectoryMake,
    DirectoryRemove,
    FileAs,
    FileChange,
    FileIn,
    FileMove,
    FileRead,
    FileRemove,
    FileReplace,
    FileWrite,
    PortConnect,
    ProcessSignal,
    ProcessStart,
    PtyAttach,
    PtyClose,
    PtyOpen,
    PtySignal,
    SandboxClaim,
    SessionClose,
    SessionInterrupt,
    SessionOpen,
    SessionRun,
)

MAX_LIST_CHARS = 4096  # of the paths of one request; the entry names the first one apart
MAX_ID_CHARS = 256  # of an id that a client may have made up


def begun(request: Any) -> ActivityBegun | None:
    """Return the beginning of an operation, without its actor; None for a request that only asks."""
    tell = _TELLERS.get(type(request))
    if tell is None:
        return None
    entry: ActivityBegun | None = tell(request)
    if entry is not None and len(entry.context) > MAX_ID_CHARS:
        entry = replace(entry, context=entry.context[:MAX_ID_CHARS])
    return entry


def began(what: str, **fields: Any) -> ActivityBegun:
    """Return the beginning of an operation."""
    return ActivityBegun("", what, **fields)


def entrypoint_begun(request: SandboxClaim) -> ActivityBegun:
    """Return the beginning of a sandbox's entrypoint."""
    return began("entrypoint", text=_line(request.entrypoint), cwd=request.cwd, context=ENTRYPOINT_ID)


def _command(request: ProcessStart) -> ActivityBegun:
    text = request.shell or _line(request.argv)
    return began("command", text=text, cwd=request.cwd, context=request.id, background=request.background)


def _session_open(request: SessionOpen) -> ActivityBegun:
    text = "" if request.isolation is None else "isolated"
    return began("session.open", context=request.id, cwd=request.cwd, text=text)


def _session_run(request: SessionRun) -> ActivityBegun:
    is_job = bool(request.job)
    return began("session", context=request.id, text=request.code, cwd=request.cwd, language="bash", background=is_job)


def _signal(request: ProcessSignal | PtySignal) -> ActivityBegun:
    name = str(request.signal)
    with contextlib.suppress(ValueError):
        name = signal.Signals(request.signal).name
    return began("signal", context=request.id, text=name)


def _paths(what: str, paths: Sequence[str], lines: Sequence[str] = ()) -> ActivityBegun:
    """Return the entry of a request about paths: the first, and all of them in the text if there are several."""
    text = "\n".join(lines or paths) if len(paths) > 1 else ""
    return began(what, path=paths[0] if paths else "", text=text[:MAX_LIST_CHARS])


def _move(request: FileMove) -> ActivityBegun:
    sources = [source for source, _ in request.pairs]
    if len(request.pairs) == 1:
        return began("file.move", path=sources[0], text=request.pairs[0][1])
    return _paths("file.move", sources, [f"{source} -> {target}" for source, target in request.pairs])


def _as_user(request: FileAs) -> ActivityBegun | None:
    return begun(request.request)


def _in_session(request: FileIn) -> ActivityBegun | None:
    inner = begun(request.request)
    return None if inner is None else replace(inner, context=request.session)


def _line(argv: Sequence[str]) -> str:
    """Return arguments as a line for a shell, quoted where that is necessary."""
    return " ".join(word if word.isalnum() or not word.strip(_PLAIN) else quoted(word) for word in argv)


_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_"

_TELLERS: dict[type, Callable[[Any], Any]] = {
    ProcessStart: _command,
    ProcessSignal: _signal,
    ContextOpen: lambda one: began("context.open", context=one.id, language=one.language, cwd=one.cwd),
    ContextClose: lambda one: began("context.close", context=one.id, language=one.language),
    ContextFork: lambda one: began("context.fork", context=one.id, text=" ".join(one.ids)),
    ContextRestart: lambda one: began("context.restart", context=one.id),
    ContextInterrupt: lambda one: began("context.interrupt", context=one.id),
    ContextRun: lambda one: began("code", context=one.id, text=one.code),
    SessionOpen: _session_open,
    SessionRun: _session_run,
    SessionInterrupt: lambda one: began("session.interrupt", context=one.id),
    SessionClose: lambda one: began("session.close", context=one.id),
    PtyOpen: lambda one: began("terminal", context=one.id, text=one.command, cwd=one.cwd),
    PtyAttach: lambda one: began("terminal.attach", context=one.id),
    PtySignal: _signal,
    PtyClose: lambda one: began("terminal.close", context=one.id),
    PortConnect: lambda one: began("port", port=one.port),
    FileRead: lambda one: began("file.read", path=one.path),
    FileWrite: lambda one: began("file.write", path=one.path),
    FileRemove: lambda one: _paths("file.remove", one.paths),
    FileMove: _move,
    FileChange: lambda one: _paths("file.change", [each.path for each in one.files]),
    FileReplace: lambda one: _paths("file.change", [each.path for each in one.files]),
    DirectoryMake: lambda one: _paths("directory.make", [each.path for each in one.directories]),
    DirectoryRemove: lambda one: _paths("directory.remove", one.paths),
    FileAs: _as_user,
    FileIn: _in_session,
}
