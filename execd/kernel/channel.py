"""execd's end of a channel: one JSON object a line, both ways. See docs/runner-protocol.md.

What comes from a runner is hostile: every line is bounded and decoded by type. A violation ends that context.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated, Any

import msgspec

from execd.wire.connection import MAX_MESSAGE_BYTES
from execd.wire.messages import MAX_NUMBER, Frames, Matches, MimeBundle, Traceback

PROTOCOL = 1
# What a line holds must fit into one message of the link, with its frames' headers.
MAX_LINE_BYTES = MAX_MESSAGE_BYTES - 64 * 1024
READ_BYTES = 256 * 1024

Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
Pid = Annotated[int, msgspec.Meta(ge=0, le=2**22)]  # the kernel has no larger ones


class ChannelError(Exception):
    """The runner broke the rules; the message says which."""


class RunnerMessage(msgspec.Struct, frozen=True, tag_field="type"):
    """What a runner says. With `ack` it waits until we have said `{"op": "ack", "ack": …}` with the same number."""


class Ready(RunnerMessage, tag="ready", frozen=True):
    """It runs, and waits to be told for whom."""

    protocol: Number


class Started(RunnerMessage, tag="started", frozen=True):
    """It has taken environment and working directory over. `pid`: what runs the code, if that is another process."""

    pid: Pid = 0


class Failed(RunnerMessage, tag="failed", frozen=True):
    """It cannot start."""

    message: str


class Result(RunnerMessage, tag="result", frozen=True):
    """The value of a run: MIME type → text, binary types in base64."""

    data: MimeBundle
    count: Number = 0
    ack: Number = 0


class Display(RunnerMessage, tag="display", frozen=True):
    """Something shown during a run."""

    data: MimeBundle
    display_id: str = ""
    update: bool = False
    ack: Number = 0


class Error(RunnerMessage, tag="error", frozen=True):
    """The code raised."""

    name: str
    value: str
    traceback: Traceback = ()
    frames: Frames = ()
    ack: Number = 0


class RunDone(RunnerMessage, tag="done", frozen=True):
    """The run with this number is over."""

    id: Number
    status: str
    count: Number = 0
    exit_code: Number = 0
    peak_memory_bytes: Number = 0  # of a program that it ran, if that is known


class InputRequest(RunnerMessage, tag="input_request", frozen=True):
    """The run waits for a line of text: `input` is the answer."""

    prompt: str = ""
    password: bool = False


class Forked(RunnerMessage, tag="forked", frozen=True):
    """The answer to `fork`: a copy of the runner has this process id, and speaks on a channel of its own."""

    id: Number
    pid: Pid


class Completion(RunnerMessage, tag="completion", frozen=True):
    """The answer to `complete`: what may stand in place of the characters from `start` to `end`."""

    id: Number
    matches: Matches
    start: Number
    end: Number


class Inspection(RunnerMessage, tag="inspection", frozen=True):
    """The answer to `inspect`: what is known of the name at the cursor; `data` is empty when nothing is."""

    id: Number
    data: MimeBundle


class Refused(RunnerMessage, tag="refused", frozen=True):
    """The answer to any question that cannot be answered, with the reason."""

    id: Number
    message: str


Answer = Forked | Completion | Inspection | Refused
Message = Ready | Started | Failed | Result | Display | Error | InputRequest | RunDone | Answer

_decoder = msgspec.json.Decoder(Message)
_encoder = msgspec.json.Encoder()


class Lines:
    """Cuts a byte stream into lines without holding more than one incomplete one."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in, return the lines that became complete, without their ends.

        Raises:
            ChannelError: a line of more bytes than the limit.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._pieces, lines[0]))
            self._pieces, self._size = [], 0
        if rest:
            self._pieces.append(rest)
            self._size += len(rest)
        if self._size > self._limit or any(len(line) > self._limit for line in lines):
            raise ChannelError(f"a line of more than {self._limit} bytes")
        return lines


class Channel:
    """Owns the socket."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours  # non-blocking
        self._lines = Lines()
        self._unsent = b""
        self._blocked = False  # send() waits for the runner
        self.ended = False  # the runner has closed its end

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def receive_nowait(self) -> list[Message]:
        """Return what is there; [] also at the end.

        Raises:
            ChannelError: no JSON object of ours, or too long a line.
        """
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return []
        try:
            return [_decoder.decode(line) for line in self._lines.feed(data)]
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ChannelError(f"an undecodable message: {error}") from error

    async def send(self, op: str, **fields: Any) -> None:
        """Send a message, waiting for the runner to take it. When the runner is gone it does nothing: see `ended`.

        One task sends. Cancelled, it may have sent a part: nothing can be said on this channel any more.
        """
        line = self._encode(op, fields)
        sent = self._try(line)
        if sent == len(line):
            return
        self._unsent = line[sent:]
        while self._unsent:
            line, self._unsent = self._unsent, b""
            self._blocked = True
            try:
                await asyncio.get_running_loop().sock_sendall(self._socket, line)
            except OSError:
                return  # what we read next says so too
            finally:
                self._blocked = False

    def send_nowait(self, op: str, **fields: Any) -> None:
        """Send a small message, behind what `send()` is still sending. It is lost when the runner does not read."""
        line = self._encode(op, fields)
        if self._blocked:
            self._unsent += line
        else:
            self._try(line)

    def send_fds(self, op: str, fds: list[int], **fields: Any) -> None:
        """Send a message with descriptors, to a runner that is idle. It is lost when the runner is gone.

        Raises:
            ChannelError: the runner does not read.
        """
        try:
            socket.send_fds(self._socket, [self._encode(op, fields)], fds)
        except BlockingIOError:
            raise ChannelError("nothing: it does not read what it is asked") from None
        except OSError:
            pass  # gone; what we read next says so too

    def close(self) -> None:
        """Close our end: the runner's signal to leave."""
        self._socket.close()

    def _encode(self, op: str, fields: dict[str, Any]) -> bytes:
        return _encoder.encode({"op": op, **fields}) + b"\n"

    def _try(self, line: bytes) -> int:
        try:
            return self._socket.send(line)
        except BlockingIOError:
            return 0
        except OSError:
            return len(line)  # gone
