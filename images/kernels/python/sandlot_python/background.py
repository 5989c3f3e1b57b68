"""The time between runs: the event loop of top-level `await` goes on, so that servers answer and tasks end."""

from __future__ import annotations

import traceback
from os import _exit as exit_now
from os import register_at_fork
from types import FrameType
from typing import TYPE_CHECKING

from IPython.core import async_helpers

from sandlot_python.channel import Channel, Interrupts, Message
from sandlot_python.shell import is_loop_code

if TYPE_CHECKING:
    import asyncio


class Background:
    """Waits for messages, and runs the event loop meanwhile if code has awaited anything in this context."""

    def __init__(self, channel: Channel, interrupts: Interrupts) -> None:
        self._channel = channel
        self._interrupts = interrupts
        self._running: asyncio.AbstractEventLoop | None = None
        register_at_fork(after_in_child=self._stop)

    def receive(self) -> Message | None:
        """Return the next message; None if execd has closed the channel."""
        loop = async_helpers._asyncio_event_loop
        if loop is not None and not self._channel.wait(0):
            try:
                self._run(loop)
            except Exception:
                traceback.print_exc()  # user code has closed or replaced the loop; its tasks stand still
        return self._channel.receive()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop.is_closed():
            return
        loop.add_reader(self._channel.fileno(), loop.stop)
        while not self._channel.wait(0):
            self._run_struck(loop)
            if not self._channel.is_ours:
                exit_now(0)  # a child that a task forked: the channel and the loop's epoll belong to its parent
        loop.remove_reader(self._channel.fileno())

    def _run_struck(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the loop until a message has come, or code that the loop calls is interrupted or exits."""
        self._interrupts.install()
        try:
            with self._interrupts.diverted(self._spares):
                self._running = loop
                self._interrupts.armed = True
                try:
                    loop.run_forever()
                finally:
                    self._interrupts.armed = False
                    self._running = None
        except (KeyboardInterrupt, SystemExit):
            traceback.print_exc()

    def _stop(self) -> None:
        """Stop the loop in a child that a task forked: the epoll that both share belongs to the parent."""
        if self._running is not None:
            self._running.stop()

    def _spares(self, frame: FrameType | None) -> bool:
        """Return whether an interrupt spares what runs now. It strikes only what keeps its run from beginning."""
        self._channel.take_what_is_there()
        waiting = self._channel.next_run()
        return not waiting or waiting != self._channel.interrupted_run or (frame is not None and is_loop_code(frame))
