"""The zygote of a language: one process that has loaded what contexts need, and forks a runner for each of them.

The first context that needs it starts it, and the next one starts it again if it has died. Contexts that it forked live
on without it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from typing import Annotated

import msgspec

from execd.errors import ExecdError
from execd.kernel.runner.channel import PROTOCOL, Number, Pid
from execd.kernel.runner.manifest import Manifest
from execd.kernel.runner.process import PRELOAD_VARIABLE, Ending, Runner, adopt, join, with_variables
from execd.kernel.runner.progress import Progress, stuck
from execd.launch.environment import Environment
from execd.process.limits import Limits
from execd.process.oom import MAX_SCORE, swap_score
from execd.process.parents import parent_of
from execd.process.reap import Exit, Reaper
from execd.process.spawn import MERGED, spawn

log = logging.getLogger("execd")

ZYGOTE_VARIABLE = "SANDLOT_ZYGOTE_FD"
EXIT_S = 1.0  # between the end of the zygote's socket and the end of its process
MAX_LAST_READS = 16  # of its output after its end; another process may hold the pipe and go on writing
PACKET_BYTES = 64 * 1024
TAIL_BYTES = 2000  # of its last output, for the message that says why it failed


class ZygoteMessage(msgspec.Struct, frozen=True, tag_field="type"):
    """A message of a zygote, one in each packet."""


class Ready(ZygoteMessage, tag="ready", frozen=True):
    """The zygote can fork from now on."""

    protocol: int
    warnings: tuple[str, ...] = ()


class Forked(ZygoteMessage, tag="forked", frozen=True):
    """A child runs."""

    id: Number
    pid: Pid


class Failed(ZygoteMessage, tag="failed", frozen=True):
    """The zygote could not fork."""

    id: Number
    message: str


class Exited(ZygoteMessage, tag="exited", frozen=True):
    """A child has ended, and its process group with it."""

    id: Number
    code: Annotated[int, msgspec.Meta(ge=-255, le=255)]  # negative: minus the signal's number
    cpu_s: float = 0.0
    peak_memory_bytes: Number = 0


_decoder = msgspec.json.Decoder(Ready | Forked | Failed | Exited)
_encoder = msgspec.json.Encoder()


class Zygote:
    """Starts the process when it is needed, asks it to fork, and learns how its children end."""

    def __init__(self, manifest: Manifest, reaper: Reaper, environment: Environment, limits: Limits) -> None:
        self._manifest = manifest
        self._reaper = reaper
        self._environment = environment
        self._limits = limits
        self._life: _Life | None = None
        self._is_held = False

    @property
    def is_ready(self) -> bool:
        """Whether the zygote can fork now."""
        life = self._life
        return life is not None and not life.over and life.ready.done()

    def hold(self, *, is_held: bool) -> None:
        """Stop the process while it starts, or let it continue. A zygote that can fork is never held."""
        self._is_held = is_held
        if self._life is not None:
            self._life.hold(is_held=is_held)

    def retire(self) -> None:
        """End the zygote as soon as none of the contexts that it forked is left. Nobody asks it for more."""
        if self._life is not None:
            self._life.retire()

    async def start(self) -> None:
        """Return when the zygote can fork. Cancelling does not disturb a start for which others wait.

        Raises:
            ExecdError: `context.start_failed`, with the last output of the zygote.
        """
        await asyncio.shield(self._alive().ready)

    async def fork(self) -> Runner:
        """Return a new runner, which says Ready by itself.

        Raises:
            ExecdError: `context.start_failed`.
        """
        life = self._alive()
        await asyncio.shield(life.ready)
        runner, theirs = join()
        try:
            runner.pid = await life.fork(runner, theirs.fds())
        except BaseException:
            runner.close()
            raise
        finally:
            theirs.close()
        return runner

    def close(self) -> None:
        """End the zygote. Contexts that it forked live on."""
        if self._life is not None:
            self._life.end("was closed")

    def _alive(self) -> _Life:
        if self._life is None or self._life.over:
            self._life = _Life(self._manifest, self._reaper, self._environment, self._limits)
            self._life.hold(is_held=self._is_held)
        return self._life


class _Life:
    """One process of a zygote, from its start to its end."""

    def __init__(self, manifest: Manifest, reaper: Reaper, environment: Environment, limits: Limits) -> None:
        """Start the process.

        Raises:
            ExecdError: `context.start_failed`: the program cannot be executed.
        """
        self._loop = asyncio.get_running_loop()
        self._language = manifest.language
        self._reaper = reaper
        self._limits = limits
        self._hits = limits.hits()
        self._is_retired = self._is_held = False
        self.over = False
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # nobody may wait for it
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._children: dict[int, Runner] = {}
        self._last_id = 0
        self._tail = b""
        self._socket, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._socket.settimeout(0)
        variables = {ZYGOTE_VARIABLE: str(theirs.fileno()), PRELOAD_VARIABLE: " ".join(manifest.preload)}
        launch = with_variables(environment.prepare(), manifest, variables)
        try:
            child = spawn(manifest.command, launch, stderr=MERGED, pass_fds=[theirs.fileno()])
        except ExecdError as error:
            self._socket.close()
            raise ExecdError("context.start_failed", f"{self._language}: {error.message}") from error
        finally:
            theirs.close()
        self.pid = child.pid
        # Until contexts depend on it, the zygote is the first process to die if memory runs out.
        self._score = swap_score(self.pid, MAX_SCORE)
        self._output = child.stdout
        reaper.watch(self.pid, self._exited)
        self._loop.add_reader(self._socket, self._receive)
        self._loop.add_reader(self._output, self._read_output)
        self._deadline: asyncio.TimerHandle | None = None
        self._progress = Progress(lambda: self.pid, lambda: self.end(stuck()))
        self._progress.begin()

    def hold(self, *, is_held: bool) -> None:
        """Stop the process while it starts, or let it continue."""
        if is_held == self._is_held or self.over or self.ready.done():
            return
        self._is_held = self._progress.is_held = is_held
        os.kill(self.pid, signal.SIGSTOP if is_held else signal.SIGCONT)

    def retire(self) -> None:
        """End the process when no child is left."""
        self._is_retired = True
        if not self._children:
            self.end("is not needed any more")

    async def fork(self, runner: Runner, fds: list[int]) -> int:
        """Hand descriptors to a new child. Return the pid of the child."""
        self._last_id += 1
        number = self._last_id
        packet = _encoder.encode({"op": "fork", "id": number})
        forked: asyncio.Future[int] = self._loop.create_future()
        self._forks[number] = forked
        self._children[number] = runner
        try:
            socket.send_fds(self._socket, [packet], fds)
        except OSError as error:
            # A full socket means that the zygote does not read any more: it is stopped, or hangs.
            self.end(f"does not take requests: {error.strerror}")
        else:
            self._progress.begin()
        return await forked

    def _receive(self) -> bool:
        """Take one packet, if there is one. Return whether more may come."""
        try:
            packet = self._socket.recv(PACKET_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            packet = b""
        if not packet:
            # The zygote is about to exit, and its exit status says more than the end of its socket.
            self._loop.remove_reader(self._socket)
            self._deadline = self._loop.call_later(EXIT_S, self.end, "closed its socket")
            return False
        try:
            self._take(_decoder.decode(packet))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.end(f"sent an undecodable message: {error}")
        return not self.over

    def _take(self, message: Ready | Forked | Failed | Exited) -> None:
        match message:
            case Ready(protocol, warnings):
                self._become_ready(protocol, warnings)
            case Forked(number, pid):
                if (forked := self._forks.pop(number, None)) and not forked.done():
                    forked.set_result(pid)
            case Failed(number, reason):
                self._children.pop(number, None)
                if (forked := self._forks.pop(number, None)) and not forked.done():
                    forked.set_exception(self._error(reason))
            case Exited(number):
                if (runner := self._children.pop(number, None)) and not runner.ended.done():
                    runner.ended.set_result(Ending(message.code, message.cpu_s, message.peak_memory_bytes))
                self._hits = self._limits.hits()  # a limit that the child met is not what ends the zygote
        if self._is_retired:
            self.retire()
        if not self._forks and self.ready.done():
            self._progress.end()

    def _become_ready(self, protocol: int, warnings: tuple[str, ...]) -> None:
        self._progress.end()
        self.hold(is_held=False)  # it was ready before it was stopped, and nothing else would let it continue
        if self._score is not None:
            swap_score(self.pid, self._score)
        if protocol != PROTOCOL:
            self.end(f"speaks protocol {protocol}, not {PROTOCOL}")
        elif not self.ready.done():
            self.ready.set_result(None)
        for warning in warnings:
            log.warning("%s zygote: %s", self._language, warning)

    def _read_output(self) -> bool:
        """Keep the end of the zygote's output, so that it never blocks on the pipe. Return whether there was any."""
        try:
            data = os.read(self._output, PACKET_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close_output()
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        return bool(data)

    def _exited(self, exited: Exit) -> None:
        self.pid = 0
        for _ in range(MAX_LAST_READS):
            if self._output < 0 or not self._read_output():
                break
        while not self.over and self._receive():
            pass  # it may have reported how some of its children ended
        is_oom = exited.signal == signal.SIGKILL and "memory" in self._limits.hits().since(self._hits)
        self.end(str(Ending.of(exited)) + (": the sandbox was out of memory" if is_oom else ""))
        for runner in self._children.values():
            # PID 1 inherits the children of the zygote, and so the news of their ends.
            if not runner.ended.done() and runner.pid and parent_of(runner.pid) == os.getpid():
                adopt(runner, runner.pid, self._reaper)
        self._children.clear()

    def end(self, reason: str) -> None:
        """Give up the process. Its children live on."""
        if self.over:
            return
        self.over = True
        self._progress.end()
        if self._deadline is not None:
            self._deadline.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if self.pid:
            os.killpg(self.pid, signal.SIGKILL)  # not its children: each of them leads a group of its own
        if self._output >= 0:
            self._close_output()
        error = self._error(f"its zygote {reason}")
        if not self.ready.done():
            self.ready.set_exception(error)
        for forked in self._forks.values():
            if not forked.done():
                forked.set_exception(error)
        self._forks.clear()

    def _close_output(self) -> None:
        self._loop.remove_reader(self._output)
        os.close(self._output)
        self._output = -1

    def _error(self, reason: str) -> ExecdError:
        tail = self._tail.decode("utf-8", "replace").strip()
        said = f"; it said: {tail}" if tail else ""
        return ExecdError("context.start_failed", f"{self._language}: {reason}{said}")
