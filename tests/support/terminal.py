"""Commands as a person runs them: in this process, or in a terminal of their own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from controlplane.cli.main import main

PATIENCE_S = 60.0


class Terminal:
    """Runs commands of `sandlot` in this process; keeps what they print. *first* are the first arguments of each."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *first: str) -> None:
        self._capsys = capsys
        self._first = first
        self.error = ""

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Return what a command prints; it must end with that exit code."""
        ended = await asyncio.to_thread(main, [*self._first, *arguments])
        said = self._capsys.readouterr()
        self.error = said.err
        assert ended == code, said.err
        return said.out

    async def json(self, *arguments: str) -> Any:
        """Return what a command prints with --json."""
        return json.loads(await self.run(*arguments, "--json"))


class PtyProgram:
    """Starts a program in a new terminal, types, and reads what it shows. Use it in a `with` block."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = 100, rows: int = 30
    ) -> None:
        self.shown = ""
        self._status: int | None = None
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            with contextlib.suppress(OSError):
                os.execvpe(command[0], list(command), dict(environment))
            os._exit(127)
        self.resize(columns, rows)

    def __enter__(self) -> PtyProgram:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def resize(self, columns: int, rows: int) -> None:
        """Set the size of the window."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type keys."""
        os.write(self._fd, text.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """Read until the pattern is shown, after what was expected before."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            if (match := re.search(pattern, self.shown)) is not None:
                self.shown = self.shown[match.end() :]
                return match
            if not self._read(deadline):
                raise AssertionError(f"no {pattern!r} in {self.shown!r}")

    def wait(self) -> int:
        """Read until the program ends; return its exit status."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        _, status = os.waitpid(self.pid, 0)
        self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def _read(self, deadline: float) -> bool:
        """Read something; False at the end."""
        if not select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise AssertionError(f"nothing more came after {self.shown!r}")
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the other end is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
