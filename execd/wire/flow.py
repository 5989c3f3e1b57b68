"""Credit: how much each side may send on a stream before the other has taken it in.

Every OPEN, MESSAGE and DATA frame costs its header and payload (so that a flood of tiny frames is bounded too).
A stream starts with INITIAL_WINDOW_BYTES each way; a CREDIT frame only ever gives back what was spent.
"""

from __future__ import annotations

from .errors import LocalProtocolError, RemoteProtocolError

# Eight full frames in flight: measured, half of it costs a third of the throughput, twice as much gains nothing.
INITIAL_WINDOW_BYTES = 512 * 1024

# A message larger than a window gets credit while it is still being put together. What such messages hold on one
# link stays near this, however many streams there are: a sandbox may cost the control plane so much and no more.
MAX_LARGE_BYTES = 64 * 1024 * 1024

# After a stream is over on our side, what the peer sent before it knew may still arrive: as much as the stream's
# window, and a few control frames. More than that is a flood.
LATE_CONTROL_BYTES = 8 * 1024
MAX_LATE_BYTES = 32 * 1024 * 1024  # for all streams of a link; far more than sockets and queues can hold


class SendWindow:
    """What we may still send."""

    __slots__ = ("available",)

    def __init__(self) -> None:
        self.available = INITIAL_WINDOW_BYTES

    def spend(self, cost: int) -> None:
        """Use up credit.

        Raises:
            LocalProtocolError: there is not enough; wait for a CREDIT first.
        """
        if cost > self.available:
            raise LocalProtocolError(f"{cost} bytes to send, credit for {self.available}")
        self.available -= cost

    def grant(self, amount: int) -> None:
        """The peer gave some back.

        Raises:
            RemoteProtocolError: nothing, or more than we have spent.
        """
        if amount <= 0 or self.available + amount > INITIAL_WINDOW_BYTES:
            raise RemoteProtocolError(f"credit of {amount} bytes, {INITIAL_WINDOW_BYTES - self.available} were spent")
        self.available += amount


class ReceiveWindow:
    """What the peer may still send, and what we owe it."""

    __slots__ = ("_owed", "available")

    def __init__(self) -> None:
        self.available = INITIAL_WINDOW_BYTES
        self._owed = 0

    def take(self, cost: int) -> None:
        """A frame arrived.

        Raises:
            RemoteProtocolError: the peer overstepped its window.
        """
        if cost > self.available:
            raise RemoteProtocolError(f"peer sent {cost} bytes with credit for {self.available}")
        self.available -= cost

    def give_back(self, cost: int) -> int:
        """*cost* bytes were taken in; return the credit to send now, or 0.

        Credit goes back in large pieces: one CREDIT frame for half a window, not one for each frame.
        """
        self._owed += cost
        if self._owed < INITIAL_WINDOW_BYTES // 2:
            return 0
        owed, self._owed = self._owed, 0
        self.available += owed
        return owed


class LargeMessages:
    """What one link's messages hold beyond their streams' windows.

    From the first credit given for a part, until the application has taken the whole message in or dropped it.
    """

    __slots__ = ("_held", "total_bytes")

    def __init__(self) -> None:
        self._held: dict[int, int] = {}  # stream id → bytes, the oldest first
        self.total_bytes = 0

    def may_grow(self, stream_id: int) -> bool:
        """Whether a stream may be given credit for a part: within the limit all of them, beyond it only the oldest."""
        return self.total_bytes < MAX_LARGE_BYTES or next(iter(self._held)) == stream_id

    def hold(self, stream_id: int, size: int) -> None:
        """Credit was given for *size* bytes of parts."""
        self._held[stream_id] = self._held.get(stream_id, 0) + size
        self.total_bytes += size

    def release(self, stream_id: int) -> bool:
        """The message is gone; return whether it held anything."""
        size = self._held.pop(stream_id, 0)
        self.total_bytes -= size
        return size > 0
