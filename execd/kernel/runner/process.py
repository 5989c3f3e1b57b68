"""The runner: the process of a context. execd holds its channel and its output pipes, and learns how it ended."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from execd.errors import ExecdError
from execd.kernel.runner.channel import Channel
from execd.kernel.runner.manifest import Manifest
from execd.launch.environment import Launch
from execd.process.parents import listeners_in
from execd.process.reap import Exit, Reaper
from execd.process.spawn import spawn
from execd.wire.frames import Channel as Output

CHANNEL_VARIABLE = "SANDLOT_CHANNEL_FD"
PRELOAD_VARIABLE = "SANDLOT_PRELOAD"

READ_BYTES = 64 * 1024  # the capacity of a pipe: one full read takes everything that was written before it


class Ending(NamedTuple):
    """How the process of a runner ended."""

    code: int  # negative: minus the signal's number
    cpu_s: float = 0.0  # of its whole life, with the children that it waited for; 0 if unknown
    peak_memory_bytes: int = 0

    def __str__(self) -> str:
        if self.code >= 0:
            return f"exited with status {self.code}"
        try:
            name = signal.Signals(-self.code).name
        except ValueError:
            name = f"signal {-self.code}"
        return f"was killed by {name} ({signal.strsignal(-self.code)})"

    @classmethod
    def of(cls, exited: Exit) -> Ending:
        """Return the ending that the reaper reports."""
        code = -exited.signal if exited.signal else exited.exit_code
        return cls(code, exited.cpu_s, exited.peak_memory_bytes)


class Endpoints(NamedTuple):
    """The runner's ends of its connections to execd. Close them once the runner has them."""

    channel: socket.socket
    stdin: int
    stdout: int
    stderr: int

    def fds(self) -> list[int]:
        """Return the descriptors in the order in which a zygote takes them."""
        return [self.channel.fileno(), self.stdin, self.stdout, self.stderr]

    def close(self) -> None:
        """Close all ends."""
        self.channel.close()
        for fd in (self.stdin, self.stdout, self.stderr):
            os.close(fd)


class Program(NamedTuple):
    """A program that is executed as a runner."""

    argv: Sequence[str]
    launch: Launch
    fds: tuple[int, ...]  # descriptors that the program inherits


class Runner:
    """A process that leads its own session and process group. The object owns the descriptors until `close()`."""

    def __init__(self, channel: Channel, stdout: int, stderr: int) -> None:
        self.channel = channel
        self.pid = 0  # 0 until it is known
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._outputs = {stdout: Output.STDOUT, stderr: Output.STDERR}
        # One descriptor for the event loop to watch instead of three.
        self._poll = select.epoll()
        for fd in (channel.fileno(), stdout, stderr):
            self._poll.register(fd, select.EPOLLIN)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `readable()` is not empty."""
        return self._poll.fileno()

    def readable(self) -> tuple[bool, list[int]]:
        """Return whether the channel has something to read (or has ended), and which outputs have."""
        ready = [fd for fd, _ in self._poll.poll(0)]
        outputs = [fd for fd in ready if fd in self._outputs]
        return len(outputs) < len(ready), outputs

    def is_alive(self) -> bool:
        """Return whether the runner can still be given to a context.

        The channel shows its end before anything else does.
        """
        hangup = select.poll()
        hangup.register(self.channel.fileno(), 0)
        return not self.ended.done() and not hangup.poll(0)

    def outputs(self) -> list[int]:
        """Return the descriptors of the outputs that have not reached their end."""
        return list(self._outputs)

    def read(self, fd: int) -> tuple[Output, bytes]:
        """Read from an output; b"" if there is nothing now. At its end the output is closed and not listed again."""
        output = self._outputs[fd]
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return output, b""
        except OSError:
            data = b""
        if not data:
            self._forget(fd)
        return output, data

    @property
    def code_pid(self) -> int:
        """The process that runs the code."""
        return self.pid

    def signal_group(self, number: int) -> None:
        """Send a signal to the process group. Do nothing if its leader has ended."""
        if self.pid > 1 and not self.ended.done():
            try:
                os.killpg(self.pid, number)
            except OSError:
                pass  # the group ended just now, or runs as another user now

    def listeners(self, number: int) -> dict[int, float]:
        """Return the members of the group, except its leader, that do not ignore a signal; see `listeners_in`."""
        return listeners_in(self._group, number) if self._group > 1 and not self.ended.done() else {}

    @property
    def _group(self) -> int:
        return self.pid

    def close(self) -> None:
        """Close all descriptors. A runner that is still alive exits when the channel closes."""
        for fd in list(self._outputs):
            self._forget(fd)
        self._poll.close()
        self.channel.close()

    def _forget(self, fd: int) -> None:
        del self._outputs[fd]
        self._poll.unregister(fd)
        os.close(fd)


def join() -> tuple[Runner, Endpoints]:
    """Create the two ends of the connection to a zygote's child. The pid is not known yet.

    Raises:
        ExecdError: `context.start_failed`: there are no descriptors left.
    """
    made: list[int] = []
    try:
        ours, theirs = socket.socketpair()
        made += [os.open(os.devnull, os.O_RDONLY), *os.pipe(), *os.pipe()]
    except OSError as error:
        for fd in made:
            os.close(fd)
        raise ExecdError("context.start_failed", f"another context cannot be started: {error.strerror}") from error
    stdin, stdout, stdout_end, stderr, stderr_end = made
    ours.settimeout(0)
    for fd in (stdout, stderr):
        os.set_blocking(fd, False)
    return Runner(Channel(ours), stdout, stderr), Endpoints(theirs, stdin, stdout_end, stderr_end)


def execute(
    manifest: Manifest,
    launch: Launch,
    reaper: Reaper,
    wrap: Callable[[Program], Program] | None = None,
    kind: type[Runner] = Runner,
) -> Runner:
    """Start a runner as a program of its own.

    Args:
        wrap: Returns the program that is executed instead, and that starts the given one.
        kind: The class of the runner.

    Raises:
        ExecdError: `context.start_failed`.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    fd = theirs.fileno()
    variables = {CHANNEL_VARIABLE: str(fd), PRELOAD_VARIABLE: " ".join(manifest.preload)}
    try:
        program = Program(manifest.command, with_variables(launch, manifest, variables), (fd,))
        if wrap is not None:
            program = wrap(program)
        child = spawn(program.argv, program.launch, pass_fds=program.fds)
    except ExecdError as error:
        ours.close()
        raise ExecdError("context.start_failed", f"{manifest.language}: {error.message}") from error
    finally:
        theirs.close()
    runner = kind(Channel(ours), child.stdout, child.stderr)
    adopt(runner, child.pid, reaper)
    return runner


def adopt(runner: Runner, pid: int, reaper: Reaper) -> None:
    """Make a child of execd the process of a runner."""
    runner.pid = pid

    def ended(exited: Exit) -> None:
        # End what the runner left behind, while no other process can have its number.
        runner.signal_group(signal.SIGKILL)
        if not runner.ended.done():
            runner.ended.set_result(Ending.of(exited))

    reaper.watch(pid, ended)


def with_variables(launch: Launch, manifest: Manifest, variables: dict[str, str]) -> Launch:
    """Return how the command of a manifest is started: in the root directory, which always exists."""
    return Launch({**manifest.env, **launch.env, **variables}, "/", None)
