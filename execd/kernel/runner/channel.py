"""execd's end of a channel: one JSON object a line, in both directions. See docs/runner-protocol.md.

Messages of a runner are hostile: every line is bounded, and decoded by type. A violation ends the context.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated, Any

import msgspec

from execd.wire.connection import MAX_MESSAGE_BYTES
from execd.wire.messages import MAX_NUMBER, Frames, Matches, MimeBundle, Traceback

PROTOCOL = 1
# The content of a line must fit into one message of the link, with the headers of its frames.
MAX_LINE_BYTES = MAX_MESSAGE_BYTES - 64 * 1024
READ_BYTES = 256 * 1024

Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
Pid = Annotated[int, msgspec.Meta(ge=0, le=2**22)]  # the kernel has no larger ids


class ChannelError(Exception):
    """A violation of the protocol by the runner. The message says which."""


class RunnerMessage(msgspec.Struct, frozen=True, tag_field="type"):
    """A message of a runner. With `ack` the runner waits for `{"op": "ack", "ack": …}` with the same number."""


class Ready(RunnerMessage, tag="ready", frozen=True):
    """The runner works, and waits for `start`."""

    protocol: Number


class Started(RunnerMessage, tag="started", frozen=True):
    """The runner has taken over variables and directory.

    `pid`: the process that runs the code, if it is another one.
    """

    pid: Pid = 0


class Failed(RunnerMessage, tag="failed", frozen=True):
    """The runner cannot start."""

    message: str


class Result(RunnerMessage, tag="result", frozen=True):
    """The value of a run: MIME type → text; binary types in base64."""

    data: MimeBundle
    count: Number = 0
    ack: Number = 0


class Display(RunnerMessage, tag="display", frozen=True):
    """A value that the code shows during a run."""

    data: MimeBundle
    display_id: str = ""
    update: bool = False
    ack: Number = 0


class Error(RunnerMessage, tag="error", frozen=True):
    """An exception of the code."""

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
    peak_memory_bytes: Number = 0  # of a program that the code ran, if that is known


class InputRequest(RunnerMessage, tag="input_request", frozen=True):
    """The run waits for a line of text; the answer is `input`."""

    prompt: str = ""
    password: bool = False


class Forked(RunnerMessage, tag="forked", frozen=True):
    """The answer to `fork`: a copy of the runner has this process id, and speaks on a channel of its own."""

    id: Number
    pid: Pid


class Completion(RunnerMessage, tag="completion", frozen=True):
    """The answer to `complete`: what may replace the characters from `start` to `end`."""

    id: Number
    matches: Matches
    start: Number
    end: Number


class Inspection(RunnerMessage, tag="inspection", frozen=True):
    """The answer to `inspect`: what is known of the name at the cursor. `data` is empty if nothing is known."""

    id: Number
    data: MimeBundle


class Refused(RunnerMessage, tag="refused", frozen=True):
    """The refusal of a question, with the reason."""

    id: Number
    message: str


Answer = Forked | Completion | Inspection | Refused
Message = Ready | Started | Failed | Result | Display | Error | InputRequest | RunDone | Answer

_decoder = msgspec.json.Decoder(Message)
_encoder = msgspec.json.Encoder()


class Lines:
    """A byte stream that is cut into lines. At most one incomplete line is held."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes, and return the lines that have become complete, without their ends.

        Raises:
            ChannelError: A line has more bytes than the limit.
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
    """execd's end of the socket."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours  # non-blocking
        self._lines = Lines()
        self._unsent = b""
        self._blocked = False  # send() waits for the runner
        self.ended = False  # the runner has closed its end

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def receive_nowait(self) -> list[Message]:
        """Return the messages that have arrived; [] if there is none, and at the end.

        Raises:
            ChannelError: A line is too long, or not one of the known messages.
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
        """Send a message, and wait until the runner has taken it. Do nothing if the runner is gone: see `ended`.

        Only one task may send. If it is cancelled, a part may have been sent, and the channel cannot be used any more.
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
                return  # the next read reports the end as well
            finally:
                self._blocked = False

    def send_nowait(self, op: str, **fields: Any) -> None:
        """Send a small message, after what `send()` is still sending.

        The message is lost if the runner does not read.
        """
        line = self._encode(op, fields)
        if self._blocked:
            self._unsent += line
        else:
            self._try(line)

    def send_fds(self, op: str, fds: list[int], **fields: Any) -> None:
        """Send a message with descriptors to an idle runner. The message is lost if the runner is gone.

        Raises:
            ChannelError: The runner does not read.
        """
        try:
            socket.send_fds(self._socket, [self._encode(op, fields)], fds)
        except BlockingIOError:
            raise ChannelError("nothing: it does not read what it is asked") from None
        except OSError:
            pass  # the runner is gone; the next read reports it as well

    def close(self) -> None:
        """Close execd's end, which asks the runner to exit."""
        self._socket.close()

    def _encode(self, op: str, fields: dict[str, Any]) -> bytes:
        return _encoder.encode({"op": op, **fields}) + b"\n"

    def _try(self, line: bytes) -> int:
        try:
            return self._socket.send(line)
        except BlockingIOError:
            return 0
        except OSError:
            return len(line)  # the runner is gone
