"""The output and displays of a context between two runs. The next run delivers them."""

from __future__ import annotations

from collections import deque

from execd.kernel.run import RESULT_BYTES, Run
from execd.wire.frames import Channel as Output
from execd.wire.messages import ContextResult

MAX_PRINTED_BYTES = 1 << 20  # of stdout, and of stderr
MAX_SHOWN_BYTES = 4 << 20  # of all displays

PRINTED = "[sandlot: {} bytes that were printed on {} between runs are dropped; the end follows]\n"
SHOWN = "[sandlot: {} displays that were shown between runs are dropped]\n"


class Backlog:
    """The newest output and displays, in whole lines and whole displays. The rest is dropped and counted."""

    def __init__(self) -> None:
        self._printed = {Output.STDOUT: bytearray(), Output.STDERR: bytearray()}
        self._dropped_bytes = dict.fromkeys(self._printed, 0)
        self._shown: deque[ContextResult] = deque()
        self._shown_bytes = 0
        self._dropped_displays = 0

    def append(self, data: bytes, output: Output) -> None:
        """Add output."""
        printed = self._printed[output]
        printed += data
        if len(printed) > MAX_PRINTED_BYTES:
            cut = _end_of_line(printed, len(printed) - MAX_PRINTED_BYTES)
            del printed[:cut]
            self._dropped_bytes[output] += cut

    def show(self, display: ContextResult) -> None:
        """Add a display."""
        self._shown.append(display)
        self._shown_bytes += _size(display)
        while self._shown_bytes > MAX_SHOWN_BYTES:
            self._shown_bytes -= _size(self._shown.popleft())
            self._dropped_displays += 1

    def last_error(self) -> str:
        """Return the last line on stderr."""
        return self._printed[Output.STDERR].decode(errors="replace").strip().rpartition("\n")[2]

    async def deliver(self, run: Run) -> None:
        """Send everything to a run, say what is missing, and empty the backlog."""
        for output, printed in self._printed.items():
            if dropped := self._dropped_bytes[output]:
                self._dropped_bytes[output] = 0
                await run.write(PRINTED.format(dropped, output.name.lower()).encode(), Output.STDERR)
            if printed:
                data = bytes(printed)
                printed.clear()
                await run.write(data, output)
        if dropped := self._dropped_displays:
            self._dropped_displays = 0
            await run.write(SHOWN.format(dropped).encode(), Output.STDERR)
        while self._shown:
            display = self._shown.popleft()
            self._shown_bytes -= _size(display)
            await run.show(display)


def _end_of_line(text: bytearray, at_least: int) -> int:
    """Return where the first line begins after *at_least* bytes.

    If there is no such line, return the next character.
    """
    if text[at_least - 1] == ord("\n"):
        return at_least
    if end := text.find(b"\n", at_least, len(text) - 1) + 1:
        return end
    while at_least < len(text) and text[at_least] & 0xC0 == 0x80:  # inside a character of UTF-8
        at_least += 1
    return at_least


def _size(display: ContextResult) -> int:
    return RESULT_BYTES + sum(len(mime) + len(text) for mime, text in display.data.items())
