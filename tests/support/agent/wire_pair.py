"""Two multiplexers back to back, without a socket: what one says, the other hears."""

from __future__ import annotations

from execd.wire.connection import Connection, Role
from execd.wire.events import Event, StreamOpened
from execd.wire.frames import Frame, FrameParser, encode
from execd.wire.messages import GENERATION, Hello, Message, Problem, encode_message

HELLO = Hello(generation=GENERATION, version="test")


class Pair:
    """A control plane and an execd that have said hello."""

    def __init__(self) -> None:
        self.control_plane = Connection(Role.CONTROL_PLANE, HELLO)
        self.agent = Connection(Role.AGENT, HELLO)
        self.exchange()

    def to_agent(self) -> list[Event]:
        """Carry what the control plane has said; return what execd made of it."""
        self.agent.receive_data(self.control_plane.data_to_send())
        return self.agent.events_received()

    def to_control_plane(self) -> list[Event]:
        """Carry what execd has said; return what the control plane made of it."""
        self.control_plane.receive_data(self.agent.data_to_send())
        return self.control_plane.events_received()

    def exchange(self) -> list[Event]:
        """Carry everything both ways until both are silent; return all events."""
        events = []
        while self.control_plane.unsent_bytes or self.agent.unsent_bytes:
            events += self.to_agent() + self.to_control_plane()
        return events

    def open(self, request: Message) -> int:
        """Open a stream with a small request, deliver it, take it in; return the stream's id."""
        stream_id = self.control_plane.open(encode_message(request))
        (opened,) = self.to_agent()
        assert isinstance(opened, StreamOpened)
        self.agent.consumed(stream_id, opened.cost)
        return stream_id


def greeted(role: Role) -> Connection:
    """Return one end whose peer has said hello, with nothing left to send or to read."""
    connection = Connection(role, HELLO)
    connection.data_to_send()
    connection.receive_data(encode(0, 1, encode_message(HELLO)))
    connection.events_received()
    return connection


def frames_of(data: bytes) -> list[Frame]:
    """Return the frames that are in these bytes, which must end with one."""
    parser = FrameParser()
    frames = list(parser.feed(data))
    assert sum(10 + len(frame.payload) for frame in frames) == len(data)
    return frames


PROBLEM = Problem("test.over", "enough")
