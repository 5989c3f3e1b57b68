"""The bus: parts of the server publish news about changes, and listeners read the news, each as fast as it can.

Callers who see the same share a *view*: a ring of the last messages, numbered, of bounded size. A listener is a place
in the ring of its view, and no more: a slow one costs no memory and delays nobody. When the ring has moved on past its
place, it hears how many messages it has missed. News are encoded once for all listeners.

A view is kept for a while after its last listener has left: a client whose connection broke continues where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from controlplane.access.scopes import Caller, Needs
from controlplane.errors import CapacityExhausted
from controlplane.lifecycle.events.news import News, may_hear
from controlplane.turns import TURN_ITEMS

MAX_LISTENERS = 256  # of callers who see the same
MAX_MESSAGES = 2048  # kept of each view
MAX_BYTES = 4 << 20  # likewise
KEPT_S = 120.0  # a view without listeners
BATCH = 256  # messages that a listener takes at once

_Key = tuple[frozenset[str], str, frozenset[str]]


class Message(msgspec.Struct, frozen=True):
    """A message of a view: its number there, and its JSON, with that number in it."""

    seq: int
    text: bytes


class Missed(msgspec.Struct, frozen=True):
    """A gap: the listener was too slow for so many messages. None: nobody knows for how many."""

    count: int | None


class Latest(msgspec.Struct, frozen=True):
    """A message without a number, of which only the newest counts."""

    text: bytes


Heard = Message | Missed | Latest


class View:
    """The messages for callers who see the same."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.watches = caller.may(Needs.WATCH)
        self.instance = secrets.token_hex(8)  # names the numbers: another view counts anew
        self.last = 0  # the number of the newest message
        self.listeners: set[Listener] = set()
        self.left_at = 0.0
        self.latest: Latest | None = None
        self._messages: deque[Message] = deque()
        self._bytes = 0

    @property
    def first(self) -> int:
        """The number of the oldest message that is kept, or of the next one."""
        return self.last - len(self._messages) + 1

    def append(self, body: bytes) -> None:
        """Keep a message, and drop the oldest ones beyond the bounds."""
        self.last += 1
        text = b'{"seq":%d,%b' % (self.last, body[1:])
        self._messages.append(Message(self.last, text))
        self._bytes += len(text)
        while len(self._messages) > MAX_MESSAGES or (self._bytes > MAX_BYTES and len(self._messages) > 1):
            self._bytes -= len(self._messages.popleft().text)

    def after(self, seq: int, most: int) -> list[Message]:
        """Return the oldest messages after a number. All messages after that number are kept."""
        begin = seq - self.first + 1
        return list(itertools.islice(self._messages, begin, begin + most))

    def wake(self) -> None:
        """Let the listeners look."""
        for listener in self.listeners:
            listener.woken.set()


class Listener:
    """One client's place in a view."""

    def __init__(self, view: View, seq: int, *, has_lost: bool = False) -> None:
        self.view = view
        self.woken = asyncio.Event()
        self._seq = seq  # of the last message that was taken
        self._has_lost = has_lost
        self._latest = view.latest

    async def next(self) -> list[Heard]:
        """Return what the listener has not heard yet, in order, after waiting for some of it. Cancellation is safe."""
        while not (found := self._take()):
            self.woken.clear()
            await self.woken.wait()
        return found

    def _take(self) -> list[Heard]:
        view = self.view
        found: list[Heard] = []
        if self._has_lost:
            self._has_lost = False
            found.append(Missed(None))
        if self._seq < view.first - 1:
            found.append(Missed(view.first - 1 - self._seq))
            self._seq = view.first - 1
        if messages := view.after(self._seq, BATCH):
            self._seq = messages[-1].seq
            found += messages
        if view.latest is not None and self._latest is not view.latest:
            self._latest = view.latest
            found.append(view.latest)
        return found


class Bus:
    """The bus of a server.

    Args:
        encode: Return news as a JSON object without a number.
    """

    def __init__(self, encode: Callable[[News], bytes]) -> None:
        self._encode = encode
        self._views: dict[_Key, View] = {}
        self._pending: deque[News] = deque()
        self._timer: asyncio.TimerHandle | None = None
        # Called when a first client listens.
        self.on_listening: list[Callable[[], None]] = []

    @property
    def is_heard(self) -> bool:
        """Whether a client listens, or may come back to hear what happened meanwhile."""
        return bool(self._views)

    @property
    def listeners(self) -> int:
        """How many clients listen."""
        return sum(len(view.listeners) for view in self._views.values())

    def publish(self, news: News) -> None:
        """Tell all who may hear it, in a later turn of the event loop. While nobody listens, this does nothing."""
        if not self._views:
            return
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.append(news)

    def tell_latest(self, text: bytes) -> None:
        """Replace the message without a number for all who may watch the server."""
        latest = Latest(text)
        for view in self._views.values():
            if view.watches:
                view.latest = latest
                view.wake()

    @contextlib.contextmanager
    def listening(self, caller: Caller, after: str = "") -> Iterator[Listener]:
        """Listen inside of the block, from now on, or after the message *after*, as `instance.seq`.

        Raises:
            CapacityExhausted: too many listen already who see the same.
        """
        key: _Key = (caller.scopes, caller.owner, caller.sandboxes)
        if (view := self._views.get(key)) is None:
            view = self._views[key] = View(caller)
        if len(view.listeners) >= MAX_LISTENERS:
            raise CapacityExhausted(
                f"{MAX_LISTENERS} clients listen to events already with keys that see the same as {caller.name}: "
                "end one of them"
            )
        listener = _place(view, after)
        was_heard = self.listeners > 0
        view.listeners.add(listener)
        try:
            if not was_heard:
                for begin in self.on_listening:
                    begin()
            yield listener
        finally:
            view.listeners.discard(listener)
            view.left_at = asyncio.get_running_loop().time()
            self._forget_later()

    # -- inside

    def _flush(self) -> None:
        """Encode what is pending, as much as fits into a turn, and give it to the views."""
        for _ in range(min(len(self._pending), TURN_ITEMS)):
            news = self._pending.popleft()
            body = b""
            for view in self._views.values():
                if may_hear(view.caller, news):
                    body = body or self._encode(news)
                    view.append(body)
        for view in self._views.values():
            view.wake()
        if self._pending:
            asyncio.get_running_loop().call_soon(self._flush)

    def _forget_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEPT_S, self._forget)

    def _forget(self) -> None:
        """Forget the views that nobody has listened to for long."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        for key, view in list(self._views.items()):
            if not view.listeners and now - view.left_at >= KEPT_S:
                del self._views[key]
        if any(not view.listeners for view in self._views.values()):
            self._forget_later()


def _place(view: View, after: str) -> Listener:
    """Return the place after a message, or, where nobody knows that message, after the newest one with a gap before."""
    instance, _, number = after.partition(".")
    if not after:
        return Listener(view, view.last)
    is_number = number.isascii() and number.isdigit() and len(number) <= len(str(view.last))
    if instance != view.instance or not is_number or int(number) > view.last:
        return Listener(view, view.last, has_lost=True)
    return Listener(view, int(number))
