"""One context: a runner, the runs and questions that wait for it, and the one that it has.

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
from collections.abc import Awaitable, Callable
from typing import Any

from execd.environment import Launch
from execd.errors import ExecdError
from execd.kernel.channel import (
    PROTOCOL,
    Answer,
    ChannelError,
    Display,
    Error,
    Failed,
    InputRequest,
    Message,
    Ready,
    Result,
    RunDone,
    Started,
)
from execd.kernel.manifest import Manifest
from execd.kernel.question import Question
from execd.kernel.run import Run
from execd.kernel.runner import Ending, Runner
from execd.kernel.usage import Usage
from execd.process.limits import KILLED_CODE, Limits
from execd.process.parents import parent_of
from execd.wire.aio import Stream
from execd.wire.frames import Channel as Output
from execd.wire.messages import MAX_DISPLAY_ID, ContextDone, ContextError, ContextPrompt, ContextResult, ContextState

log = logging.getLogger("execd")

START_S = 30.0  # from a runner's birth to Started
STOP_S = 5.0  # that a run has after it was interrupted because nobody wants it any more
ANSWER_S = 10.0  # for a question; one of 2 GB takes a tenth of a second to copy
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
        manifest: Manifest,
        take: Callable[[], Awaitable[Runner]],
        launch: Launch | None,
        limits: Limits,
        on_gone: Callable[[Kernel], None],
    ) -> None:
        """Begin to start it.

        Args:
            take: returns its runner.
            launch: what to start it with; None for one that is at work already, a copy of another.
        """
        self.id = context_id
        self.manifest = manifest  # of its language
        self.gone = ""
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started.add_done_callback(lambda started: started.cancelled() or started.exception())
        self._loop = asyncio.get_running_loop()
        self._take = take
        self._launch = launch
        self._limits = limits
        self._hits_before = limits.hits()
        self._usage = Usage(0)  # until it has a process
        self._on_gone = on_gone
        self._runner: Runner | None = None
        self._queue: deque[Run | Question] = deque()
        self._run: Run | None = None
        self._number = 0  # of the present run, or the last
        self._questions = 0
        self._asked: Question | None = None
        self._messages: deque[Message] = deque()
        self._kept = {Output.STDOUT: bytearray(), Output.STDERR: bytearray()}
        self._wakeup: asyncio.Future[None] | None = None
        self._closing = ""  # why we killed it
        self._task = self._loop.create_task(self._live())

    @property
    def state(self) -> ContextState:
        """As the control plane sees it."""
        pid = self._runner.pid if self._runner else 0
        return ContextState(self.id, self.manifest.language, pid, busy=bool(self._run or self._asked or self._queue))

    # -- what may be asked of it

    async def run(
        self, code: str, timeout_s: float | None, stream: Stream, *, may_ask: bool = False, most_bytes: int = 0
    ) -> None:
        """Run code after what waits already, and return when ContextDone has been sent.

        Cancelling it takes the run out of the queue, or interrupts it; if it has not stopped STOP_S later, the
        context is killed.

        Raises:
            ExecdError: `context.not_found`: it went before this run's turn came.
        """
        self._check_alive()
        run = Run(code, timeout_s, stream, may_ask=may_ask, most_bytes=most_bytes)
        self._queue.append(run)
        self._wake()
        try:
            await run.over
        except asyncio.CancelledError:
            self._abandon(run)
            raise

    async def ask(self, op: str, fields: dict[str, Any], fds: list[int] | None = None) -> Answer:
        """Ask the runner something, after what waits already. Cancelling it leaves the answer to nobody.

        Raises:
            ExecdError: `context.not_found`: it went before; `context.no_answer`: it did not answer in ANSWER_S.
        """
        self._check_alive()
        question = Question(op, fields, fds or [])
        self._queue.append(question)
        self._wake()
        return await question.answer

    def answer_input(self, text: str | None) -> None:
        """Give the run what it asked for; None: the end of input.

        Raises:
            ExecdError: `context.no_input`: no run asks.
        """
        if self._run is None or not self._run.asks:
            raise ExecdError("context.no_input", f"nothing in context {self.id} waits for input")
        self._run.asks = False
        self._alive.channel.send_nowait("input", text=text)

    def interrupt(self) -> None:
        """Interrupt the present run; without one, nothing. Its code may catch that and go on."""
        if self._run is None:
            is_idle = self.started.done() and self._asked is None
            if is_idle and self._queue and isinstance(first := self._queue[0], Run):
                first.interrupted = True  # its turn has come already, only not to our task
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
                match await self._next():
                    case Run() as run:
                        await self._serve(run)
                    case Question() as question:
                        await self._pose(question)
        except _Gone as gone:
            reason = str(gone)
        except ExecdError as error:
            reason = error.message
            if not self.started.done():
                self.started.set_exception(error)
        except Exception:
            log.exception("context %s", self.id)
        finally:
            self._bury(reason)

    async def _start(self) -> None:
        self._runner = await self._take()
        self._runner.ended.add_done_callback(self._wake)
        try:
            async with asyncio.timeout(START_S):
                if self._launch is not None:
                    await self._runner.channel.send("start", cwd=self._launch.cwd, env=self._launch.env)
                while not isinstance(message := await self._receive(None), Started):
                    if isinstance(message, Failed):
                        problem = f"{self.manifest.language}: {message.message}"
                        raise ExecdError("context.refused", problem[:MAX_REASON])
                    if not isinstance(message, Ready) or message.protocol != PROTOCOL:
                        raise _Gone(f"its runner does not speak protocol {PROTOCOL}")
        except TimeoutError:
            raise _Gone(f"it had not started after {START_S:.0f} s") from None
        self._usage = Usage(self._code_pid(message.pid))
        if not self.started.done():
            self.started.set_result(None)

    async def _next(self) -> Run | Question:
        """Return what is first in the queue. Until there is something, what is printed is kept for the next run."""
        while not self._queue:
            await self._wait()
            await self._look(None)
            self._messages.clear()  # displays of background threads: nobody is there to see them
        return self._queue.popleft()

    async def _serve(self, run: Run) -> None:
        self._run = run
        self._number += 1
        self._hits_before = self._limits.hits()
        self._usage.begin()
        began = time.monotonic()

        def receipt(cause: str, *, life_s: float = 0.0, peak: int = 0, **more: Any) -> ContextDone:
            return ContextDone(
                cause,
                wall_s=time.monotonic() - began,
                cpu_s=self._usage.cpu_s(life_s),
                peak_memory_bytes=max(self._usage.peak_memory_bytes(), peak),
                output_bytes=run.output_bytes,
                limits_hit=self._limits.hits().since(self._hits_before),
                **more,
            )

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
            await self._alive.channel.send("run", id=self._number, code=run.code, input=run.may_ask)
            if run.interrupted:
                self._strike()  # what came before the code may have been lost
            done = await self._follow(run)
            run.done = True
            cause = self._cause_of(done, run)
            await run.finish(
                receipt(
                    cause,
                    execution_count=done.count,
                    exit_code=done.exit_code,
                    peak=done.peak_memory_bytes,
                )
            )
        except _Gone as gone:
            await self._drain(run)
            cause = "timeout" if run.timed_out else "died"
            died_of, exit_code = self._died_of()
            life = await self._life()
            await run.finish(
                receipt(
                    cause,
                    life_s=life.cpu_s,
                    peak=life.peak_memory_bytes,
                    message=str(gone)[:MAX_REASON],
                    died_of=died_of,
                    exit_code=exit_code,
                )
            )
            raise
        finally:
            for timer in timers:
                timer.cancel()
            self._run = None
            if not run.over.done():
                run.over.set_result(None)

    def _code_pid(self, told: int) -> int:
        """Return the process that runs the code: the runner's own, or the child of it that it names."""
        runner = self._alive
        return told if told and parent_of(told) == runner.pid else runner.code_pid

    def _cause_of(self, done: RunDone, run: Run) -> str:
        if done.status == "ok":
            return "ok"
        if run.timed_out:
            return "timeout"
        # The end of a program that the code ran, and which was the code's end too.
        if done.exit_code == KILLED_CODE and "memory" in self._limits.hits().since(self._hits_before):
            return "oom"
        return "interrupted" if run.interrupted else done.status

    async def _follow(self, run: Run) -> RunDone:
        """Pass on what a run prints and shows, in order, until it is done."""
        while True:
            message = await self._receive(run)
            match message:
                case RunDone(number, status) if number == self._number and status in ("ok", "error", "interrupted"):
                    return message
                case Result(data, count, ack):
                    await run.show(ContextResult("result", data, count))
                case Display(data, display_id, update, ack):
                    name = display_id[:MAX_DISPLAY_ID]
                    await run.show(ContextResult("display", data, display_id=name, update=update))
                case Error(name, value, traceback, frames, ack):
                    await run.send(ContextError(name, value, traceback, frames))
                case InputRequest(prompt, password):
                    ack, run.asks = 0, True
                    if run.may_ask:
                        await run.send(ContextPrompt(prompt, password))
                    else:
                        self.answer_input(None)
                case _ if isinstance(message, Answer):
                    ack = 0  # to a question that has been given up
                case _:
                    raise _Gone(f"its runner said {type(message).__name__} out of turn")
            if ack:
                await self._alive.channel.send("ack", ack=ack)

    async def _pose(self, question: Question) -> None:
        """Ask the runner, and pass its answer on. What is printed meanwhile is kept for the next run."""
        if question.answer.done():
            return  # whoever asked is not interested any more
        self._questions += 1
        self._asked = question
        try:
            async with asyncio.timeout(ANSWER_S):
                if question.fds:
                    self._alive.channel.send_fds(question.op, question.fds, id=self._questions, **question.fields)
                else:
                    await self._alive.channel.send(question.op, id=self._questions, **question.fields)
                while not isinstance(message := await self._receive(None), Answer) or message.id != self._questions:
                    pass
            question.set_answer(message)
        except ChannelError as error:
            raise _Gone(f"its runner sent {error}") from error
        except TimeoutError:
            question.fail(ExecdError("context.no_answer", f"it did not answer within {ANSWER_S:.0f} s"))
            if self.manifest.interrupt == "signal":
                self._alive.signal_group(signal.SIGINT)
        except _Gone as gone:
            question.fail(self._not_found(str(gone)))
            raise
        finally:
            self._asked = None

    def _check_alive(self) -> None:
        if self.gone:
            raise self._not_found(self.gone)

    def _not_found(self, why: str) -> ExecdError:
        return ExecdError("context.not_found", f"context {self.id} is gone: {why}")

    def _bury(self, reason: str) -> None:
        self.gone = (self._closing or reason)[:MAX_REASON]
        runner = self._runner
        if runner is not None:
            runner.signal_group(signal.SIGKILL)
            runner.close()
        self._on_gone(self)
        if not self.started.done():
            said = self._kept[Output.STDERR].decode(errors="replace").strip().rpartition("\n")[2]
            problem = f"{self.manifest.language}: {self.gone}" + (f": {said}" if said else "")
            self.started.set_exception(ExecdError("context.start_failed", problem[:MAX_REASON]))
        for waiting in self._queue:
            if isinstance(waiting, Question):
                waiting.fail(self._not_found(self.gone))
            elif not waiting.over.done():
                waiting.over.set_exception(self._not_found(self.gone))
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
            oom = self._died_of()[0] == "oom"
            return f"its process {runner.ended.result()}" + (": the sandbox was out of memory" if oom else "")
        return "its process is gone, or has closed the channel to execd"

    async def _life(self) -> Ending:
        """End the process if it has not ended; return what it used in its life, or nothing where that is not known."""
        runner = self._alive
        runner.signal_group(signal.SIGKILL)  # it is of no more use, and its client waits for our word
        await asyncio.wait([runner.ended], timeout=EXIT_S)
        is_its_own = self._usage.pid == runner.pid  # and not that of a child beside it
        return runner.ended.result() if is_its_own and runner.ended.done() else Ending(0)

    def _died_of(self) -> tuple[str, int]:
        """Return the cause in a word, and an exit code as shells have it."""
        if self._closing:
            return "killed", KILLED_CODE
        if not self._alive.ended.done():
            return "protocol", 0
        code = self._alive.ended.result().code
        if code >= 0:
            return "exit", code
        met = self._limits.hits().since(self._hits_before)
        return "oom" if code == -signal.SIGKILL and "memory" in met else "signal", 128 - code

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
