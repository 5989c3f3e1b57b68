"""The recording of one run: its replies, numbered, kept until a reader has them and for a while longer.

A run sends its replies to a recording as it would to a stream of the link. One reader at a time gets the items, from
any number on that is still kept. A run that nobody reads goes on until MAX_UNSENT_BYTES wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from execd.errors import Code, ExecdError
from execd.recording.cut import Cutter
from execd.wire.aio import Data, Stream, encode_whole
from execd.wire.connection import MAX_MESSAGE_BYTES
from execd.wire.frames import Channel
from execd.wire.messages import (
    MAX_NUMBER,
    MAX_TAIL_BYTES,
    ContextDone,
    ContextError,
    ContextPrompt,
    ContextResult,
    Done,
    Problem,
    ProcessExited,
    ProcessStarted,
    Reply,
    RunItem,
    RunOutput,
)

# What may wait for the reader of one run. Beyond that the run has to wait as well.
MAX_UNSENT_BYTES = 1 << 20
# What is kept of one run after it was sent: more than the sockets between here and the client can hold.
KEPT_BYTES = 4 << 20
# What all recordings of the sandbox keep together, unless the claim sets another limit. Beyond that, each run may keep
# one item that was not sent yet, so that every reader makes progress.
MAX_RECORDED_BYTES = 8 << 20
ITEM_BYTES = 256  # the memory of an item, beside its content
# A reply with more content is encoded, to check that it fits into a message. Smaller replies always fit.
CHECKED_BYTES = MAX_MESSAGE_BYTES // 8
TEXT_BYTES = 64  # the memory of each text of a traceback, beside its content
TAILS = 3  # outputs of each channel whose ends are kept when the outputs are dropped
# The time without a reader is counted in ticks: a sandbox that was paused meanwhile has lost no more than one tick.
TICK_S = 1.0

Said = (
    RunOutput
    | Done
    | ProcessStarted
    | ProcessExited
    | ContextResult
    | ContextError
    | ContextPrompt
    | ContextDone
    | Problem
)
_SAID = (Done, ProcessStarted, ProcessExited, ContextResult, ContextError, ContextPrompt, ContextDone)
_ENDS = (ProcessExited, ContextDone, Problem)


class _Item(NamedTuple):
    number: int
    said: Said
    size: int


class Changes:
    """A change for which tasks can wait."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        """Return after the next `wake()`."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def wake(self) -> None:
        """Have the waiting tasks look again."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


class Budget:
    """The memory that all recordings of a sandbox may take together."""

    def __init__(self) -> None:
        self.max_bytes = MAX_RECORDED_BYTES
        self.total_bytes = 0
        self.recordings: set[Recording] = set()
        self.room = Changes()  # changes when a run that waits may find room

    def make_room(self) -> bool:
        """Drop sent items until there is room. Return whether there is. The largest recording loses its items first."""
        while self.total_bytes >= self.max_bytes:
            if not max(self.recordings, key=lambda one: one.sent_bytes).drop_oldest():
                return False
        return True


class Recording:
    """The recording of one run. The run sends its replies to it (see `Replies`), and a reader gets them by `play`."""

    def __init__(self, budget: Budget, keep_s: int, on_unread: Callable[[], None], *, lines: bool) -> None:
        """Begin to record.

        *on_unread* is called after *keep_s* seconds without a reader; for *lines* see `RunRecord`.
        """
        self.is_over = False
        self.sent_bytes = 0  # of the items that are kept
        self._unsent_bytes = 0
        self._budget = budget
        self._cutter = Cutter(lines=lines)
        self._items: deque[_Item] = deque()
        self._last = 0  # the number of the last item
        self._sent = 0  # the number of the last item that was sent to a reader
        self._raised = self._counted = 0  # the number of the first such item; 0: there is none
        self._dropped: dict[int, deque[bytes]] = {}  # channel → ends of the last outputs that are not kept any more
        self._changed = Changes()
        self._reader: Stream | None = None
        self._keep_s = keep_s
        self._on_unread = on_unread
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        budget.recordings.add(self)

    @property
    def has_reader(self) -> bool:
        """Whether the recording has a reader now."""
        return self._reader is not None

    # -- the run's side: the methods of `Replies`

    is_broken = is_lost = False  # a recording does not break

    async def receive(self) -> Reply | Data | None:
        """Return None: a recorded run has no input."""
        return None

    async def send(self, message: Reply) -> None:
        """Record a reply. Wait while there is no room, except for the last reply of the run.

        Raises:
            MessageTooLarge: Nothing was recorded.
        """
        if not isinstance(message, _SAID):
            raise TypeError(f"{type(message).__name__} is not a reply of a run")
        if _size(message) > CHECKED_BYTES:
            encode_whole(RunItem(MAX_NUMBER, message))
        if isinstance(message, _ENDS):
            self._put_held()
        else:
            if isinstance(message, ContextPrompt):
                self._put_held()  # the prompt may stand at the end of an unfinished line
            await self._wait_for_room()
        self._put(message)

    async def write(self, data: bytes | memoryview, channel: Channel) -> None:
        """Record output. Wait while there is no room."""
        await self._wait_for_room()
        self._put_output(bytes(data), channel)

    def write_nowait(self, data: bytes | memoryview, channel: Channel) -> int:
        """Record output if there is room. Return how many bytes were recorded: all or none."""
        if not self._has_room():
            return 0
        self._put_output(bytes(data), channel)
        return len(data)

    def end(self) -> None:
        """End the recording: nothing more will be said."""
        if not self.is_over:
            self._put_held()
            self.is_over = True
            self._changed.wake()

    def fail(self, problem: Problem) -> bool:
        """Record that the run has failed.

        Return True if the recording can be forgotten: the reader has heard of the failure.
        """
        self._put_held()
        if self._reader is not None and all(isinstance(item.said, Done) for item in self._items):
            self._reader.reset(problem.code, problem.message)
            return True
        self._put(problem.clipped())
        self.end()
        return False

    # -- the reader's side

    async def play(self, stream: Stream, after: int) -> None:
        """Send all items after a number, as the only reader. Return at the end, or when another reader comes.

        Raises:
            ExecdError: `run.lost`: the next item is not kept any more.
            BROKEN: The reader has gone.
        """
        self.check(after)
        self.send_away("run.taken", "another client now reads this run")
        self._reader = stream
        self._stop_waiting()
        self._mark_sent(after)
        try:
            while self._reader is stream:
                if after < self._last:
                    item = self._find(after + 1)
                    await stream.send(RunItem(item.number, item.said))
                    after = item.number
                    self._mark_sent(after)
                elif self.is_over:
                    return
                else:
                    await self._changed.wait()
        finally:
            if self._reader is stream:
                self._reader = None
                self._wait_for_a_reader()

    def send_away(self, code: Code, message: str) -> None:
        """End the stream of the present reader."""
        if self._reader is not None:
            self._reader.reset(code, message)
            self._reader = None
            self._changed.wake()

    def check(self, after: int) -> None:
        """Check that the item after a number is kept or is the next one. Raises ExecdError, `run.lost`."""
        if not self._last - len(self._items) <= after <= self._last:
            raise ExecdError("run.lost", f"the events after number {after} are not kept")

    def is_at_end(self, after: int) -> bool:
        """Return whether a number is that of the run's last item."""
        return self.is_over and after == self._last

    def has_raised(self, after: int) -> bool:
        """Return whether an error is among the items up to a number."""
        return 0 < self._raised <= after

    def has_counted(self, after: int) -> bool:
        """Return whether a result with an execution count is among the items up to a number."""
        return 0 < self._counted <= after

    def tails(self, channel: Channel, after: int) -> tuple[bytes, ...]:
        """Return the ends of the last outputs of a channel up to a number, the newest last."""
        tails: list[bytes] = []
        for item in reversed(self._items):
            if len(tails) == TAILS:
                break
            if item.number <= after and isinstance(item.said, RunOutput) and item.said.channel == channel:
                tails.insert(0, item.said.data[-MAX_TAIL_BYTES:])
        return tuple([*self._dropped.get(channel, ()), *tails][-TAILS:])

    # -- what is kept

    def drop_oldest(self) -> bool:
        """Drop the oldest item if it was sent. Return whether an item was dropped."""
        if not self._items or self._items[0].number > self._sent:
            return False
        _, said, size = self._items.popleft()
        self.sent_bytes -= size
        self._budget.total_bytes -= size
        if isinstance(said, RunOutput):
            self._dropped.setdefault(said.channel, deque(maxlen=TAILS)).append(said.data[-MAX_TAIL_BYTES:])
        return True

    def close(self) -> None:
        """Forget everything. What the run still says is dropped."""
        self._is_closed = self.is_over = True
        self._stop_waiting()
        self._budget.total_bytes -= self.sent_bytes + self._unsent_bytes + self._cutter.held_bytes
        self._cutter.flush()
        self.sent_bytes = self._unsent_bytes = 0
        self._items.clear()
        self._budget.recordings.discard(self)
        self._budget.room.wake()
        self._changed.wake()

    def _has_room(self) -> bool:
        pending = self._unsent_bytes + self._cutter.held_bytes
        return self._is_closed or not pending or (pending < MAX_UNSENT_BYTES and self._budget.make_room())

    async def _wait_for_room(self) -> None:
        while not self._has_room():
            self._put_held()  # the reader makes room only by reading what is held back
            await self._budget.room.wait()

    def _put_output(self, data: bytes, channel: Channel) -> None:
        if self._is_closed:
            return
        held = self._cutter.held_bytes
        pieces = self._cutter.feed(data, channel)
        self._budget.total_bytes += self._cutter.held_bytes - held
        for piece in pieces:
            self._put(RunOutput(channel, piece))

    def _put_held(self) -> None:
        self._budget.total_bytes -= self._cutter.held_bytes
        for channel, piece in self._cutter.flush():
            self._put(RunOutput(channel, piece))

    def _put(self, said: Said) -> None:
        if self._is_closed:
            return
        self._last += 1
        size = _size(said)
        self._items.append(_Item(self._last, said, size))
        self._unsent_bytes += size
        self._budget.total_bytes += size
        if isinstance(said, ContextError):
            self._raised = self._raised or self._last
        elif isinstance(said, ContextResult) and said.execution_count:
            self._counted = self._counted or self._last
        self._changed.wake()

    def _find(self, number: int) -> _Item:
        self.check(number - 1)
        return self._items[number - self._last - 1]

    def _mark_sent(self, number: int) -> None:
        while self._sent < number:
            self._sent += 1
            size = self._find(self._sent).size
            self._unsent_bytes -= size
            self.sent_bytes += size
        while self.sent_bytes and self.sent_bytes - self._items[0].size >= KEPT_BYTES:
            self.drop_oldest()
        self._budget.room.wake()

    # -- waiting for a reader

    def _wait_for_a_reader(self) -> None:
        if not self._is_closed:
            self._tick(float(self._keep_s))

    def _tick(self, left_s: float) -> None:
        if left_s <= 0:
            self._on_unread()
            return
        tick_s = min(left_s, TICK_S)
        self._timer = asyncio.get_running_loop().call_later(tick_s, self._tick, left_s - tick_s)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _size(said: Said) -> int:
    """Return about how much memory an item takes, in bytes."""
    content = 0
    match said:
        case RunOutput(data=data):
            content = len(data)
        case ContextResult(data=bundle):
            content = sum(len(mime) + len(text) for mime, text in bundle.items())
        case ContextError():
            texts = [said.name, said.value, *said.traceback]
            for frame in said.frames:
                texts += (frame.file, frame.function, frame.code)
            content = sum(map(len, texts)) + TEXT_BYTES * len(texts)
        case ContextPrompt(prompt=prompt):
            content = len(prompt)
    return content + ITEM_BYTES
