"""The conversation with a runner: messages on its channel, and what the code prints on its pipes."""

from __future__ import annotations

import asyncio
import signal
from collections import deque

from execd.kernel.backlog import Backlog
from execd.kernel.death import Death, Gone, Tally, describe
from execd.kernel.question import Question
from execd.kernel.run import Run
from execd.kernel.runner.channel import (
    Answer,
    ChannelError,
    Display,
    Error,
    InputRequest,
    Message,
    Result,
    RunDone,
)
from execd.kernel.runner.process import Runner
from execd.wire.messages import MAX_DISPLAY_ID, ContextError, ContextPrompt, ContextResult

EXIT_S = 1.0  # between the end of a channel and that of its process

_STATUSES = ("ok", "error", "interrupted")


class Reading:
    """One conversation. Only the task of the context reads; any other may call `hears_end` and `kill`."""

    def __init__(self, runner: Runner, backlog: Backlog, tally: Tally) -> None:
        """Begin the conversation. What is printed and shown between two runs goes to *backlog*."""
        self.runner = runner
        self.closing = ""  # why execd has killed the runner
        self._loop = asyncio.get_running_loop()
        self._backlog = backlog
        self._tally = tally
        self._messages: deque[Message] = deque()
        self._violation = ""  # of the protocol, by the runner
        self._wakeup: asyncio.Future[None] | None = None
        runner.ended.add_done_callback(self.wake)

    # -- reading

    async def receive(self, run: Run | None) -> Message:
        """Return the next message. Everything that was printed before the message has been passed on.

        Raises:
            Gone: No message will come.
        """
        while not self._messages:
            await self._wait()
            await self._look(run)
        await self.drain(run)
        return self._messages.popleft()

    async def listen(self) -> None:
        """Wait until something happens between two runs. Keep what is printed and shown for the next run.

        Raises:
            Gone: No message will come.
        """
        await self._wait()
        await self._look(None)
        while self._messages:
            await self._keep(self._messages.popleft())

    async def follow(self, run: Run, number: int) -> RunDone:
        """Pass on what a run prints and shows, in order, until the runner says that the run is done.

        Raises:
            Gone: The runner has ended, or has broken the protocol.
        """
        while True:
            message = await self.receive(run)
            match message:
                case RunDone(id, status) if id == number and status in _STATUSES:
                    return message
                case Result(data, count, ack):
                    await run.show(ContextResult("result", data, count))
                case Display(ack=ack):
                    await run.show(_shown(message))
                case Error(name, value, traceback, frames, ack):
                    await run.send(ContextError(name, value, traceback, frames))
                case InputRequest(prompt, password):
                    ack, run.asks = 0, True
                    if run.may_ask:
                        await run.send(ContextPrompt(prompt, password))
                    else:
                        self.answer_input(run, None)
                case _ if isinstance(message, Answer):
                    ack = 0  # to a question that was given up
                case _:
                    raise Gone(f"its runner said {type(message).__name__} out of turn")
            if ack:
                await self.runner.channel.send("ack", ack=ack)

    async def ask(self, question: Question, number: int) -> Answer:
        """Send a question and return the answer. Keep what is printed meanwhile for the next run.

        Raises:
            Gone: The runner has ended, or has broken the protocol.
        """
        channel = self.runner.channel
        try:
            if question.fds:
                channel.send_fds(question.op, question.fds, id=number, **question.fields)
            else:
                await channel.send(question.op, id=number, **question.fields)
        except ChannelError as error:
            raise Gone(f"its runner sent {error}") from error
        while not isinstance(message := await self.receive(None), Answer) or message.id != number:
            await self._keep(message)
        return message

    def answer_input(self, run: Run, text: str | None) -> None:
        """Give a run the line of input that the run waits for. None is the end of the input."""
        run.asks = False
        self.runner.channel.send_nowait("input", text=text)

    def hears_end(self) -> bool:
        """Read the channel, and return whether the end of the present run is among the messages that wait."""
        self._hear()
        self.wake()  # the task of the context finds nothing to read where this call has read it
        return any(isinstance(message, RunDone) for message in self._messages)

    async def drain(self, run: Run | None) -> None:
        """Pass on everything that the pipes hold now. A program that goes on printing does not prolong this."""
        for fd in self.runner.outputs():
            await self._pass_on(fd, run)

    # -- the end

    def kill(self, reason: str) -> None:
        """Kill the process group. The conversation ends with the first reason that was given."""
        self.closing = self.closing or reason
        self.runner.signal_group(signal.SIGKILL)
        self.wake()

    def death(self) -> Death:
        """Return how the runner ended."""
        return self._tally.death_of(self.runner, is_killed=bool(self.closing))

    async def end(self) -> None:
        """Kill the process group if the runner is still alive, and wait a moment for the end of its process."""
        self.runner.signal_group(signal.SIGKILL)
        await asyncio.wait([self.runner.ended], timeout=EXIT_S)

    def close(self) -> None:
        """Kill the process group and close all descriptors."""
        self.runner.signal_group(signal.SIGKILL)
        self.runner.close()

    def wake(self, _ended: object = None) -> None:
        """Have the task of the context look again."""
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    # -- inside

    async def _wait(self) -> None:
        """Return when the runner has said something, or its process has ended, or another task calls `wake`."""
        if self._violation:
            return  # `hears_end` has read it while this task was at work
        self._wakeup = self._loop.create_future()
        fd = self.runner.fileno()
        self._loop.add_reader(fd, self.wake)
        try:
            await self._wakeup
        finally:
            self._loop.remove_reader(fd)
            self._wakeup = None

    async def _look(self, run: Run | None) -> None:
        """Take the messages that are there. If there are none, pass on a piece of each output.

        Raises:
            Gone: Nothing will come any more.
        """
        runner = self.runner
        channel, outputs = runner.readable()
        if channel:
            self._hear()
        if self._violation:
            raise Gone(self._violation)
        if self._messages:
            return
        for fd in outputs:
            await self._pass_on(fd, run)
        if runner.channel.ended or (not channel and not outputs and (runner.ended.done() or self.closing)):
            raise Gone(await self._why_gone())

    def _hear(self) -> None:
        try:
            self._messages.extend(self.runner.channel.receive_nowait())
        except ChannelError as error:
            self._violation = f"its runner sent {error}"

    async def _keep(self, message: Message) -> None:
        """Keep a display for the next run: a thread of the code has shown it while no run could take it."""
        if isinstance(message, Display):
            self._backlog.show(_shown(message))
            if message.ack:
                await self.runner.channel.send("ack", ack=message.ack)

    async def _pass_on(self, fd: int, run: Run | None) -> None:
        output, data = self.runner.read(fd)
        if not data:
            return
        if run is not None:
            await run.write(data, output)
        else:
            self._backlog.append(data, output)

    async def _why_gone(self) -> str:
        if not self.closing:
            await asyncio.wait([self.runner.ended], timeout=EXIT_S)
        return self.closing or describe(self.runner, self.death())


def _shown(display: Display) -> ContextResult:
    name = display.display_id[:MAX_DISPLAY_ID]
    return ContextResult("display", display.data, display_id=name, update=display.update)
