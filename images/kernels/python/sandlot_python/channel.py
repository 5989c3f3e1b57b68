"""The channel to execd: one JSON object a line, both ways."""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Message = dict[str, Any]

MAX_LINE_BYTES = 16 * 1024 * 1024 - 64 * 1024  # execd takes no longer ones
FDS = 4  # that make a context: channel, stdin, stdout, stderr
_ANCILLARY_SPACE = socket.CMSG_SPACE(FDS * array.array("i").itemsize)


class TooLarge(Exception):
    """A message is longer than MAX_LINE_BYTES; nothing was sent."""


class Interrupts:
    """SIGINT as KeyboardInterrupt, only while user code runs, and never in the middle of a message."""

    def __init__(self) -> None:
        self.armed = False
        self._shields = 0
        self._pending = False
        self._divert: Callable[[FrameType | None], bool] | None = None

    def install(self) -> None:
        """Take SIGINT over; user code may have put a handler of its own in our place."""
        if signal.getsignal(signal.SIGINT) != self._strike:
            signal.signal(signal.SIGINT, self._strike)

    @contextmanager
    def diverted(self, divert: Callable[[FrameType | None], bool]) -> Iterator[None]:
        """In the block, ask *divert* first, with the frame that would be struck: true means that it saw to it."""
        before, self._divert = self._divert, divert
        try:
            yield
        finally:
            self._divert = before

    def __enter__(self) -> None:
        """Hold SIGINT back until the end of the block. Only the main thread is ever struck."""
        self._shields += 1

    def __exit__(self, *_: object) -> None:
        self._shields -= 1
        if self._pending and not self._shields:
            self._pending = False
            if self.armed:
                raise KeyboardInterrupt

    def _strike(self, _number: int, frame: FrameType | None) -> None:
        if self._shields:
            self._pending = True
        elif self.armed and not (self._divert is not None and self._divert(frame)):
            raise KeyboardInterrupt


class Unshielded:
    """What other threads use in place of Interrupts: signals do not strike there."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Channel:
    """Sends from any thread; receives in the main thread."""

    def __init__(self, execd: socket.socket, interrupts: Interrupts) -> None:
        self._socket = execd
        self._interrupts = interrupts
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._pieces: list[bytes] = []  # of a line whose end has not come
        self._inbox: deque[Message] = deque()
        self._sent = 0  # messages that ask for an ack
        self._acknowledged = 0
        self._fds = array.array("i")  # that came with a message
        self._inputs: deque[Message] = deque()  # answers to what code asked for
        self.interrupted_run = 0  # the last one that execd asked to interrupt

    @property
    def is_ours(self) -> bool:
        """Whether this is still the context's process, not a child that user code forked."""
        return os.getpid() == self._pid

    def receive(self) -> Message | None:
        """Return the next message; None when execd has closed the channel."""
        while not self._inbox:
            if not self._read():
                return None
        return self._inbox.popleft()

    def receive_fds(self) -> list[int]:
        """Return the descriptors that came with the message received last; they are the caller's to close."""
        fds, self._fds = list(self._fds), array.array("i")
        return fds

    def receive_input(self) -> str | None:
        """Wait for the answer to an `input_request`; None says that there is none. Ctrl-C may strike meanwhile."""
        while not self._inputs:
            if not self._wait_for_more():
                return None
        return self._inputs.popleft()["text"]

    def forget_inputs(self) -> None:
        """What was answered too late is not meant for whoever asks next."""
        self._inputs.clear()

    def let_go(self) -> None:
        """In a copy of the process: leave the channel to the original."""
        self._socket.close()

    def wait(self, timeout_s: float) -> bool:
        """Return whether a message, or the end, is there within so many seconds."""
        return bool(self._inbox) or bool(select.select([self._socket], [], [], timeout_s)[0])

    def take_what_is_there(self) -> None:
        """Read without waiting."""
        with self._interrupts:
            while self.wait(0) and not self._inbox and self._read():
                pass

    def send(self, message: Message, *, in_order: bool = False) -> None:
        """Send a message. With *in_order* return when execd has taken what was printed before it.

        In a process that user code forked it does nothing: the channel belongs to the parent.

        Raises:
            TooLarge
        """
        if not self.is_ours:
            return
        main = threading.current_thread() is threading.main_thread()
        in_order = in_order and main
        with self._interrupts if main else Unshielded(), self._lock:
            if in_order:
                message = {**message, "ack": self._sent + 1}
            # Lone surrogates have no UTF-8; nobody could read them anyway.
            line = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            if len(line) > MAX_LINE_BYTES:
                raise TooLarge(f"{len(line)} bytes, more than {MAX_LINE_BYTES}")
            self._sent += in_order
            self._socket.sendall(line)
        if in_order:
            self._wait_until_taken(self._sent)

    def _wait_until_taken(self, number: int) -> None:
        while self._acknowledged < number and self._wait_for_more():
            pass

    def _wait_for_more(self) -> bool:
        # Ctrl-C may strike while we only look, not while we take: no byte can get lost between the two.
        if not self._socket.recv(1, socket.MSG_PEEK):
            return False
        with self._interrupts:
            self._read()
        return True

    def _read(self) -> bool:
        data, ancillary, _, _ = self._socket.recvmsg(64 * 1024, _ANCILLARY_SPACE, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._fds.frombytes(content[: len(content) - len(content) % self._fds.itemsize])
        self._pieces.append(data)
        if b"\n" not in data:
            return bool(data)
        *lines, rest = b"".join(self._pieces).split(b"\n")
        self._pieces = [rest]
        for line in lines:
            message = json.loads(line)
            if message["op"] == "ack":
                self._acknowledged = message["ack"]
            elif message["op"] == "interrupt":
                self.interrupted_run = message["id"]
            elif message["op"] == "input":
                self._inputs.append(message)
            else:
                self._inbox.append(message)
        return bool(data)
