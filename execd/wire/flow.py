"""Credit: how much each side may send on a stream before the other side has consumed it.

Every OPEN, MESSAGE and DATA frame costs its header and payload, so that a flood of tiny frames is bounded too.
A stream starts with INITIAL_WINDOW_BYTES in each direction. A CREDIT frame only gives back what was spent.
"""

from __future__ import annotations

from .errors import LocalProtocolError, RemoteProtocolError

# Eight full frames in flight. Measured: half of it costs a third of the throughput, twice as much gains nothing.
INITIAL_WINDOW_BYTES = 512 * 1024

# A message larger than a window gets credit while it is still being assembled. This is about as much as such messages
# may hold on one link, however many streams there are: it bounds what a sandbox can cost the control plane.
MAX_LARGE_BYTES = 64 * 1024 * 1024

# After a stream has ended on this side, what the peer sent before it knew may still arrive: as much as the stream's
# window, and a few control frames. More than that is a flood.
LATE_CONTROL_BYTES = 8 * 1024
MAX_LATE_BYTES = 32 * 1024 * 1024  # for all streams of a link; far more than sockets and queues can hold


class SendWindow:
    """What this side may still send."""

    __slots__ = ("available",)

    def __init__(self) -> None:
        self.available = INITIAL_WINDOW_BYTES

    def spend(self, cost: int) -> None:
        """Spend credit.

        Raises:
            LocalProtocolError: There is not enough credit; wait for a CREDIT frame first.
        """
        if cost > self.available:
            raise LocalProtocolError(f"cannot send {cost} bytes with credit for {self.available}")
        self.available -= cost

    def grant(self, amount: int) -> None:
        """Take credit that the peer gave back.

        Raises:
            RemoteProtocolError: The peer gave nothing, or more than was spent.
        """
        if amount <= 0 or self.available + amount > INITIAL_WINDOW_BYTES:
            raise RemoteProtocolError(f"credit of {amount} bytes, {INITIAL_WINDOW_BYTES - self.available} were spent")
        self.available += amount


class ReceiveWindow:
    """What the peer may still send, and what this side owes it."""

    __slots__ = ("_owed", "available")

    def __init__(self) -> None:
        self.available = INITIAL_WINDOW_BYTES
        self._owed = 0

    def take(self, cost: int) -> None:
        """Charge a frame that has arrived.

        Raises:
            RemoteProtocolError: The peer has exceeded its window.
        """
        if cost > self.available:
            raise RemoteProtocolError(f"peer sent {cost} bytes with credit for {self.available}")
        self.available -= cost

    def give_back(self, cost: int) -> int:
        """Return the credit to send now, or 0, after *cost* bytes were consumed.

        Credit goes back in large pieces: one CREDIT frame for half a window, instead of one for each frame.
        """
        self._owed += cost
        if self._owed < INITIAL_WINDOW_BYTES // 2:
            return 0
        owed, self._owed = self._owed, 0
        self.available += owed
        return owed


class LargeMessages:
    """What the messages of one link hold beyond the windows of their streams.

    A message counts from the first credit for one of its parts until the application has consumed or dropped it.
    """

    __slots__ = ("_held", "total_bytes")

    def __init__(self) -> None:
        self._held: dict[int, int] = {}  # stream id → bytes, the oldest first
        self.total_bytes = 0

    def may_grow(self, stream_id: int) -> bool:
        """Return whether a stream may get credit for a part.

        Below the limit every stream may, above it only the oldest.
        """
        return self.total_bytes < MAX_LARGE_BYTES or next(iter(self._held)) == stream_id

    def hold(self, stream_id: int, size: int) -> None:
        """Note credit for *size* bytes of parts."""
        self._held[stream_id] = self._held.get(stream_id, 0) + size
        self.total_bytes += size

    def release(self, stream_id: int) -> bool:
        """Forget a message. Return whether it held anything."""
        size = self._held.pop(stream_id, 0)
        self.total_bytes -= size
        return size > 0
