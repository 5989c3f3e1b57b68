"""Terminals: a shell or a program on a PTY, which lives on while nobody is attached, with replay for who comes back.

It can also be on pipes, for clients that want stdout and stderr apart. Which of the two is said by whoever attaches
first: that is when the program starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
from collections import deque

from execd.dispatch import Handler
from execd.environment import Environment, Launch
from execd.errors import ExecdError
from execd.process.limits import Limits
from execd.process.output import Output
from execd.process.pipes import InputPipe
from execd.process.process import GRACE_S, Process
from execd.process.reap import Reaper
from execd.process.spawn import PIPE, Child, check_arguments, shell_argv, spawn
from execd.wire.aio import BROKEN, Data, Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    Done,
    ProcessExited,
    PtyAttach,
    PtyClose,
    PtyList,
    PtyOpen,
    PtyResize,
    PtySignal,
    PtyState,
    Request,
)

MAX_TERMINALS = 64
MAX_REMEMBERED = 64  # whose programs have ended
REPLAY_BYTES = 1 << 20
PENDING_BYTES = 64 * 1024  # that wait for the client; then the program waits too
MAX_CELLS = 10_000
DEFAULT_TERM = "xterm-256color"

_TIOCSWINSZ = 0x5414  # the same number on x86, arm64 and riscv


class Terminals:
    """The requests about terminals, served. Make it inside the running event loop."""

    def __init__(self, reaper: Reaper, environment: Environment) -> None:
        self._reaper = reaper
        self._environment = environment
        self._limits = Limits()
        self._terminals: dict[str, Terminal] = {}

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what serves each request."""
        return {
            PtyOpen: self._open,
            PtyAttach: self._attach,
            PtyResize: self._resize,
            PtySignal: self._signal,
            PtyList: self._list,
            PtyClose: self._close,
        }

    def shutdown(self) -> None:
        """Hang up all of them."""
        for terminal in self._terminals.values():
            terminal.hang_up()

    async def _open(self, stream: Stream, request: PtyOpen) -> None:
        if not request.id or request.id in self._terminals:
            raise ExecdError("process.duplicate", f"there is a terminal {request.id} already")
        if sum(terminal.is_running for terminal in self._terminals.values()) >= MAX_TERMINALS:
            raise ExecdError("pty.too_many", f"{MAX_TERMINALS} terminals may run at once; close one")
        _check_size(request.cols, request.rows)
        launch = self._environment.prepare(env=request.env, cwd=request.cwd, uid=request.uid, gid=request.gid)
        if request.command:
            check_arguments((request.command,))
        self._terminals[request.id] = Terminal(request, launch, self._reaper, self._limits)
        ended = [terminal for terminal in self._terminals.values() if not terminal.is_running]
        for terminal in ended[:-MAX_REMEMBERED]:
            del self._terminals[terminal.id]
        await stream.send(Done())

    async def _attach(self, stream: Stream, request: PtyAttach) -> None:
        await self._find(request.id).attach(stream, request)

    async def _resize(self, stream: Stream, request: PtyResize) -> None:
        _check_size(request.cols, request.rows)
        self._find(request.id).resize(request.cols, request.rows)
        await stream.send(Done())

    async def _signal(self, stream: Stream, request: PtySignal) -> None:
        if not 1 <= request.signal < signal.NSIG:
            raise ExecdError("request.invalid", f"{request.signal} is not a signal")
        self._find(request.id).signal(request.signal)
        await stream.send(Done())

    async def _list(self, stream: Stream, request: PtyList) -> None:
        for terminal in [self._find(request.id)] if request.id else list(self._terminals.values()):
            await stream.send(terminal.state())

    async def _close(self, stream: Stream, request: PtyClose) -> None:
        terminal = self._find(request.id)
        del self._terminals[request.id]
        await terminal.close()
        await stream.send(Done())

    def _find(self, terminal_id: str) -> Terminal:
        try:
            return self._terminals[terminal_id]
        except KeyError:
            raise ExecdError("pty.not_found", f"there is no terminal {terminal_id}") from None


class _Client:
    """Who is attached, and what it has not been sent yet."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.turn = asyncio.Event()
        self.pending: deque[tuple[bytes, Channel]] = deque()
        self.pending_bytes = 0

    def push(self, data: bytes, channel: Channel) -> bool:
        """Take output; False when that is enough for now."""
        self.pending.append((data, channel))
        self.pending_bytes += len(data)
        self.turn.set()
        return self.pending_bytes < PENDING_BYTES


class Terminal:
    """One program, its last output, and at most one client."""

    def __init__(self, request: PtyOpen, launch: Launch, reaper: Reaper, limits: Limits) -> None:
        self.id = request.id
        self._request = request
        self._launch = launch
        self._reaper = reaper
        self._limits = limits
        self._size = (request.rows, request.cols)
        self._process: Process | None = None  # None: nobody has attached yet
        self._master = -1  # our end of the PTY, or none
        self._output = Output(head_bytes=1, tail_bytes=REPLAY_BYTES)
        self._client: _Client | None = None

    @property
    def is_running(self) -> bool:
        """Whether its program runs, or is still to be started."""
        return self._process is None or self._process.exited is None

    def state(self, output_start: int = 0) -> PtyState:
        """As the control plane sees it."""
        pid = self._process.pid if self._process else 0
        return PtyState(self.id, self.is_running, pid, output_start, self._output.end, self._master >= 0)

    async def attach(self, stream: Stream, request: PtyAttach) -> None:
        """Be its client: get what it has said since an offset, and what it says from now on, up to its end.

        Raises:
            ExecdError: `pty.attached`, there is another client; or what starting the program raises.
        """
        if self._client is not None and not request.takeover:
            raise ExecdError("pty.attached", f"another client is attached to terminal {self.id}")
        if request.since < 0:
            raise ExecdError("request.invalid", f"offset {request.since}")
        process = self._process or self._start(is_terminal=not request.pipes)
        if self._client is not None:
            self._client.stream.reset("pty.taken", "another client has taken the terminal over")
            self._client.turn.set()
        client = self._client = _Client(stream)
        start, replay = self._kept(request.since)
        state = self.state(start)
        feeding = asyncio.ensure_future(_feed(stream, process.stdin))
        try:
            await stream.send(state)
            await stream.write(replay, Channel.STDOUT)
            del replay
            process.resume()
            while self._client is client:
                if client.pending:
                    data, channel = client.pending.popleft()
                    await stream.write(data, channel)
                    client.pending_bytes -= len(data)
                elif process.exited is not None:
                    await stream.send(process.exited)
                    return
                else:
                    process.resume()
                    await client.turn.wait()
                    client.turn.clear()
        finally:
            feeding.cancel()
            if self._client is client:
                self._client = None
                process.resume()  # what nobody sees is kept for the next client

    def resize(self, cols: int, rows: int) -> None:
        """Set the size of the window; its program hears of it. On pipes there is none."""
        self._size = (rows, cols)
        if self._master >= 0:
            with contextlib.suppress(OSError):
                _set_size(self._master, self._size)

    def signal(self, number: int) -> None:
        """Signal what is in the foreground of the terminal; on pipes, the process group."""
        if self._process is None:
            return
        if self._master >= 0:
            with contextlib.suppress(OSError):
                group = os.tcgetpgrp(self._master)
                if group > 1:
                    os.killpg(group, number)
        else:
            self._process.signal(number)

    def hang_up(self) -> None:
        """Tell the program that its terminal is gone; what ignores that is killed a little later."""
        if self._process is not None and self._process.exited is None:
            self._process.signal(signal.SIGHUP, kill_after_s=GRACE_S)
            self._process.signal(signal.SIGCONT)

    async def close(self) -> None:
        """Hang up, and return when the program has ended."""
        self.hang_up()
        if self._process is not None:
            await self._process.wait()
            self._process.close()
        self._forget_master()

    # -- inside

    def _start(self, *, is_terminal: bool) -> Process:
        argv, executable = _program(self._request.command, self._launch)
        child = self._spawn_on_terminal(argv, executable) if is_terminal else self._spawn_on_pipes(argv, executable)
        process = Process(
            self.id,
            self._request.command or argv[0],
            child,
            reaper=self._reaper,
            limits=self._limits,
            sink=self._take,
        )
        self._process = process
        process.on_end(self._ended)
        return process

    def _spawn_on_terminal(self, argv: list[str], executable: str) -> Child:
        launch = self._launch._replace(env={"TERM": DEFAULT_TERM, **self._launch.env})
        try:
            master, slave = os.openpty()
        except OSError as error:
            raise ExecdError("process.spawn_failed", f"no terminal to be had: {error.strerror}") from error
        made = [master]
        try:
            _set_size(slave, self._size)
            if launch.identity is not None:
                with contextlib.suppress(OSError):
                    os.fchown(slave, launch.identity.uid, -1)
            os.set_blocking(master, False)
            made += [fcntl.fcntl(master, fcntl.F_DUPFD_CLOEXEC, 3) for _ in range(2)]
            child = spawn(
                argv, launch, stdin=slave, stdout=slave, stderr=slave, executable=executable, is_terminal=True
            )
        except OSError as error:
            _close_all(made)
            raise ExecdError("process.spawn_failed", f"no terminal to be had: {error.strerror}") from error
        except BaseException:
            _close_all(made)
            raise
        finally:
            os.close(slave)
        stdout, stdin, self._master = made
        return Child(child.pid, stdin, stdout, -1)

    def _spawn_on_pipes(self, argv: list[str], executable: str) -> Child:
        return spawn(argv, self._launch, stdin=PIPE, executable=executable)

    def _take(self, data: bytes, channel: Channel) -> bool:
        """The sink of its output."""
        self._output.append(data)
        return self._client is None or self._client.push(data, channel)

    def _kept(self, since: int) -> tuple[int, bytes]:
        """Return what is kept of the output from an offset on, and where that begins: all of it follows each other."""
        if self._output.end > self._output.kept_bytes:
            since = max(since, self._output.tail_start)
        start, data = self._output.read(since, REPLAY_BYTES)
        return start, data + self._output.read(start + len(data), REPLAY_BYTES).data

    def _ended(self, _: ProcessExited) -> None:
        self._forget_master()
        if self._client is not None:
            self._client.turn.set()

    def _forget_master(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


async def _feed(stream: Stream, stdin: InputPipe) -> None:
    """Carry what the client types. Its END is no end of input: the next client types on."""
    with contextlib.suppress(*BROKEN):
        while (item := await stream.receive()) is not None:
            if isinstance(item, Data):
                await stdin.write(item.data)


def _program(command: str, launch: Launch) -> tuple[list[str], str]:
    argv, executable = shell_argv(command, launch.env)
    return (argv, executable) if command else (argv[:1], executable)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _set_size(fd: int, size: tuple[int, int]) -> None:
    fcntl.ioctl(fd, _TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


def _check_size(cols: int, rows: int) -> None:
    if not (1 <= cols <= MAX_CELLS and 1 <= rows <= MAX_CELLS):
        raise ExecdError("request.invalid", f"a window of {cols} columns and {rows} rows")
