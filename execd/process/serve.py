"""The requests about processes, served."""

from __future__ import annotations

import asyncio

from execd.dispatch import Handler
from execd.environment import Environment
from execd.errors import ExecdError
from execd.process.entrypoint import Claim
from execd.process.pipes import READ_BYTES, InputPipe
from execd.process.process import Process
from execd.process.reap import Reaper
from execd.process.spawn import check_arguments, shell_argv
from execd.process.table import ProcessTable
from execd.wire.aio import BROKEN, Data, Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    Done,
    ProcessExited,
    ProcessList,
    ProcessOutput,
    ProcessSignal,
    ProcessStart,
    ProcessStarted,
    Request,
    SandboxClaim,
)


class Processes:
    """Handlers around one table. Make it inside the running event loop."""

    def __init__(self, reaper: Reaper, environment: Environment) -> None:
        self.table = ProcessTable(reaper)
        self._environment = environment
        self._claim = Claim(environment, self.table)

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what serves each request."""
        return {
            SandboxClaim: self._claim.serve,
            ProcessStart: self.start,
            ProcessOutput: self.output,
            ProcessList: self.list,
            ProcessSignal: self.signal,
        }

    async def start(self, stream: Stream, request: ProcessStart) -> None:
        """Start a process; in the foreground, stay until its end. Cancelled, a foreground process group is ended."""
        if request.timeout_s is not None and not request.timeout_s > 0:
            raise ExecdError("request.invalid", f"a timeout of {request.timeout_s} s")
        if request.background:
            process = self._spawn(request, None)
            process.resume()
            await stream.send(ProcessStarted(process.pid))
            return
        relay = _Relay(stream)
        process = self._spawn(request, relay)
        feeding = asyncio.ensure_future(relay.feed(process.stdin)) if request.stdin else None
        try:
            await stream.send(ProcessStarted(process.pid))
            await stream.send(await relay.run(process))
            stream.end()
            if feeding is not None:
                await feeding  # what the client still sends is dropped, else it would wait for credit for ever
        finally:
            if process.exited is None:
                process.abandon("link_lost" if stream.is_lost else "killed")
            if feeding is not None:
                feeding.cancel()

    async def output(self, stream: Stream, request: ProcessOutput) -> None:
        """Send kept output, up to where it ends now."""
        if request.offset < 0:
            raise ExecdError("request.invalid", f"offset {request.offset}")
        process = self.table.get(request.id)
        output = process.output
        if output is None:  # a foreground process: its output went to its stream
            await stream.send(process.state())
            return
        end = output.end
        await stream.send(process.state(output_start=output.read(request.offset, 1).start))
        at = request.offset
        while at < end:
            start, data = output.read(at, min(READ_BYTES, end - at))
            if start >= end:
                break  # while we waited for credit, all that we still owed was dropped
            data = data[: end - start]
            await stream.write(data, Channel.STDOUT)
            at = start + len(data)

    async def list(self, stream: Stream, request: ProcessList) -> None:
        """Send the states of one process or of all."""
        processes = [self.table.get(request.id)] if request.id else self.table.all()
        for process in processes:
            await stream.send(process.state())

    async def signal(self, stream: Stream, request: ProcessSignal) -> None:
        """Send a signal."""
        self.table.get(request.id).signal(request.signal, request.kill_after_s)
        await stream.send(Done())

    def _spawn(self, request: ProcessStart, relay: _Relay | None) -> Process:
        if bool(request.argv) == bool(request.shell):
            raise ExecdError("request.invalid", "exactly one of argv and shell is needed")
        if request.background and request.stdin:
            raise ExecdError("request.invalid", "a background process has no stdin")
        launch = self._environment.prepare(env=request.env, cwd=request.cwd, uid=request.uid, gid=request.gid)
        argv, executable = list(request.argv), None
        if request.shell:
            check_arguments((request.shell,))
            argv, executable = shell_argv(request.shell, launch.env)
        process = self.table.start(
            request.id,
            argv,
            launch,
            command=request.shell or " ".join(argv),
            executable=executable,
            sink=relay.take if relay else None,
            stdin=request.stdin,
        )
        if request.timeout_s is not None:
            process.limit(request.timeout_s)
        return process


class _Relay:
    """A foreground process's output on its way to the stream, and the stream's data on its way to stdin."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest: tuple[bytes, Channel] | None = None  # taken, but there was no credit to send it
        self._turn = asyncio.Event()

    def take(self, data: bytes, channel: Channel) -> bool:
        """The sink: what there is credit for leaves at once, without a task in between."""
        try:
            sent = self._stream.write_nowait(data, channel)
        except BROKEN:
            return True  # nobody listens any more; our handler is being cancelled
        if sent == len(data):
            return True
        self._rest = (data[sent:], channel)
        self._turn.set()
        return False

    async def run(self, process: Process) -> ProcessExited:
        """Carry until the process has ended and all of its output has been sent."""
        process.on_end(lambda _: self._turn.set())
        process.resume()
        while True:
            if self._rest is not None:
                (data, channel), self._rest = self._rest, None
                await self._stream.write(data, channel)
                process.resume()
            elif process.exited is not None:
                return process.exited
            else:
                await self._turn.wait()
                self._turn.clear()

    async def feed(self, stdin: InputPipe) -> None:
        """Carry input up to the client's END, also when nobody reads it any more."""
        try:
            while (item := await self._stream.receive()) is not None:
                if isinstance(item, Data):
                    await stdin.write(item.data)
        except BROKEN:
            pass  # our handler hears of it as well
        finally:
            stdin.close()
