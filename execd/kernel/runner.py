"""A runner: the process of a context, as execd holds it. Its channel, its output pipes, and how it ended."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from execd.environment import Launch
from execd.errors import ExecdError
from execd.kernel.channel import Channel
from execd.kernel.manifest import Manifest
from execd.process.reap import Exit, Reaper
from execd.process.spawn import spawn
from execd.wire.frames import Channel as Output

CHANNEL_VARIABLE = "SANDLOT_CHANNEL_FD"
PRELOAD_VARIABLE = "SANDLOT_PRELOAD"

READ_BYTES = 64 * 1024  # what a pipe holds: one full read takes all that was written before it


class Ending(NamedTuple):
    """How a runner's process ended."""

    code: int  # negative: minus the signal's number
    cpu_s: float = 0.0  # of its whole life, with the children that it waited for; 0 where nobody has told
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
        """From what the reaper says."""
        code = -exited.signal if exited.signal else exited.exit_code
        return cls(code, exited.cpu_s, exited.peak_memory_bytes)


class Endpoints(NamedTuple):
    """The runner's ends of what joins it with us. Close them once it has them."""

    channel: socket.socket
    stdin: int
    stdout: int
    stderr: int

    def fds(self) -> list[int]:
        """In the order in which a zygote takes them."""
        return [self.channel.fileno(), self.stdin, self.stdout, self.stderr]

    def close(self) -> None:
        """Close all."""
        self.channel.close()
        for fd in (self.stdin, self.stdout, self.stderr):
            os.close(fd)


class Program(NamedTuple):
    """What is executed to be a runner."""

    argv: Sequence[str]
    launch: Launch
    fds: tuple[int, ...]  # that it inherits


class Runner:
    """A process that leads its own session and process group. Owns the descriptors until `close()`."""

    def __init__(self, channel: Channel, stdout: int, stderr: int) -> None:
        self.channel = channel
        self.pid = 0  # until it is known
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._outputs = {stdout: Output.STDOUT, stderr: Output.STDERR}
        # One descriptor for the event loop to watch, whatever happens on the three.
        self._poll = select.epoll()
        for fd in (channel.fileno(), stdout, stderr):
            self._poll.register(fd, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when `readable()` is not empty."""
        return self._poll.fileno()

    def readable(self) -> tuple[bool, list[int]]:
        """Return whether the channel has something (or ended), and which outputs have."""
        ready = [fd for fd, _ in self._poll.poll(0)]
        outputs = [fd for fd in ready if fd in self._outputs]
        return len(outputs) < len(ready), outputs

    def is_alive(self) -> bool:
        """Whether it can still be given to somebody: its end shows on the channel before anybody reports it."""
        hangup = select.poll()
        hangup.register(self.channel.fileno(), 0)
        return not self.ended.done() and not hangup.poll(0)

    def outputs(self) -> list[int]:
        """The output descriptors that have not reached their end."""
        return list(self._outputs)

    def read(self, fd: int) -> tuple[Output, bytes]:
        """Read from an output; b"" when there is nothing now. At its end it is closed and not listed again."""
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
        """Send a signal to the process group; nothing when its leader has ended."""
        if self.pid > 1 and not self.ended.done():
            try:
                os.killpg(self.pid, number)
            except OSError:
                pass  # it ended just now, or has changed its user

    def close(self) -> None:
        """Close all descriptors. A runner that still lives hears by that that it should leave."""
        for fd in list(self._outputs):
            self._forget(fd)
        self._poll.close()
        self.channel.close()

    def _forget(self, fd: int) -> None:
        del self._outputs[fd]
        self._poll.unregister(fd)
        os.close(fd)


def join() -> tuple[Runner, Endpoints]:
    """Make what a zygote's child needs: our side, its pid still unknown, and the other.

    Raises:
        ExecdError: `context.start_failed`, out of descriptors.
    """
    made: list[int] = []
    try:
        ours, theirs = socket.socketpair()
        made += [os.open(os.devnull, os.O_RDONLY), *os.pipe(), *os.pipe()]
    except OSError as error:
        for fd in made:
            os.close(fd)
        raise ExecdError("context.start_failed", f"no room for another context: {error.strerror}") from error
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
        wrap: Returns what is executed in its place, and brings it about.
        kind: How that is held.

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
    """This child of ours is the runner's process."""
    runner.pid = pid

    def ended(exited: Exit) -> None:
        runner.signal_group(signal.SIGKILL)  # what it left behind, while the number can be nobody else's
        if not runner.ended.done():
            runner.ended.set_result(Ending.of(exited))

    reaper.watch(pid, ended)


def with_variables(launch: Launch, manifest: Manifest, variables: dict[str, str]) -> Launch:
    """Return how a manifest's command is started: in the root directory, which always exists."""
    return Launch({**manifest.env, **launch.env, **variables}, "/", None)
