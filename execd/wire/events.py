"""The events that `Connection.events_received()` returns: the meaning of the peer's bytes."""

from __future__ import annotations

from typing import NamedTuple

from .messages import Hello, Problem, Reply, Request


class HelloReceived(NamedTuple):
    """The first frame of the peer. Streams may be used from now on, not earlier."""

    hello: Hello


class StreamOpened(NamedTuple):
    """Agent only: a new stream with its request. Call `consumed(stream_id, cost)` when the request was processed."""

    stream_id: int
    request: Request
    cost: int


class MessageReceived(NamedTuple):
    """Control plane only: a whole message. Call `consumed(stream_id, cost)` when it was processed."""

    stream_id: int
    message: Reply
    cost: int


class DataReceived(NamedTuple):
    """Raw bytes. Call `consumed(stream_id, cost)` when they were processed."""

    stream_id: int
    channel: int
    data: bytes
    cost: int


class EndReceived(NamedTuple):
    """The peer will send nothing more on this stream."""

    stream_id: int


class ResetReceived(NamedTuple):
    """The peer has ended the stream in both directions."""

    stream_id: int
    problem: Problem


class CreditReceived(NamedTuple):
    """There is room to send again."""

    stream_id: int


Event = HelloReceived | StreamOpened | MessageReceived | DataReceived | EndReceived | ResetReceived | CreditReceived
