"""The server's WebSocket for hostile peers: anything that execd never sends ends the connection at once.

The library answers every ping, and keeps the answers for a peer that does not read: hundreds of megabytes in seconds.
It accepts messages in fragments of one byte. And it performs the closing handshake with a peer that broke the protocol,
which gives a flood ten seconds more. A link needs none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

from execd.wire.errors import RemoteProtocolError

# execd's handshake has 200 bytes and arrives at once. A handshake in small pieces costs as much as a large one.
MAX_HANDSHAKE_BYTES = 4096
MAX_HANDSHAKE_READS = 64

# One read of the socket, up to 256 KiB, may hold 37,000 messages: at most so many are parsed before they are handled.
FRAMES_A_PIECE = 256

_END_OF_HEAD = b"\r\n\r\n"


class LinkSocket(ServerConnection):
    """A connection of `Listener`. *gone* is called when the connection is lost."""

    def __init__(self, *arguments: Any, gone: Callable[[], None] = lambda: None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._gone = gone
        self._handshake = b""
        self._handshake_reads = 0
        self._unparsed = memoryview(b"")
        self._frame_left = 0  # bytes of a frame whose beginning has been parsed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve the connection."""
        super().connection_made(transport)
        self.recv_messages.resume = self._resume

    def connection_lost(self, exc: Exception | None) -> None:
        """Call *gone* after the end of the connection."""
        super().connection_lost(exc)
        self._gone()

    def data_received(self, data: bytes) -> None:
        """Parse the bytes of one read of the socket."""
        if self.protocol.state is State.CONNECTING:
            self._shake_hands(data)
            return
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
        self._parse()

    def eof_received(self) -> None:
        """Parse the rest of the input after the peer has closed its end."""
        if self._unparsed:
            super().data_received(bytes(self._unparsed))
        super().eof_received()

    def _shake_hands(self, data: bytes) -> None:
        self._handshake += data
        self._handshake_reads += 1
        if len(self._handshake) > MAX_HANDSHAKE_BYTES or self._handshake_reads > MAX_HANDSHAKE_READS:
            self._hang_up("a handshake that does not end")
        elif self._handshake.find(_END_OF_HEAD, 0, -1) >= 0:
            self._hang_up(
                "something before the answer to the handshake"
            )  # the beginning of the first frame would be unknown
        else:
            super().data_received(data)

    def _parse(self) -> None:
        """Parse the input until too many messages wait, or only the beginning of a frame is left."""
        while self._unparsed and not (self.recv_messages.paused or self.transport.is_closing()):
            if not (size := self._piece()):
                break
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            # The content of one read that is parsed as a whole, such as a file's, is not copied.
            super().data_received(piece.obj if len(piece) == len(piece.obj) else bytes(piece))  # type: ignore[arg-type]
            if (error := self.protocol.parser_exc) is not None:
                self._hang_up(f"no WebSocket: {error}")

    def _piece(self) -> int:
        """Return the number of bytes to parse at once: a few frames, or the available part of a large one."""
        size, frames = self._frame_left, 0
        while size < len(self._unparsed) and frames < FRAMES_A_PIECE:
            frame_bytes = _frame_bytes(self._unparsed[size : size + 14])
            if not frame_bytes:
                break
            size += frame_bytes
            frames += 1
        self._frame_left = max(0, size - len(self._unparsed))
        return size - self._frame_left

    def _resume(self) -> None:
        """Continue after the handlers have taken messages. The library calls this."""
        if self._unparsed:
            self.loop.call_soon(self._go_on)
        else:
            self.transport.resume_reading()

    def _go_on(self) -> None:
        self._parse()
        if not self.recv_messages.paused:
            self.transport.resume_reading()

    def process_event(self, event: Event) -> None:
        """Handle a frame or the handshake request, or hang up if the protocol is broken. The library calls this."""
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


def _frame_bytes(data: memoryview) -> int:
    """Return the size of the frame that begins here (RFC 6455, 5.2); 0 if more bytes are needed."""
    if len(data) < 2:
        return 0
    mask_bytes = 4 if data[1] & 0x80 else 0
    length = data[1] & 0x7F
    extra = {126: 2, 127: 8}.get(length, 0)
    if len(data) < 2 + extra:
        return 0
    if extra:
        length = int.from_bytes(data[2 : 2 + extra], "big")
    return 2 + extra + mask_bytes + length


def breach_of(error: ConnectionClosed) -> RemoteProtocolError | None:
    """Return the peer's breach of the protocol because of which a LinkSocket hung up, or None."""
    return error.__cause__ if isinstance(error.__cause__, RemoteProtocolError) else None
