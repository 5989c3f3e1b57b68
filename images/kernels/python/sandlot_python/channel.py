"""The channel to execd: one JSON object a line, in both directions.

User code may replace the functions of every module that it can import, so this module takes what it needs at its start.
"""

from __future__ import annotations

import array
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import getpid
from select import select
from signal import SIG_BLOCK, SIG_SETMASK, SIGINT, getsignal, pthread_sigmask
from signal import signal as set_handler
from threading import Lock, current_thread, main_thread
from types import FrameType
from typing import Any

from sandlot_python.plain import decode, encode

Message = dict[str, Any]

MAX_LINE_BYTES = 16 * 1024 * 1024 - 64 * 1024  # execd accepts no longer lines
FDS = 4  # that make a context: channel, stdin, stdout, stderr
_ANCILLARY_SPACE = socket.CMSG_SPACE(FDS * array.array("i").itemsize)

# Signals whose handlers are held back while a message is sent or taken. Those of faults cannot be held back.
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}
_HELD_BACK = signal.valid_signals() - _FAULTS


class TooLarge(Exception):
    """A message is longer than MAX_LINE_BYTES. Nothing was sent."""


class Interrupts:
    """SIGINT as KeyboardInterrupt, but only while user code runs, and never in the middle of a message."""

    def __init__(self) -> None:
        self.armed = False
        self._shields = 0
        self._pending = False
        self._mask: set[int] = set()  # of signals, outside of the block
        self._divert: Callable[[FrameType | None], bool] | None = None

    def install(self) -> None:
        """Handle SIGINT again: user code may have installed another handler."""
        if getsignal(SIGINT) != self._strike:
            set_handler(SIGINT, self._strike)

    @contextmanager
    def diverted(self, divert: Callable[[FrameType | None], bool]) -> Iterator[None]:
        """Ask *divert* first while the block runs.

        It gets the frame that would be interrupted, and returns True if it acts.
        """
        before, self._divert = self._divert, divert
        try:
            yield
        finally:
            self._divert = before

    def __enter__(self) -> None:
        """Hold back SIGINT until the end of the block, and other signals too, because handlers of user code may raise.

        Only the main thread is ever interrupted.
        """
        self._shields += 1
        if self._shields > 1:
            return
        self._mask = pthread_sigmask(SIG_BLOCK, ())
        try:
            pthread_sigmask(SIG_BLOCK, _HELD_BACK)  # runs the handlers of the signals that have arrived
        except BaseException:
            self._shields -= 1
            pthread_sigmask(SIG_SETMASK, self._mask)
            raise

    def __exit__(self, *_: object) -> None:
        self._shields -= 1
        if self._shields:
            return
        pthread_sigmask(SIG_SETMASK, self._mask)
        if self._pending:
            self._pending = False
            if self.armed:
                raise KeyboardInterrupt

    def _strike(self, _number: int, frame: FrameType | None) -> None:
        if self._shields:
            self._pending = True
        elif self.armed and not (self._divert is not None and self._divert(frame)):
            raise KeyboardInterrupt


@contextmanager
def handlers_held_back() -> Iterator[None]:
    """Hold back signal handlers of user code while the block runs, because they may raise. SIGINT still interrupts."""
    before = pthread_sigmask(SIG_BLOCK, ())
    try:
        pthread_sigmask(SIG_BLOCK, _HELD_BACK - {SIGINT})
        yield
    finally:
        pthread_sigmask(SIG_SETMASK, before)


class Unshielded:
    """The replacement for Interrupts in other threads, which signals do not interrupt."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Channel:
    """A channel that sends from any thread, and receives in the main thread."""

    def __init__(self, execd: socket.socket, interrupts: Interrupts) -> None:
        self._socket = execd
        self._interrupts = interrupts
        self._lock = Lock()
        self._pid = getpid()
        self._pieces: list[bytes] = []  # of a line whose end has not arrived
        self._inbox: deque[Message] = deque()
        self._sent = 0  # messages that ask for an ack
        self._acknowledged = 0
        self._fds = array.array("i")  # that came with a message
        self._inputs: deque[Message] = deque()  # answers to input() of code
        self.interrupted_run = 0  # the last run that execd asked to interrupt
        self.acknowledges = False  # execd does so while a run goes on

    @property
    def is_ours(self) -> bool:
        """Whether this is still the process of the context, and not a child that user code forked."""
        return getpid() == self._pid

    def fileno(self) -> int:
        """Return the descriptor that is readable when something has arrived."""
        return self._socket.fileno()

    def next_run(self) -> int:
        """Return the number of the run that has arrived and was not received yet; 0 if there is none."""
        return next((message["id"] for message in self._inbox if message["op"] == "run"), 0)

    def receive(self) -> Message | None:
        """Return the next message; None if execd has closed the channel."""
        while not self._inbox:
            if not self._read():
                return None
        return self._inbox.popleft()

    def receive_fds(self) -> list[int]:
        """Return the descriptors that came with the message received last. The caller closes them."""
        fds, self._fds = list(self._fds), array.array("i")
        return fds

    def receive_input(self) -> str | None:
        """Wait for the answer to an `input_request`; None means the end of the input.

        Ctrl-C may interrupt meanwhile.
        """
        while not self._inputs:
            if not self._wait_for_more():
                return None
        return self._inputs.popleft()["text"]

    def forget_inputs(self) -> None:
        """Drop answers that came too late: they must not reach the next question."""
        self._inputs.clear()

    def let_go(self) -> None:
        """Leave the channel to the original, in a copy of the process."""
        self._socket.close()

    def wait(self, timeout_s: float) -> bool:
        """Return whether a message or the end arrives within so many seconds."""
        return bool(self._inbox) or bool(select([self._socket], [], [], timeout_s)[0])

    def take_what_is_there(self) -> None:
        """Read without waiting, up to the next message that `receive` returns."""
        with self._interrupts:
            while self.wait(0) and not self._inbox and self._read():
                pass

    def send(self, message: Message, *, in_order: bool = False) -> None:
        """Send a message, made of what `plain` returns.

        With *in_order*, return when execd has taken what was printed before the message. In a process that user code
        forked, do nothing: the channel belongs to the parent.

        Raises:
            TooLarge
        """
        if not self.is_ours:
            return
        main = current_thread() is main_thread()
        in_order = in_order and main and self.acknowledges
        with self._interrupts if main else Unshielded(), self._lock:
            if in_order:
                message = {**message, "ack": self._sent + 1}
            # Lone surrogates have no UTF-8; nobody could read them.
            line = encode(message).encode("utf-8", "replace") + b"\n"
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
        # Ctrl-C may interrupt the wait, but not the read, so no byte can get lost between the two.
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
            message = decode(line.decode())
            if message["op"] == "ack":
                self._acknowledged = message["ack"]
            elif message["op"] == "interrupt":
                self.interrupted_run = message["id"]
            elif message["op"] == "input":
                self._inputs.append(message)
            else:
                self._inbox.append(message)
        return bool(data)
