"""One context: a queue of runs and questions, and the life of the runner that serves them.

    starting ──▶ idle ◀──▶ running
        └──────────┴──────────┴────▶ gone

One task does all reading and writing for a context. A client that reads slowly therefore stops its own context and no
other. `reading.py` is the conversation of that task with the runner, `death.py` what is reported at the end of a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from execd.dispatch import Replies
from execd.errors import ExecdError
from execd.kernel.backlog import Backlog
from execd.kernel.death import MAX_REASON_CHARS, Gone, Tally
from execd.kernel.question import Question
from execd.kernel.reading import EXIT_S, Reading
from execd.kernel.run import Run
from execd.kernel.runner.builtin import BASH
from execd.kernel.runner.channel import PROTOCOL, Answer, Failed, Ready, Started
from execd.kernel.runner.manifest import Manifest
from execd.kernel.runner.process import Runner
from execd.kernel.runner.progress import Progress, stuck
from execd.kernel.runner.work import Work
from execd.launch.environment import Launch
from execd.process.limits import Limits
from execd.wire.messages import ContextState

log = logging.getLogger("execd")

STOP_S = 5.0  # for a run to stop after it was interrupted because nobody wants it any more
ANSWER_S = 10.0  # for the answer to a question; to copy a context of 2 GB takes a tenth of a second
# A program that bash has forked but not yet executed loses a signal. A program is signalled once more MISSED_S later if
# it was made within FORK_S of the signal.
FORK_S = 0.03
MISSED_S = 0.1
# Then the whole process group is signalled again: WAIT_S later, which gives traps time, and every AGAIN_S after that.
WAIT_S = 0.5
AGAIN_S = 0.1
AGAIN_TIMES = 50


class Kernel:
    """A live interpreter. `started` is done when it can run code; `gone` says why it cannot any more."""

    def __init__(
        self,
        context_id: str,
        manifest: Manifest,
        take: Callable[[], Awaitable[Runner]],
        launch: Launch | None,
        limits: Limits,
        work: Work,
        on_gone: Callable[[Kernel], None],
    ) -> None:
        """Begin to start a context.

        Args:
            manifest: The manifest of its language.
            take: Returns the runner of the context.
            launch: What the runner is started with. None: the runner is a copy of another one and works already.
            on_gone: Is called when the context has ended.
        """
        self.id = context_id
        self.manifest = manifest
        self.gone = ""
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started.add_done_callback(lambda started: started.cancelled() or started.exception())
        self._loop = asyncio.get_running_loop()
        self._take = take
        self._launch = launch
        self._work = work
        self._on_gone = on_gone
        self._tally = Tally(limits)
        self._backlog = Backlog()
        self._reading: Reading | None = None  # None: the context has no process yet
        self._queue: deque[Run | Question] = deque()
        self._run: Run | None = None
        self._number = 0  # of the present run, or of the last one
        self._questions = 0
        self._asked: Question | None = None
        self._closing = ""  # why execd has killed the context
        self._task = self._loop.create_task(self._live())

    @property
    def state(self) -> ContextState:
        """The state of the context, for the control plane."""
        pid = self._reading.runner.pid if self._reading else 0
        return ContextState(self.id, self.manifest.language, pid, busy=bool(self._run or self._asked or self._queue))

    @property
    def has_started(self) -> bool:
        """Whether the context has ever been able to run code."""
        return self.started.done() and not self.started.cancelled() and self.started.exception() is None

    # -- what may be asked of a context

    async def run(
        self,
        code: str,
        timeout_s: float | None,
        stream: Replies,
        *,
        may_ask: bool = False,
        most_bytes: int = 0,
        notice: str = "",
        loss: str = "",
    ) -> None:
        """Run code after what waits already. Return when ContextDone has been sent.

        Cancelling the call takes the run out of the queue, or interrupts it. The context is killed if the run has not
        stopped STOP_S later.

        Raises:
            ExecdError: `context.not_found`: the context ended before the turn of this run came.
        """
        self._check_alive()
        run = Run(code, timeout_s, stream, may_ask=may_ask, most_bytes=most_bytes, notice=notice, loss=loss)
        self._enqueue(run)
        try:
            await run.over
        except asyncio.CancelledError:
            self._abandon(run)
            raise

    async def ask(self, op: str, fields: dict[str, Any], fds: list[int] | None = None) -> Answer:
        """Ask the runner a question after what waits already. Cancelling the call drops the answer.

        Raises:
            ExecdError: `context.not_found`: the context ended before the answer;
                `context.no_answer`: the runner did not answer within ANSWER_S.
        """
        self._check_alive()
        question = Question(op, fields, fds or [])
        self._enqueue(question)
        return await question.answer

    def answer_input(self, text: str | None) -> None:
        """Give the present run the line of input that the run waits for. None is the end of the input.

        Raises:
            ExecdError: `context.no_input`: no run waits for input.
        """
        if self._run is None or not self._run.asks:
            raise ExecdError("context.no_input", f"nothing in context {self.id} waits for input")
        self._alive.answer_input(self._run, text)

    def interrupt(self) -> None:
        """Interrupt the code of the present run. Do nothing if no code runs. The code may catch the interrupt."""
        if self._run is None:
            is_idle = self.started.done() and self._asked is None
            if is_idle and self._queue and isinstance(first := self._queue[0], Run):
                first.interrupted = True  # the turn of that run has come, but the task has not resumed yet
        elif self._is_going_on(self._run):
            self._run.interrupted = True
            self._signal()

    async def close(self, reason: str) -> None:
        """Kill the process group, and return when it is gone. The present run ends as `died`."""
        self._kill(reason)
        # This does not wait for the last words of the present run, whose client may read slowly.
        if self._reading is not None:
            await asyncio.wait([self._reading.runner.ended], timeout=EXIT_S)

    # -- the life of a context

    async def _live(self) -> None:
        reason = "internal error in execd"
        try:
            with self._work:
                await self._start()
            while True:
                match await self._next():
                    case Run() as run:
                        with self._work:
                            await self._serve(run)
                    case Question() as question:
                        await self._pose(question)
        except Gone as gone:
            reason = str(gone)
        except ExecdError as error:
            reason = error.message
            if not self.started.done():
                self.started.set_exception(error)
        except Exception:
            log.exception("context %s failed", self.id)
        finally:
            self._bury(reason)

    async def _start(self) -> None:
        runner = await self._take()
        reading = self._reading = Reading(runner, self._backlog, self._tally)
        progress = Progress(lambda: runner.pid, lambda: self._kill(f"it {stuck()} while it started"))
        progress.begin()
        try:
            if self._launch is not None:
                await runner.channel.send("start", cwd=self._launch.cwd, env=self._launch.env)
            while not isinstance(message := await reading.receive(None), Started):
                if isinstance(message, Failed):
                    problem = f"{self.manifest.language}: {message.message}"
                    raise ExecdError("context.refused", problem[:MAX_REASON_CHARS])
                if not isinstance(message, Ready) or message.protocol != PROTOCOL:
                    raise Gone(f"its runner does not speak protocol {PROTOCOL}")
        finally:
            progress.end()
        self._tally.watch(runner, message.pid)
        if not self.started.done():
            self.started.set_result(None)

    async def _next(self) -> Run | Question:
        """Return the first run or question of the queue."""
        while not self._queue:
            await self._alive.listen()
        return self._queue.popleft()

    async def _serve(self, run: Run) -> None:
        reading = self._alive
        self._run = run
        self._number += 1
        self._tally.begin()
        timers = self._limit(run)
        try:
            if run.loss:
                await run.announce(run.loss)
            await self._backlog.deliver(run)
            await reading.runner.channel.send("run", id=self._number, code=run.code, input=run.may_ask)
            if run.interrupted:
                self._signal()  # an interrupt that came before the code may have been lost
            done = await reading.follow(run, self._number)
            run.done = True
            await run.finish(self._tally.receipt(run, done))
        except Gone as gone:
            await reading.drain(run)
            death = reading.death()
            await reading.end()  # the client waits for the receipt, and the receipt for the usage
            await run.finish(self._tally.last_receipt(run, gone, reading.runner, death))
            raise
        finally:
            for timer in timers:
                timer.cancel()
            self._run = None
            if not run.over.done():
                run.over.set_result(None)

    async def _pose(self, question: Question) -> None:
        """Ask the runner a question and pass the answer on."""
        if question.answer.done():
            return  # the caller has gone
        self._questions += 1
        self._asked = question
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._alive.ask(question, self._questions)
            question.set_answer(answer)
        except TimeoutError:
            question.fail(ExecdError("context.no_answer", f"it did not answer within {ANSWER_S:.0f} s"))
            if self.manifest.interrupt == "signal":
                self._alive.runner.signal_group(signal.SIGINT)
        except Gone as gone:
            question.fail(self._not_found(str(gone)))
            raise
        finally:
            self._asked = None

    def _bury(self, reason: str) -> None:
        self.gone = (self._closing or reason)[:MAX_REASON_CHARS]
        if self._reading is not None:
            self._reading.close()
        self._on_gone(self)
        if not self.started.done():
            said = self._backlog.last_error()
            problem = f"{self.manifest.language}: {self.gone}" + (f": {said}" if said else "")
            self.started.set_exception(ExecdError("context.start_failed", problem[:MAX_REASON_CHARS]))
        for waiting in self._queue:
            if isinstance(waiting, Question):
                waiting.fail(self._not_found(self.gone))
            elif not waiting.over.done():
                waiting.over.set_exception(self._not_found(self.gone))
        self._queue.clear()

    # -- the queue

    def _enqueue(self, waiting: Run | Question) -> None:
        self._queue.append(waiting)
        if self._reading is not None:
            self._reading.wake()

    @property
    def _alive(self) -> Reading:
        if self._reading is None:
            raise Gone("it has no process")
        return self._reading

    def _check_alive(self) -> None:
        if self.gone:
            raise self._not_found(self.gone)

    def _not_found(self, why: str) -> ExecdError:
        return ExecdError("context.not_found", f"context {self.id} is gone: {why}")

    # -- interrupts

    def _signal(self) -> None:
        # The message comes first: a signal that arrives before the runner is ready for it has no effect.
        reading = self._alive
        reading.runner.channel.send_nowait("interrupt", id=self._number)
        if self.manifest.interrupt == "signal":
            reading.runner.signal_group(signal.SIGINT)
            if self._run is not None and self.manifest == BASH:
                now = time.clock_gettime(time.CLOCK_BOOTTIME)
                self._loop.call_later(MISSED_S, self._signal_new_programs, self._run, now)

    def _signal_new_programs(self, run: Run, signalled_at: float) -> None:
        """Signal the programs that bash was starting when it was signalled: they have lost the signal."""
        if self._is_going_on(run):
            for pid, made_at in self._alive.runner.listeners(signal.SIGINT).items():
                if abs(made_at - signalled_at) < FORK_S:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGINT)
            self._loop.call_later(WAIT_S, self._signal_again, run, signalled_at, AGAIN_TIMES)

    def _signal_again(self, run: Run, signalled_at: float, left: int) -> None:
        """Signal again, as a person would: bash forgets a signal if the program that it waits for exits normally.

        Do not signal while a program runs that has had the signal: the program may have reasons to take its time.
        """
        if self._is_going_on(run):
            runner = self._alive.runner
            if all(made_at > signalled_at + FORK_S for made_at in runner.listeners(signal.SIGINT).values()):
                runner.signal_group(signal.SIGINT)
            if left > 1:
                self._loop.call_later(AGAIN_S, self._signal_again, run, signalled_at, left - 1)

    # -- early ends

    def _limit(self, run: Run) -> list[asyncio.TimerHandle]:
        """Start the timers of a run."""
        if run.timeout_s is None:
            return []
        return [
            self._loop.call_later(run.timeout_s, self._time_out, run),
            self._loop.call_later(run.timeout_s + STOP_S, self._give_up, run, "its time was up"),
        ]

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
        """Return whether code still runs. The code may be done while its client is slow to take what it printed."""
        return run is self._run and not run.done and not self._alive.hears_end()

    def _kill(self, reason: str) -> None:
        self._closing = self._closing or reason
        if self._reading is None:
            self._task.cancel()
        else:
            self._reading.kill(self._closing)
