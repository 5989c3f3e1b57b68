"""The life of a stream, as a table that both ends use.

Only the control plane opens streams. A stream ends when both sides have sent END, or one has sent RESET. Everything
that is not in the table is a protocol error.
"""

from __future__ import annotations

import enum


class StreamState(enum.Enum):
    """The state of a stream."""

    OPEN = "open"  # both sides may send
    LOCAL_DONE = "local_done"  # this side has sent END
    PEER_DONE = "peer_done"  # the peer has sent END
    CLOSED = "closed"

    __hash__ = object.__hash__  # Enum's own is written in Python, and every frame looks into the table


class StreamEvent(enum.Enum):
    """What happens to a stream."""

    SEND = "send"  # this side sends a message or data
    RECEIVE = "receive"  # the peer has sent a message or data
    SEND_END = "send_end"
    RECEIVE_END = "receive_end"
    SEND_RESET = "send_reset"
    RECEIVE_RESET = "receive_reset"

    __hash__ = object.__hash__


_S, _E = StreamState, StreamEvent

TRANSITIONS: dict[tuple[StreamState, StreamEvent], StreamState] = {
    (_S.OPEN, _E.SEND): _S.OPEN,
    (_S.OPEN, _E.RECEIVE): _S.OPEN,
    (_S.OPEN, _E.SEND_END): _S.LOCAL_DONE,
    (_S.OPEN, _E.RECEIVE_END): _S.PEER_DONE,
    (_S.OPEN, _E.SEND_RESET): _S.CLOSED,
    (_S.OPEN, _E.RECEIVE_RESET): _S.CLOSED,
    (_S.LOCAL_DONE, _E.RECEIVE): _S.LOCAL_DONE,
    (_S.LOCAL_DONE, _E.RECEIVE_END): _S.CLOSED,
    (_S.LOCAL_DONE, _E.SEND_RESET): _S.CLOSED,
    (_S.LOCAL_DONE, _E.RECEIVE_RESET): _S.CLOSED,
    (_S.PEER_DONE, _E.SEND): _S.PEER_DONE,
    (_S.PEER_DONE, _E.SEND_END): _S.CLOSED,
    (_S.PEER_DONE, _E.SEND_RESET): _S.CLOSED,
    (_S.PEER_DONE, _E.RECEIVE_RESET): _S.CLOSED,
}
