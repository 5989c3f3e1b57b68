"""The server's WebSocket with a hostile client in mind: what execd never sends ends the connection at once.

The library answers every ping, and keeps the answers of a client that does not read them: hundreds of megabytes in
seconds. It takes messages in fragments of one byte. And it says goodbye to whoever broke the rules, which gives a
flood ten seconds more. None of this is any use on a link.
"""

from __future__ import annotations

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import Event

from execd.wire.errors import RemoteProtocolError


class LinkSocket(ServerConnection):
    """Pass it to `unix_serve(create_connection=…)`."""

    def data_received(self, data: bytes) -> None:
        """Called by the loop with what the socket had."""
        super().data_received(data)
        if (error := self.protocol.parser_exc) is not None:
            self._hang_up(f"no WebSocket: {error}")

    def process_event(self, event: Event) -> None:
        """Called by the library for each frame, and for the handshake request."""
        if self.transport.is_closing():
            return
        if isinstance(event, Frame) and (text := self._breach(event)):
            self._hang_up(text)
        else:
            super().process_event(event)

    def _breach(self, frame: Frame) -> str:
        if frame.opcode is Opcode.PING or (frame.opcode is Opcode.PONG and bytes(frame.data) not in self.pending_pings):
            return "an unwanted ping or pong"
        if not frame.fin:
            return "a fragmented message"
        if frame.opcode is Opcode.TEXT or (frame.opcode is Opcode.BINARY and not frame.data):
            return "a message of text, or of nothing"
        return ""

    def _hang_up(self, text: str) -> None:
        self.set_connection_exc(RemoteProtocolError(text))
        self.transport.abort()


def breach_of(error: ConnectionClosed) -> RemoteProtocolError | None:
    """Return why a LinkSocket hung up, when it was because the peer broke the rules."""
    return error.__cause__ if isinstance(error.__cause__, RemoteProtocolError) else None
