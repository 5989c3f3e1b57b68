"""The start of a program: fork, exec, and a clear error if either fails. The reaper follows the program to its end."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from execd.errors import ExecdError
from execd.launch.environment import DEFAULT_PATH, Identity, Launch
from execd.process.oom import RaisedScore

PIPE = subprocess.PIPE  # create a pipe; execd's end is in Child
NULL = subprocess.DEVNULL
MERGED = subprocess.STDOUT  # for stderr only: use the pipe of stdout

_TIOCSCTTY = 0x540E  # the same number on x86, arm64 and riscv; the module that names it is a library of its own
_OF_TERMINALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

SHELLS = ("bash", "sh")
MAX_ARGUMENT_BYTES = 128 * 1024 - 1  # the kernel's MAX_ARG_STRLEN, without the NUL at its end


class ShellProgram(NamedTuple):
    """The program that runs a script."""

    argv: list[str]
    executable: str
    fds: tuple[int, ...]  # descriptors that the program inherits


class Child(NamedTuple):
    """A program that was executed. It leads a session and a process group, whose numbers are its pid.

    The descriptors are execd's ends of its pipes. They are non-blocking, and -1 if there is none. The caller of spawn()
    closes them.
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

    The call blocks until the program is executed (0.2 ms; 1 ms as another user). It does not wait for the program's
    end: pass the pid to `Reaper.watch` before the event loop runs again. A start that fails leaves nothing behind.

    Args:
        stdin: PIPE, NULL or a descriptor; stdout likewise; stderr likewise or MERGED.
        pass_fds: Descriptors that the program inherits under the same numbers.
        executable: The program's path, if it is not argv[0]. A name without a slash is looked up in the program's PATH.
        is_terminal: stdin is a terminal, and becomes the controlling terminal of the session.

    Raises:
        ExecdError: `request.invalid`: an argument cannot be passed; otherwise `process.spawn_failed`.
    """
    check_arguments(argv)
    _check_cwd(launch.cwd)
    ours: list[int] = []
    theirs: list[int] = []
    try:
        stdin_end, stdin = _pipe(stdin, launch.identity, ours, theirs, child_reads=True)
        stdout_end, stdout = _pipe(stdout, launch.identity, ours, theirs)
        stderr_end, stderr = _pipe(stderr, launch.identity, ours, theirs)
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


@contextmanager
def shell_program(script: str, env: Mapping[str, str]) -> Iterator[ShellProgram]:
    """Return the program that runs a script: bash from the PATH in *env*, else sh. Spawn it inside the `with` block.

    The shell is looked up every time. That takes some 10 µs, and the result changes when a user installs bash. A
    script that is too long for an argument is passed as a file in memory.

    Raises:
        ExecdError: `process.spawn_failed`: there is no shell, or no memory for the script.
    """
    name, executable = find_shell(env)
    text = os.fsencode(script)
    if len(text) <= MAX_ARGUMENT_BYTES:
        yield ShellProgram([name, "-c", script], executable, ())
        return
    fd = _file_of(text)
    try:
        yield ShellProgram([name, "-c", _reader_of(fd, name)], executable, (fd,))
    finally:
        os.close(fd)


def find_shell(env: Mapping[str, str]) -> tuple[str, str]:
    """Return the name and the path of the shell: bash from the PATH in *env*, else sh.

    Raises:
        ExecdError: `process.spawn_failed`: there is neither.
    """
    path = env.get("PATH") or DEFAULT_PATH
    for name in SHELLS:
        for directory in path.split(":"):
            candidate = os.path.join(directory, name)
            if directory.startswith("/") and os.access(candidate, os.X_OK) and os.path.isfile(candidate):
                return name, candidate
    raise ExecdError("process.spawn_failed", f"this image has no shell: neither bash nor sh in PATH {path}; use argv")


def _file_of(text: bytes) -> int:
    """Return the descriptor of a file in memory that holds a script. It stands at the beginning of the file."""
    fd = -1
    try:
        fd = os.memfd_create("script")
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(text)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        problem = f"there is no memory for a script of {len(text)} bytes: {error.strerror}"
        raise ExecdError("process.spawn_failed", problem) from error
    return fd


def _reader_of(fd: int, shell: str) -> str:
    """Return the script that runs the script in a descriptor as `-c` would, with the same $0 and line numbers."""
    if shell == "bash":
        return f'eval "exec {fd}<&-; $(</dev/fd/{fd})"'
    return f'eval "$(cat /dev/fd/{fd})"'  # other shells close only descriptors of one digit


def check_arguments(argv: Sequence[str]) -> None:
    """Refuse arguments that no program can be given.

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
    popen.returncode = 0  # the reaper waits for the process: Popen must neither wait nor warn when it is collected
    return popen.pid


def _take_terminal() -> None:
    # This runs in the new process, which leads its session and has the terminal as its stdin. A signal that the starter
    # of execd ignored (nohup) would stay ignored, and the program would not notice a hang-up.
    for number in _OF_TERMINALS:
        signal.signal(number, signal.SIG_DFL)
    fcntl.ioctl(0, _TIOCSCTTY, 0)


def _pipe(
    wish: int, identity: Identity | None, ours: list[int], theirs: list[int], *, child_reads: bool = False
) -> tuple[int, int]:
    if wish != PIPE:
        return -1, wish
    reading, writing = os.pipe()
    our_end, their_end = (writing, reading) if child_reads else (reading, writing)
    ours.append(our_end)
    theirs.append(their_end)
    os.set_blocking(our_end, False)
    if identity is not None:
        # The child opens the pipe again when it opens /dev/stdout, which only the owner may do.
        os.fchown(their_end, identity.uid, identity.gid)
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
        return "the arguments or the environment are too long: one argument may have 128 KiB, all of them about 2 MiB"
    if number in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return f"another process cannot be started: {reason}"
    if error.filename == launch.cwd and launch.cwd != program:
        return f"the working directory {launch.cwd}: {reason}"
    if number == errno.ENOENT and "/" in program and os.path.exists(os.path.join(launch.cwd, program)):
        return f"{program}: its interpreter or loader does not exist"
    if number == errno.ENOENT and "/" not in program:
        return f"{program}: not found in PATH {launch.env.get('PATH', '')}"
    return f"{program}: {reason}"
