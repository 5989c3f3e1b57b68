"""A language's zygote: one process that has loaded everything, and forks a runner for each context.

It is started once, by the first who needs it, and again when it has died; contexts that it forked live on without it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from typing import Annotated

import msgspec

from execd.environment import Environment
from execd.errors import ExecdError
from execd.kernel.channel import PROTOCOL, Number, Pid
from execd.kernel.manifest import Manifest
from execd.kernel.runner import PRELOAD_VARIABLE, Ending, Runner, adopt, join, with_variables
from execd.process.parents import parent_of
from execd.process.reap import Exit, Reaper
from execd.process.spawn import MERGED, spawn

log = logging.getLogger("execd")

ZYGOTE_VARIABLE = "SANDLOT_ZYGOTE_FD"
START_S = 60.0  # a cold disk and a long preload list; it has no other limit
EXIT_S = 1.0  # between the end of its socket and its own
MAX_LAST_READS = 16  # of what it printed, once it is dead; somebody else may hold the pipe and go on
PACKET_BYTES = 64 * 1024
TAIL_BYTES = 2000  # of what it printed last, for the message that says why it failed


class ZygoteMessage(msgspec.Struct, frozen=True, tag_field="type"):
    """What a zygote says, one message a packet."""


class Ready(ZygoteMessage, tag="ready", frozen=True):
    """It can fork from now on."""

    protocol: int
    warnings: tuple[str, ...] = ()


class Forked(ZygoteMessage, tag="forked", frozen=True):
    """A child runs."""

    id: Number
    pid: Pid


class Failed(ZygoteMessage, tag="failed", frozen=True):
    """It could not fork."""

    id: Number
    message: str


class Exited(ZygoteMessage, tag="exited", frozen=True):
    """A child ended, and its process group with it."""

    id: Number
    code: Annotated[int, msgspec.Meta(ge=-255, le=255)]  # negative: minus the signal's number
    cpu_s: float = 0.0
    peak_memory_bytes: Number = 0


_decoder = msgspec.json.Decoder(Ready | Forked | Failed | Exited)
_encoder = msgspec.json.Encoder()


class Zygote:
    """Starts the process when it is needed, asks it to fork, hears of its children's ends."""

    def __init__(self, manifest: Manifest, reaper: Reaper, environment: Environment) -> None:
        self._manifest = manifest
        self._reaper = reaper
        self._environment = environment
        self._life: _Life | None = None

    @property
    def pid(self) -> int:
        """Of the living process; 0 when there is none."""
        return self._life.pid if self._life and not self._life.over else 0

    async def start(self) -> None:
        """Return when it can fork. Cancelling it leaves a start that others wait for alone.

        Raises:
            ExecdError: `context.start_failed`, with what it printed last.
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
        """End it. Contexts that it forked live on."""
        if self._life is not None:
            self._life.end("was closed")

    def _alive(self) -> _Life:
        if self._life is None or self._life.over:
            self._life = _Life(self._manifest, self._reaper, self._environment)
        return self._life


class _Life:
    """One process, from its start to its end."""

    def __init__(self, manifest: Manifest, reaper: Reaper, environment: Environment) -> None:
        """Start it.

        Raises:
            ExecdError: `context.start_failed`: it cannot even be executed.
        """
        self._loop = asyncio.get_running_loop()
        self._language = manifest.language
        self._reaper = reaper
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
        self._output = child.stdout
        reaper.watch(self.pid, self._exited)
        self._loop.add_reader(self._socket, self._receive)
        self._loop.add_reader(self._output, self._read_output)
        self._deadline = self._loop.call_later(START_S, self.end, f"was not ready after {START_S:.0f} s")

    async def fork(self, runner: Runner, fds: list[int]) -> int:
        """Hand descriptors to a new child, return its pid."""
        self._last_id += 1
        number = self._last_id
        packet = _encoder.encode({"op": "fork", "id": number})
        forked: asyncio.Future[int] = self._loop.create_future()
        self._forks[number] = forked
        self._children[number] = runner
        try:
            socket.send_fds(self._socket, [packet], fds)
        except OSError as error:
            # A full socket means that it does not read any more: it is stopped, or hangs.
            self.end(f"does not take requests: {error.strerror}")
        return await forked

    def _receive(self) -> bool:
        """Take one packet, if one is there. Return whether more may come."""
        try:
            packet = self._socket.recv(PACKET_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            packet = b""
        if not packet:
            # It is about to exit, and how says more than this does.
            self._loop.remove_reader(self._socket)
            self._deadline.cancel()
            self._deadline = self._loop.call_later(EXIT_S, self.end, "closed its socket")
            return False
        try:
            self._take(_decoder.decode(packet))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.end(f"sent nonsense: {error}")
        return not self.over

    def _take(self, message: Ready | Forked | Failed | Exited) -> None:
        match message:
            case Ready(protocol, warnings):
                self._deadline.cancel()
                if protocol != PROTOCOL:
                    self.end(f"speaks protocol {protocol}, not {PROTOCOL}")
                elif not self.ready.done():
                    self.ready.set_result(None)
                for warning in warnings:
                    log.warning("%s zygote: %s", self._language, warning)
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

    def _read_output(self) -> bool:
        """Keep the end of what it prints; it must never block on that. Return whether there was something."""
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
            pass  # it may have told how some of its children ended
        self.end(str(Ending.of(exited)))
        for runner in self._children.values():
            # Where we are PID 1, its children are ours from now on, and so is the news of their ends.
            if not runner.ended.done() and runner.pid and parent_of(runner.pid) == os.getpid():
                adopt(runner, runner.pid, self._reaper)
        self._children.clear()

    def end(self, reason: str) -> None:
        """It is of no more use. Its children live on."""
        if self.over:
            return
        self.over = True
        self._deadline.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if self.pid:
            os.killpg(self.pid, signal.SIGKILL)  # never its children: each leads a group of its own
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
