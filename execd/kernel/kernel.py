"""One context: a runner, the runs that wait for it, and the one that it has.

    starting ──▶ idle ◀──▶ running
        └──────────┴──────────┴────▶ gone

One task does all reading and writing for a context, so that a client who reads slowly stops this context and no other.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Callable

from execd.environment import Launch
from execd.errors import ExecdError
from execd.kernel.channel import (
    PROTOCOL,
    ChannelError,
    Display,
    Error,
    Failed,
    Message,
    Ready,
    Result,
    RunDone,
    Started,
)
from execd.kernel.manifest import Manifest
from execd.kernel.run import Run
from execd.kernel.runner import Runner
from execd.kernel.supply import Supply
from execd.process.oom import KillCounter
from execd.wire.aio import Stream
from execd.wire.frames import Channel as Output
from execd.wire.messages import ContextDone, ContextError, ContextResult, ContextState

log = logging.getLogger("execd")

START_S = 30.0  # from a runner's birth to Started
STOP_S = 5.0  # that a run has after it was interrupted because nobody wants it any more
EXIT_S = 1.0  # between the end of a channel and that of its process
KEPT_BYTES = 64 * 1024  # of each output, printed between runs and not yet given to anybody
MAX_REASON = 1000  # characters of why a context is gone


class _Gone(Exception):
    """The runner is of no more use; the message says why."""


class Kernel:
    """A live interpreter. Made in the table; `started` says when it can run, `gone` why it cannot any more."""

    def __init__(
        self,
        context_id: str,
        supply: Supply,
        launch: Launch,
        kills: KillCounter,
        on_gone: Callable[[Kernel], None],
    ) -> None:
        self.id = context_id
        self.gone = ""
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started.add_done_callback(lambda started: started.cancelled() or started.exception())
        self._loop = asyncio.get_running_loop()
        self._supply = supply
        self._launch = launch
        self._kills = kills
        self._kills_before = kills.read()
        self._on_gone = on_gone
        self._runner: Runner | None = None
        self._queue: deque[Run] = deque()
        self._run: Run | None = None
        self._number = 0  # of the present run, or the last
        self._messages: deque[Message] = deque()
        self._kept = {Output.STDOUT: bytearray(), Output.STDERR: bytearray()}
        self._wakeup: asyncio.Future[None] | None = None
        self._closing = ""  # why we killed it
        self._task = self._loop.create_task(self._live())

    @property
    def manifest(self) -> Manifest:
        """Of its language."""
        return self._supply.manifest

    @property
    def state(self) -> ContextState:
        """As the control plane sees it."""
        pid = self._runner.pid if self._runner else 0
        return ContextState(self.id, self.manifest.language, pid, busy=bool(self._run or self._queue))

    # -- what may be asked of it

    async def run(self, code: str, timeout_s: float | None, stream: Stream) -> None:
        """Run code after what waits already, and return when ContextDone has been sent.

        Cancelling it takes the run out of the queue, or interrupts it; if it has not stopped STOP_S later, the
        context is killed.

        Raises:
            ExecdError: `context.not_found`: it went before this run's turn came.
        """
        if self.gone:
            raise ExecdError("context.not_found", f"context {self.id} is gone: {self.gone}")
        run = Run(code, timeout_s, stream)
        self._queue.append(run)
        self._wake()
        try:
            await run.over
        except asyncio.CancelledError:
            self._abandon(run)
            raise

    def interrupt(self) -> None:
        """Interrupt the present run; without one, nothing. Its code may catch that and go on."""
        if self._run is None:
            if self._queue and self.started.done():
                self._queue[0].interrupted = True  # its turn has come already, only not to our task
            return
        self._run.interrupted = True
        self._strike()

    def _strike(self) -> None:
        # The message first: a signal that comes before the runner is ready for it strikes nothing.
        self._alive.channel.send_nowait("interrupt", id=self._number)
        if self.manifest.interrupt == "signal":
            self._alive.signal_group(signal.SIGINT)

    async def close(self, reason: str) -> None:
        """Kill its process group, return when it is gone. A run that goes on ends as `died`."""
        self._kill(reason)
        # The present run's client may read slowly, and the last words wait for it; nobody else does.
        if self._runner is not None:
            await asyncio.wait([self._runner.ended], timeout=EXIT_S)

    # -- its life

    async def _live(self) -> None:
        reason = "internal error in execd"
        try:
            await self._start()
            while True:
                await self._serve(await self._next_run())
        except _Gone as gone:
            reason = str(gone)
        except ExecdError as error:
            reason = error.message
        except Exception:
            log.exception("context %s", self.id)
        finally:
            self._bury(reason)

    async def _start(self) -> None:
        self._runner = await self._supply.take()
        self._runner.ended.add_done_callback(self._wake)
        try:
            async with asyncio.timeout(START_S):
                await self._runner.channel.send("start", cwd=self._launch.cwd, env=self._launch.env)
                while not isinstance(message := await self._receive(None), Started):
                    if isinstance(message, Failed):
                        raise _Gone(message.message)
                    if not isinstance(message, Ready) or message.protocol != PROTOCOL:
                        raise _Gone(f"its runner does not speak protocol {PROTOCOL}")
        except TimeoutError:
            raise _Gone(f"it had not started after {START_S:.0f} s") from None
        if not self.started.done():
            self.started.set_result(None)

    async def _next_run(self) -> Run:
        """Return the first run in the queue. Until there is one, what is printed is kept for it."""
        while not self._queue:
            await self._wait()
            await self._look(None)
            self._messages.clear()  # displays of background threads: nobody is there to see them
        return self._queue.popleft()

    async def _serve(self, run: Run) -> None:
        self._run = run
        self._number += 1
        self._kills_before = self._kills.read()
        began = time.monotonic()
        timers = []
        if run.timeout_s is not None:
            timers = [
                self._loop.call_later(run.timeout_s, self._time_out, run),
                self._loop.call_later(run.timeout_s + STOP_S, self._give_up, run, "its time was up"),
            ]
        try:
            for output, kept in self._kept.items():
                if kept:
                    await run.write(bytes(kept), output)
                    kept.clear()
            await self._alive.channel.send("run", id=self._number, code=run.code)
            if run.interrupted:
                self._strike()  # what came before the code may have been lost
            done = await self._follow(run)
            run.done = True
            cause = done.status
            if run.timed_out and cause != "ok":
                cause = "timeout"
            elif run.interrupted and cause == "error":
                cause = "interrupted"
            await run.finish(ContextDone(cause, done.count, time.monotonic() - began))
        except _Gone as gone:
            await self._drain(run)
            await run.finish(ContextDone("died", 0, time.monotonic() - began, str(gone)[:MAX_REASON]))
            raise
        finally:
            for timer in timers:
                timer.cancel()
            self._run = None
            if not run.over.done():
                run.over.set_result(None)

    async def _follow(self, run: Run) -> RunDone:
        """Pass on what a run prints and shows, in order, until it is done."""
        while True:
            message = await self._receive(run)
            match message:
                case RunDone(number, status) if number == self._number and status in ("ok", "error", "interrupted"):
                    return message
                case Result(data, count, ack):
                    await run.send(ContextResult("result", data, count))
                case Display(data, ack=ack):
                    await run.send(ContextResult("display", data))
                case Error(name, value, traceback, ack):
                    await run.send(ContextError(name, value, traceback))
                case _:
                    raise _Gone(f"its runner said {type(message).__name__} out of turn")
            if ack:
                await self._alive.channel.send("ack", ack=ack)

    def _bury(self, reason: str) -> None:
        self.gone = (self._closing or reason)[:MAX_REASON]
        runner = self._runner
        if runner is not None:
            runner.signal_group(signal.SIGKILL)
            runner.close()
        self._on_gone(self)
        if not self.started.done():
            self.started.set_exception(ExecdError("context.start_failed", f"{self.manifest.language}: {self.gone}"))
        for run in self._queue:
            if not run.over.done():
                message = f"context {self.id} is gone: {self.gone}"
                run.over.set_exception(ExecdError("context.not_found", message))
        self._queue.clear()

    # -- what comes from the runner

    async def _receive(self, run: Run | None) -> Message:
        """Return the next message; what was printed before it has been passed on.

        Raises:
            _Gone: there will be none.
        """
        while not self._messages:
            await self._wait()
            await self._look(run)
        await self._drain(run)
        return self._messages.popleft()

    async def _look(self, run: Run | None) -> None:
        """Take what is there: of each output a piece, and of the channel; with messages the outputs are left alone.

        Raises:
            _Gone: there will be nothing any more.
        """
        runner = self._alive
        channel, outputs = runner.readable()
        if channel:
            try:
                self._messages.extend(runner.channel.receive_nowait())
            except ChannelError as error:
                raise _Gone(f"its runner sent {error}") from error
            if self._messages:
                return
        for fd in outputs:
            await self._pass_on(fd, run)
        if runner.channel.ended or (not channel and not outputs and (runner.ended.done() or self._closing)):
            raise _Gone(await self._why_gone())

    async def _drain(self, run: Run | None) -> None:
        """Pass on all that the outputs hold now. Who goes on printing meanwhile cannot keep us here."""
        for fd in self._alive.outputs():
            await self._pass_on(fd, run)

    async def _pass_on(self, fd: int, run: Run | None) -> None:
        output, data = self._alive.read(fd)
        if not data:
            return
        if run is not None:
            await run.write(data, output)
        else:
            kept = self._kept[output]
            kept += data
            del kept[:-KEPT_BYTES]

    async def _why_gone(self) -> str:
        runner = self._alive
        if not self._closing:
            await asyncio.wait([runner.ended], timeout=EXIT_S)
        if self._closing:
            return self._closing
        if runner.ended.done():
            ending = runner.ended.result()
            oom = ending.code == -signal.SIGKILL and self._kills.read() > self._kills_before
            return f"its process {ending}" + (": the sandbox was out of memory" if oom else "")
        return "its process is gone, or has closed the channel to execd"

    @property
    def _alive(self) -> Runner:
        if self._runner is None:
            raise _Gone("it has no process")
        return self._runner

    async def _wait(self) -> None:
        """Return when the runner has something, or a run has come, or the process has ended."""
        self._wakeup = self._loop.create_future()
        fd = self._alive.fileno()
        self._loop.add_reader(fd, self._wake)
        try:
            await self._wakeup
        finally:
            self._loop.remove_reader(fd)
            self._wakeup = None

    def _wake(self, _ended: object = None) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    # -- ends before their time

    def _time_out(self, run: Run) -> None:
        if self._is_going_on(run):
            run.time_out()
            self.interrupt()

    def _abandon(self, run: Run) -> None:
        run.stream = None
        if run is self._run:
            self.interrupt()
            self._loop.call_later(STOP_S, self._give_up, run, "its client had gone")
        elif run in self._queue:
            self._queue.remove(run)

    def _give_up(self, run: Run, why: str) -> None:
        if self._is_going_on(run):
            self._kill(f"its run was interrupted because {why}, and did not stop within {STOP_S:.0f} s")

    def _is_going_on(self, run: Run) -> bool:
        """Whether code still runs. It may be done already, and only its client slow to take what it printed."""
        if run is not self._run or run.done:
            return False
        try:
            self._messages.extend(self._alive.channel.receive_nowait())
        except ChannelError:
            return True
        return not any(isinstance(message, RunDone) for message in self._messages)

    def _kill(self, reason: str) -> None:
        self._closing = self._closing or reason
        if self._runner is None:
            self._task.cancel()
            return
        self._runner.signal_group(signal.SIGKILL)
        self._wake()
