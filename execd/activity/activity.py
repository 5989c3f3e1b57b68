"""The activity: every operation of every client passes here on its way to its handler, and is told in one order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from msgspec.structs import replace

from execd.activity.begun import MAX_ID_CHARS, began, begun, entrypoint_begun
from execd.activity.ring import MAX_BYTES, MAX_ENTRIES, Ring
from execd.activity.told import Entry, Tap, Told
from execd.dispatch import Handler, Replies
from execd.errors import ExecdError
from execd.recording.recording import Changes
from execd.wire.aio import BROKEN, Stream
from execd.wire.messages import (
    ENTRYPOINT_ID,
    ActivityBegun,
    ActivityItem,
    ActivityNote,
    ActivityRange,
    ActivityRead,
    ActivityState,
    ContextInput,
    ContextInterrupt,
    ContextRun,
    Done,
    ProcessSignal,
    ProcessStart,
    PtyClose,
    PtyOpen,
    PtySignal,
    Request,
    RunOutput,
    SandboxClaim,
    SessionInterrupt,
)
from execd.wire.utf8 import MAX_CHARACTER_BYTES, unfinished

LEVELS = frozenset(("outline", "full"))
# Output of one operation that follows without anything between is told in pieces of this size, or when a reader looks.
PIECE_BYTES = 32 << 10
MAX_PIECE_BYTES = 128 << 10  # a larger piece is several entries
# A reader that has just been told something lets more gather: a person notices nothing of it, and many quick runs cost
# a reader a message for all of them instead of one for each.
GATHER_S = 0.1
MAX_LASTING = 1024  # operations that go on after their request; the oldest are forgotten, and their ends not told
# The control plane tries these by their second meaning where the first is unknown: then nothing has happened.
_TRIED = (ContextRun, ContextInput, ContextInterrupt, ProcessSignal, PtySignal, SessionInterrupt)


class Activity:
    """What clients do in the sandbox. Create it inside the running event loop."""

    def __init__(
        self, language_of: Callable[[str], str] = lambda _: "", clock: Callable[[], float] = time.time
    ) -> None:
        """Create an activity that is off until a claim says otherwise.

        Args:
            language_of: Returns the language of a context; "" if there is no such context.
            clock: Unix time, s.
        """
        self.keep = "off"
        self.is_full = False
        self._language_of = language_of
        self._clock = clock
        self._ring = Ring()
        self._changed = Changes()
        self._is_claimed = False
        self._operations = 0
        self._lasting: dict[str, Told] = {}  # by the id of the process or terminal, the oldest first
        self._passwords: dict[str, bool] = {}  # contexts that wait for a line → whether it is a password
        # Output that is no entry yet: of one operation and channel, since that time.
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._gathered_of: tuple[Told, int] | None = None
        self._gathered_at = 0.0

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return {ActivityRead: self._read, ActivityNote: self._note}

    # -- operations

    async def carry_out(
        self,
        handler: Callable[[Any, Any], Awaitable[None]],
        stream: Replies,
        request: Request,
        actor: str = "",
        op: str = "",
    ) -> None:
        """Carry a request out by its handler, and tell it where it is an operation. Raises what the handler raises.

        *op* names the operation; "" lets the activity choose a name.
        """
        if isinstance(request, SandboxClaim):
            await self._claim(handler, stream, request, actor)
            return
        told = self._open(request, actor, op) if self.keep != "off" else None
        if told is None:
            await handler(stream, request)
            return
        tap = Tap(stream, told)
        try:
            await handler(cast(Stream, tap), request)
        except ExecdError as error:
            self._refused(told, request, error)
            raise
        except asyncio.CancelledError:
            told.leave(is_lost=stream.is_lost)
            raise
        except BROKEN:
            told.leave(is_lost=stream.is_lost)
            raise
        except Exception as error:
            told.fail("internal", f"{type(error).__name__}: {error}")
            raise
        told.begin()
        told.finish(0 if told.is_run else tap.written_bytes)
        if isinstance(request, PtyClose) and (terminal := self._lasting.get(request.id)) is not None:
            terminal.close()

    def witness(self, process_id: str, pid: int) -> Told | None:
        """Return what a process of which no client reads the output tells its output and its end to; None: nothing."""
        told = self._lasting.get(process_id)
        if told is not None and process_id == ENTRYPOINT_ID:
            told.begin(pid)
        return told

    async def _claim(
        self, handler: Callable[[Any, Any], Awaitable[None]], stream: Replies, request: SandboxClaim, actor: str
    ) -> None:
        self._take_settings(request)
        told = None
        if self.keep != "off":
            self._put_state("linked" if self._is_claimed else "claimed")
            if request.entrypoint and not self._is_claimed:
                told = self._open_entrypoint(request, actor)
        self._is_claimed = True
        try:
            await handler(stream, request)
        except ExecdError as error:
            if told is not None:
                told.fail(error.code, error.message)
            raise

    def _take_settings(self, claim: SandboxClaim) -> None:
        self.keep = claim.activity if claim.activity in LEVELS else "off"
        self.is_full = self.keep == "full"
        self._ring.limit(claim.max_activity_entries or MAX_ENTRIES, claim.max_activity_bytes or MAX_BYTES)

    def _open(self, request: Request, actor: str, op: str) -> Told | None:
        entry = self._entry_of(request)
        if entry is None:
            return None
        entry = replace(entry, actor=actor)
        if isinstance(request, ProcessStart | PtyOpen):
            op = op or request.id
        told = Told(self, op or self._new_op(), entry)
        if isinstance(request, PtyOpen) or (isinstance(request, ProcessStart) and request.background):
            self._let_last(request.id, told)
        if not isinstance(request, (ProcessStart, *_TRIED)) or (isinstance(request, ContextRun) and entry.language):
            told.begin()
        return told

    def _entry_of(self, request: Any) -> ActivityBegun | None:
        if isinstance(request, ContextInput):
            # What answers a password, or no prompt at all, is not told.
            is_password = self._passwords.pop(request.id, True)
            return began("input", context=request.id[:MAX_ID_CHARS], text="" if is_password else request.text or "")
        entry = begun(request)
        if entry is not None and isinstance(request, ContextRun):
            entry = replace(entry, language=self._language_of(request.id))
        return entry

    def _open_entrypoint(self, request: SandboxClaim, actor: str) -> Told:
        told = Told(self, ENTRYPOINT_ID, replace(entrypoint_begun(request), actor=actor))
        self._let_last(ENTRYPOINT_ID, told)
        return told

    def _let_last(self, process_id: str, told: Told) -> None:
        told.is_lasting = True
        self._lasting[process_id] = told
        if len(self._lasting) > MAX_LASTING:
            del self._lasting[next(iter(self._lasting))]

    def _refused(self, told: Told, request: Request, error: ExecdError) -> None:
        has_done_nothing = isinstance(request, _TRIED) and not told.has_begun
        if not (has_done_nothing and error.code.endswith(".not_found")):
            told.fail(error.code, error.message)

    def _new_op(self) -> str:
        self._operations += 1
        return str(self._operations)

    # -- entries: what operations tell

    def put(self, op: str, said: Entry | ActivityState) -> None:
        """Add an entry."""
        self._flush()
        self._ring.put(self._clock(), op, said)
        self._changed.wake()

    def put_output(self, told: Told, data: bytes, channel: int) -> None:
        """Add output of an operation. What follows at once may become part of the same entry."""
        if self._gathered_of != (told, channel):
            self._flush()
            self._gathered_of = told, channel
            self._gathered_at = self._clock()
            self._changed.wake()
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= PIECE_BYTES:
            self._flush()
            self._changed.wake()

    def close(self, told: Told) -> None:
        """Add what is held back of an operation that ends, and forget it."""
        self._flush()
        for channel, rest in told.held.items():
            self._ring.put(self._clock(), told.op, RunOutput(channel, rest))
        told.held.clear()
        self._passwords.pop(told.context, None)
        if told.is_lasting:
            self._lasting.pop(told.context, None)

    def prompted(self, context: str, *, is_password: bool) -> None:
        """Note that code in a context waits for a line of text."""
        self._passwords[context] = is_password

    def _put_state(self, state: str, reason: str = "") -> None:
        if self.keep != "off":
            self.put("", ActivityState(state, reason))

    def _flush(self) -> None:
        """Make entries of the output that has gathered, whole characters in each."""
        if self._gathered_of is None:
            return
        (told, channel), pieces = self._gathered_of, self._gathered
        self._gathered_of, self._gathered, self._gathered_bytes = None, [], 0
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if held := told.held.pop(channel, b""):
            data = held + data
        if rest := unfinished(data):
            told.held[channel] = data[-rest:]
            data = data[:-rest]
        while data:
            end = len(data)
            if end > MAX_PIECE_BYTES:
                end = MAX_PIECE_BYTES - unfinished(data[MAX_PIECE_BYTES - MAX_CHARACTER_BYTES : MAX_PIECE_BYTES])
            self._ring.put(self._gathered_at, told.op, RunOutput(channel, data[:end]))
            data = data[end:]

    # -- the control plane

    async def _read(self, stream: Stream, request: ActivityRead) -> None:
        self._flush()
        loop = asyncio.get_running_loop()
        ring, after, left = self._ring, request.after, request.limit
        until = ring.last
        await stream.send(ActivityRange(self.keep, ring.first, until))
        while True:
            told_at = loop.time()
            while (item := self._next(after)) is not None and (request.follow or item.number <= until):
                await stream.send(item)
                after = item.number
                left -= 1
                if left == 0:
                    return
            if not request.follow:
                return
            await self._changed.wait()
            if (wait_s := told_at + GATHER_S - loop.time()) > 0:
                await asyncio.sleep(wait_s)

    def _next(self, after: int) -> ActivityItem | None:
        self._flush()
        return self._ring.next(after)

    async def _note(self, stream: Stream, request: ActivityNote) -> None:
        self._put_state(request.state, request.reason)
        await stream.send(Done())
