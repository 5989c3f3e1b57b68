"""The flow of one connection: when it reads, how long its client may leave bytes unread, and when it closes."""

from __future__ import annotations

from asyncio import Transport
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl

from controlplane.listener.bounds import CLOSING_S, STALLED_S, UNREAD_S


class Unread:
    """A watch on the unsent bytes in a transport.

    The transport's high-water mark bounds their number: a sender waits above it. This class bounds the time in which
    the client takes nothing at all.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._size = 0  # bytes
        self._since = 0.0

    def check(self, now: float) -> bool:
        """End the connection if the client has taken nothing for too long. Return whether it has stalled."""
        size = self._transport.get_write_buffer_size()
        if not size or size != self._size:
            self._size, self._since = size, now
        elif now - self._since > (CLOSING_S if self._transport.is_closing() else UNREAD_S):
            self._transport.abort()
        return bool(size) and now - self._since > STALLED_S


class Gate(FlowControl):
    """A switch for reading: on while the application wants more and no input waits for the parser."""

    def __init__(self, transport: Transport, wake: Callable[[], None]) -> None:
        super().__init__(transport)
        self.app_is_full = False
        self._input_waits = False
        self._wake = wake

    def pause_reading(self) -> None:
        """Note that the application has more of a body than it has asked for."""
        self.app_is_full = True
        self._apply()

    def resume_reading(self) -> None:
        """Note that the application asks for more."""
        if self.app_is_full:
            self.app_is_full = False
            self._apply()
            self._wake()

    def hold(self, *, input_waits: bool) -> None:
        """Set whether input waits for the parser."""
        if input_waits != self._input_waits:
            self._input_waits = input_waits
            self._apply()

    def _apply(self) -> None:
        if self.app_is_full or self._input_waits:
            super().pause_reading()
        else:
            super().resume_reading()


class Ending:
    """A request's view of its connection. `close` waits for the rest of the request's body.

    The kernel resets a connection that is closed while the client still sends, and the client may lose the answer.
    """

    def __init__(self, transport: Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close
