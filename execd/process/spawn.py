"""Start a program: fork, exec, and a clear error when that fails. What becomes of it is the reaper's business."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from execd.environment import DEFAULT_PATH, Launch
from execd.errors import ExecdError
from execd.process.oom import RaisedScore

PIPE = subprocess.PIPE  # a pipe, whose our end is in Child
NULL = subprocess.DEVNULL
MERGED = subprocess.STDOUT  # stderr only: into the same pipe as stdout

_TIOCSCTTY = 0x540E  # the same number on x86, arm64 and riscv; the module that names it is a library of its own
_OF_TERMINALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

SHELLS = ("bash", "sh")


class Child(NamedTuple):
    """A program that was executed. It leads a session and a process group; both have its pid as their number.

    The descriptors are our ends of its pipes, non-blocking, -1 where there is none; whoever called spawn() closes them.
    """

    pid: int
    stdin: int
    stdout: int
    stderr: int


def spawn(
    argv: Sequence[str],
    launch: Launch,
    *,
    stdin: int = NULL,
    stdout: int = PIPE,
    stderr: int = PIPE,
    pass_fds: Iterable[int] = (),
    executable: str | None = None,
    is_terminal: bool = False,
) -> Child:
    """Execute *argv* in a session and process group of its own, with no descriptors but those named here.

    Blocks until the program is executed (0.2 ms; 1 ms as another user). Nobody waits for it: hand the pid to
    `Reaper.watch` before anything else gets to run. Nothing is left over when it fails.

    Args:
        stdin: PIPE, NULL or a descriptor; stdout likewise; stderr likewise or MERGED.
        pass_fds: descriptors that it inherits, under the same numbers.
        executable: the program's path, where argv[0] is not it. A name without a slash is looked up in its PATH.
        is_terminal: stdin is a terminal, and becomes the controlling one of the session.

    Raises:
        ExecdError: `request.invalid` for an argument that cannot be, else `process.spawn_failed`.
    """
    check_arguments(argv)
    _check_cwd(launch.cwd)
    ours: list[int] = []
    theirs: list[int] = []
    try:
        stdin_end, stdin = _pipe(stdin, ours, theirs, child_reads=True)
        stdout_end, stdout = _pipe(stdout, ours, theirs)
        stderr_end, stderr = _pipe(stderr, ours, theirs)
        pid = _execute(argv, launch, (stdin, stdout, stderr), pass_fds, executable, is_terminal=is_terminal)
    except OSError as error:
        _close(ours)
        raise ExecdError("process.spawn_failed", _explain(error, argv[0], launch)) from error
    except BaseException:
        _close(ours)
        raise
    finally:
        _close(theirs)
    return Child(pid, stdin_end, stdout_end, stderr_end)


def shell_argv(script: str, env: Mapping[str, str]) -> tuple[list[str], str]:
    """Return the argv and the executable that run a script: bash from the PATH in *env*, else sh.

    Looked up anew each time: that takes some 10 µs, and the answer changes when somebody installs bash.

    Raises:
        ExecdError: `process.spawn_failed`, there is neither.
    """
    path = env.get("PATH") or DEFAULT_PATH
    for name in SHELLS:
        for directory in path.split(":"):
            candidate = os.path.join(directory, name)
            if directory.startswith("/") and os.access(candidate, os.X_OK) and os.path.isfile(candidate):
                return [name, "-c", script], candidate
    raise ExecdError("process.spawn_failed", f"this image has no shell: neither bash nor sh in PATH {path}; use argv")


def check_arguments(argv: Sequence[str]) -> None:
    """Refuse what no program can be given.

    Raises:
        ExecdError: `request.invalid`.
    """
    if not argv or not argv[0]:
        raise ExecdError("request.invalid", "no program is named")
    if any("\0" in argument for argument in argv):
        raise ExecdError("request.invalid", "an argument contains a NUL byte")


def _execute(
    argv: Sequence[str],
    launch: Launch,
    stdio: tuple[int, int, int],
    pass_fds: Iterable[int],
    executable: str | None,
    *,
    is_terminal: bool,
) -> int:
    identity = launch.identity
    with RaisedScore():
        popen = subprocess.Popen(
            argv,
            executable=executable,
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            pass_fds=tuple(pass_fds),
            env=launch.env,
            cwd=launch.cwd,
            start_new_session=True,
            user=identity.uid if identity else None,
            group=identity.gid if identity else None,
            extra_groups=identity.groups if identity else None,
            preexec_fn=_take_terminal if is_terminal else None,  # noqa: PLW1509 - system calls, no lock
        )
    popen.returncode = 0  # we reap: it must neither wait nor warn when it is collected
    return popen.pid


def _take_terminal() -> None:
    # In the new process, which leads its session already and has the terminal as its stdin. What execd's starter
    # ignored (nohup) would stay ignored, and a hang-up unheard.
    for number in _OF_TERMINALS:
        signal.signal(number, signal.SIG_DFL)
    fcntl.ioctl(0, _TIOCSCTTY, 0)


def _pipe(wish: int, ours: list[int], theirs: list[int], *, child_reads: bool = False) -> tuple[int, int]:
    if wish != PIPE:
        return -1, wish
    reading, writing = os.pipe()
    our_end, their_end = (writing, reading) if child_reads else (reading, writing)
    ours.append(our_end)
    theirs.append(their_end)
    os.set_blocking(our_end, False)
    return our_end, their_end


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _check_cwd(cwd: str) -> None:
    if not os.path.isdir(cwd):
        problem = "is not a directory" if os.path.lexists(cwd) else "does not exist"
        raise ExecdError("process.spawn_failed", f"the working directory {cwd} {problem}")


def _explain(error: OSError, program: str, launch: Launch) -> str:
    reason = error.strerror or str(error)
    number = error.errno
    if number in (errno.EPERM, errno.EINVAL) and launch.identity and error.filename != program:
        uid, gid, _ = launch.identity
        return f"cannot run as {uid}:{gid}: {reason}; execd runs as {os.geteuid()}:{os.getegid()}"
    if number == errno.E2BIG:
        return "the arguments or the environment are too long: one argument may have 128 KiB, all together some 2 MiB"
    if number in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return f"no room for another process: {reason}"
    if error.filename == launch.cwd and launch.cwd != program:
        return f"the working directory {launch.cwd}: {reason}"
    if number == errno.ENOENT and "/" in program and os.path.exists(os.path.join(launch.cwd, program)):
        return f"{program}: its interpreter or loader does not exist"
    if number == errno.ENOENT and "/" not in program:
        return f"{program}: not found in PATH {launch.env.get('PATH', '')}"
    return f"{program}: {reason}"
