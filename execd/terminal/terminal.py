"""One terminal: a program on a PTY, which lives on while no client is attached. A client that returns gets a replay.

A terminal can also be on pipes, for clients that want stdout and stderr apart. The first client that attaches chooses,
and its attachment starts the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
from collections import deque

from execd.errors import ExecdError
from execd.launch.environment import Launch
from execd.process.limits import Limits
from execd.process.output import Output
from execd.process.pipes import InputPipe
from execd.process.process import GRACE_S, Process, Witness, Witnesses, no_witness
from execd.process.reap import Reaper
from execd.process.spawn import PIPE, Child, ShellProgram, find_shell, shell_program, spawn
from execd.wire.aio import BROKEN, Data, Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    TERMINAL_CHANNEL,
    ProcessExited,
    PtyAttach,
    PtyOpen,
    PtyState,
)
from execd.wire.utf8 import continued

REPLAY_BYTES = 1 << 20

PENDING_BYTES = 64 * 1024  # that wait for the client; beyond that the program waits as well

DEFAULT_TERM = "xterm-256color"

_TIOCSWINSZ = 0x5414  # the same number on x86, arm64 and riscv


class _Client:
    """The attached client, and the output that it has not been sent yet."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.turn = asyncio.Event()
        self.pending: deque[tuple[bytes, Channel]] = deque()
        self.pending_bytes = 0

    def push(self, data: bytes, channel: Channel) -> bool:
        """Take output. Return False if that is enough for now."""
        self.pending.append((data, channel))
        self.pending_bytes += len(data)
        self.turn.set()
        return self.pending_bytes < PENDING_BYTES


class Terminal:
    """One program, its last output, and at most one client."""

    def __init__(
        self,
        request: PtyOpen,
        launch: Launch,
        reaper: Reaper,
        limits: Limits,
        witnesses: Witnesses = no_witness,
    ) -> None:
        self.id = request.id
        self._witnesses = witnesses
        self._witness: Witness | None = None  # of the program
        self._request = request
        self._launch = launch
        self._reaper = reaper
        self._limits = limits
        self._size = (request.rows, request.cols)
        self._process: Process | None = None  # None: no client has attached yet
        self._master = -1  # execd's end of the PTY; -1: there is none
        self._output = Output(head_bytes=1, tail_bytes=REPLAY_BYTES)
        self._client: _Client | None = None

    @property
    def is_running(self) -> bool:
        """Whether the program runs, or has not been started yet."""
        return self._process is None or self._process.exited is None

    def state(self, output_start: int = 0) -> PtyState:
        """Return the state of the terminal, for the control plane."""
        pid = self._process.pid if self._process else 0
        return PtyState(self.id, self.is_running, pid, output_start, self._output.end, self._master >= 0)

    async def attach(self, stream: Stream, request: PtyAttach) -> None:
        """Make a stream the client. Send the output since an offset, and what follows up to the program's end.

        Raises:
            ExecdError: `pty.attached`: there is another client; or what the start of the program raises.
        """
        if self._client is not None and not request.takeover:
            raise ExecdError("pty.attached", f"another client is attached to terminal {self.id}")
        if request.since < 0:
            raise ExecdError("request.invalid", f"offset {request.since}")
        process = self._process or self._start(is_terminal=not request.pipes)
        if self._client is not None:
            self._client.stream.reset("pty.taken", "another client has taken over the terminal")
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
                process.resume()  # output that no client sees is kept for the next client

    def resize(self, cols: int, rows: int) -> None:
        """Set the size of the window, and tell the program. On pipes there is no window."""
        self._size = (rows, cols)
        if self._master >= 0:
            with contextlib.suppress(OSError):
                _set_size(self._master, self._size)

    def signal(self, number: int) -> None:
        """Send a signal to the foreground of the terminal; on pipes, to the process group."""
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
        """Tell the program that its terminal is gone. Kill it a little later if it ignores that."""
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
        spawn_it = self._spawn_on_terminal if is_terminal else self._spawn_on_pipes
        command = self._request.command
        if command:
            with shell_program(command, self._launch.env) as program:
                child = spawn_it(program)
        else:
            command, executable = find_shell(self._launch.env)
            child = spawn_it(ShellProgram([command], executable, ()))
        self._witness = self._witnesses(self.id, child.pid)
        process = Process(
            self.id,
            command,
            child,
            reaper=self._reaper,
            limits=self._limits,
            sink=self._take,
            witness=self._witness,
        )
        self._process = process
        process.on_end(self._ended)
        return process

    def _spawn_on_terminal(self, program: ShellProgram) -> Child:
        launch = self._launch._replace(env={"TERM": DEFAULT_TERM, **self._launch.env})
        try:
            master, slave = os.openpty()
        except OSError as error:
            raise ExecdError("process.spawn_failed", f"a terminal cannot be opened: {error.strerror}") from error
        made = [master]
        try:
            _set_size(slave, self._size)
            if launch.identity is not None:
                with contextlib.suppress(OSError):
                    os.fchown(slave, launch.identity.uid, -1)
            os.set_blocking(master, False)
            made += [fcntl.fcntl(master, fcntl.F_DUPFD_CLOEXEC, 3) for _ in range(2)]
            child = spawn(
                program.argv,
                launch,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                pass_fds=program.fds,
                executable=program.executable,
                is_terminal=True,
            )
        except OSError as error:
            _close_all(made)
            raise ExecdError("process.spawn_failed", f"a terminal cannot be opened: {error.strerror}") from error
        except BaseException:
            _close_all(made)
            raise
        finally:
            os.close(slave)
        stdout, stdin, self._master = made
        return Child(child.pid, stdin, stdout, -1)

    def _spawn_on_pipes(self, program: ShellProgram) -> Child:
        return spawn(program.argv, self._launch, stdin=PIPE, pass_fds=program.fds, executable=program.executable)

    def _take(self, data: bytes, channel: Channel) -> bool:
        """Take output of the program: this is the sink."""
        self._output.append(data)
        if self._witness is not None:
            self._witness.output(data, TERMINAL_CHANNEL)
        return self._client is None or self._client.push(data, channel)

    def _kept(self, since: int) -> tuple[int, bytes]:
        """Return the kept output from an offset on, without gaps, and the offset where it begins."""
        is_cut = self._output.end > self._output.kept_bytes and since < self._output.tail_start
        if is_cut:
            since = self._output.tail_start
        start, data = self._output.read(since, REPLAY_BYTES)
        data += self._output.read(start + len(data), REPLAY_BYTES).data
        skipped = continued(data) if is_cut else 0  # the replay begins with a whole character
        return start + skipped, data[skipped:]

    def _ended(self, _: ProcessExited) -> None:
        self._forget_master()
        if self._client is not None:
            self._client.turn.set()

    def _forget_master(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


async def _feed(stream: Stream, stdin: InputPipe) -> None:
    """Carry what the client types. Its END is not the end of the input, because the next client types on."""
    with contextlib.suppress(*BROKEN):
        while (item := await stream.receive()) is not None:
            if isinstance(item, Data):
                await stdin.write(item.data)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _set_size(fd: int, size: tuple[int, int]) -> None:
    fcntl.ioctl(fd, _TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
