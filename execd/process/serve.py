"""The handlers of the requests about processes."""

from __future__ import annotations

import asyncio

from execd.dispatch import Handler, Replies
from execd.errors import ExecdError
from execd.launch.environment import Environment, Launch
from execd.process.output import Output
from execd.process.pipes import READ_BYTES, InputPipe
from execd.process.process import Process, Witnesses, no_witness
from execd.process.reap import Reaper
from execd.process.spawn import ShellProgram, check_arguments, shell_program
from execd.process.table import FailedStart, ProcessTable
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
)


class Processes:
    """The handlers around one table. Create it inside the running event loop."""

    def __init__(self, reaper: Reaper, environment: Environment, witnesses: Witnesses = no_witness) -> None:
        self.table = ProcessTable(reaper, witnesses=witnesses)
        self._environment = environment

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return {
            ProcessStart: self.start,
            ProcessOutput: self.output,
            ProcessList: self.list,
            ProcessSignal: self.signal,
        }

    async def start(self, stream: Replies, request: ProcessStart) -> None:
        """Start a process. Follow a foreground process to its end. If the call is cancelled, end its process group."""
        if request.timeout_s is not None and not request.timeout_s > 0:
            raise ExecdError("request.invalid", f"the timeout is {request.timeout_s} s: it must be positive")
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
                # What the client still sends is read and dropped; otherwise the client would wait for credit for ever.
                await feeding
        finally:
            if process.exited is None:
                process.abandon("link_lost" if stream.is_lost else "killed")
            if feeding is not None:
                feeding.cancel()

    async def output(self, stream: Stream, request: ProcessOutput) -> None:
        """Send the kept output, up to its present end."""
        if request.offset < 0:
            raise ExecdError("request.invalid", f"offset {request.offset}")
        process = self.table.find(request.id)
        output = process.output
        if output is None:  # a foreground process: its output went to its stream
            await stream.send(process.state())
            return
        if request.as_text:
            await _send_text(stream, process, output, request.offset)
            return
        end = output.end
        await stream.send(process.state(output_start=output.read(request.offset, 1).start))
        at = request.offset
        while at < end:
            start, data = output.read(at, min(READ_BYTES, end - at))
            if start >= end:
                break  # everything that was still owed was dropped during the wait for credit
            data = data[: end - start]
            await stream.write(data, Channel.STDOUT)
            at = start + len(data)

    async def list(self, stream: Stream, request: ProcessList) -> None:
        """Send the state of one process or of all."""
        processes = [self.table.find(request.id)] if request.id else self.table.all()
        for process in processes:
            await stream.send(process.state())

    async def signal(self, stream: Stream, request: ProcessSignal) -> None:
        """Send a signal to a process."""
        self.table.find(request.id).signal(request.signal, request.kill_after_s)
        await stream.send(Done())

    def _spawn(self, request: ProcessStart, relay: _Relay | None) -> Process:
        if bool(request.argv) == bool(request.shell):
            raise ExecdError("request.invalid", "exactly one of argv and shell must be given")
        if request.background and request.stdin:
            raise ExecdError("request.invalid", "a background process cannot have stdin")
        try:
            process = self._spawn_as_asked(request, relay)
        except ExecdError as error:
            if error.code == "process.spawn_failed":
                self.table.remember_failure(request.id, _command(request), error.message)
            raise
        process.notice = self._environment.take_notice()
        if request.timeout_s is not None:
            process.limit(request.timeout_s)
        return process

    def _spawn_as_asked(self, request: ProcessStart, relay: _Relay | None) -> Process:
        launch = self._environment.prepare(env=request.env, cwd=request.cwd, uid=request.uid, gid=request.gid)
        if request.shell:
            check_arguments((request.shell,))
            with shell_program(request.shell, launch.env) as program:
                return self._start(request, launch, relay, program)
        return self._start(request, launch, relay, None)

    def _start(
        self, request: ProcessStart, launch: Launch, relay: _Relay | None, shell: ShellProgram | None
    ) -> Process:
        return self.table.start(
            request.id,
            shell.argv if shell else request.argv,
            launch,
            command=_command(request),
            executable=shell.executable if shell else None,
            pass_fds=shell.fds if shell else (),
            sink=relay.take if relay else None,
            stdin=request.stdin,
        )


def _command(request: ProcessStart) -> str:
    return request.shell or " ".join(request.argv)


async def _send_text(stream: Stream, process: Process | FailedStart, output: Output, offset: int) -> None:
    end = output.end if process.state().exited else max(output.text_end(), min(offset, output.end))
    await stream.send(process.state(output_start=output.read(offset, 1).start, output_end=end))
    for data in output.read_text(offset, end):
        await stream.write(data, Channel.STDOUT)


class _Relay:
    """The output of a foreground process on its way to the stream, and the data of the stream on its way to stdin."""

    def __init__(self, stream: Replies) -> None:
        self._stream = stream
        self._rest: tuple[bytes, Channel] | None = None  # taken from a pipe, while there was no credit to send it
        self._turn = asyncio.Event()

    def take(self, data: bytes, channel: Channel) -> bool:
        """Send as much as there is credit for, at once and without a task in between. Return whether that was all."""
        try:
            sent = self._stream.write_nowait(data, channel)
        except BROKEN:
            return True  # nobody listens any more; the handler is being cancelled
        if sent == len(data):
            return True
        self._rest = (data[sent:], channel)
        self._turn.set()
        return False

    async def run(self, process: Process) -> ProcessExited:
        """Send output until the process has ended and all of its output has been sent."""
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
        """Carry input up to the client's END, even if no process reads it any more."""
        try:
            while (item := await self._stream.receive()) is not None:
                if isinstance(item, Data):
                    await stdin.write(item.data)
        except BROKEN:
            pass  # the handler notices the broken stream as well
        finally:
            stdin.close()
