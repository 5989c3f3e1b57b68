"""The texts of output events, made from the bytes of one output stream.

The contract says: an event carries a line, without its newline, and a client puts one newline between two events.
Newer official clients do so unless a newline stands there already. Older ones (Python up to 1.1.0) strip the newlines
from the end of each text and always put one. These rules give both the same output:

- Half a line waits for its other half, because a client would show it as two lines.
- A blank line is an event of its own. Its text is a newline, and one more if the event before it does not end with one.
- A carriage return, with which a program redraws a progress bar, stays at the end of its text. One that begins a line
  counts as a blank line.

The first LINES_ALONE lines are one event each. After that, lines that arrive together share an event, because a client
needs some 50 µs for each event.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii

LINES_ALONE = 100
# A text longer than this, as ASCII JSON, is cut. The official Go client reads at most 4 MiB a line; the rest of an
# event fits into what is left of them.
MAX_TEXT_BYTES = (4 << 20) - 1024
# Blank lines in a row that are events of their own. Further ones share an event, of which older clients show one line.
MAX_BLANK_EVENTS = 1000

_MAX_BYTES_PER_CHAR = 12  # as JSON: two `\uXXXX` for a character beyond U+FFFF
_CUT_CHARS = 4096  # a text is cut at most this far below its limit


class Lines:
    """Cuts one stream into texts. Bytes that are no UTF-8 become U+FFFD, wherever the chunks are cut.

    The first *alone* lines are texts of their own.
    """

    __slots__ = ("_after_return", "_alone", "_blanks", "_decoder", "_held", "_held_bytes", "_last")

    def __init__(self, alone: int = LINES_ALONE) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: list[str] = []  # the beginning of a line that has not ended
        self._held_bytes = 0  # of it, as JSON
        self._last = ""  # the last character sent
        self._after_return = False  # a carriage return was the last to be cut: more of them, or a newline, may follow
        self._alone = alone
        self._blanks = 0  # blank lines in a row that were events of their own

    def feed(self, data: bytes) -> list[str]:
        """Take bytes, return the texts that are complete now."""
        text = self._decoder.decode(data)
        end = max(text.rfind("\n"), text.rfind("\r")) + 1
        texts: list[str] = []
        if end:
            self._held.append(text[:end])
            texts = self._cut(self._take_held())
        if end < len(text):
            self._held.append(text[end:])
            self._held_bytes += _encoded_bytes(text[end:])
            if self._held_bytes > MAX_TEXT_BYTES:
                *pieces, rest = _pieces(self._take_held())
                for piece in pieces:
                    texts += self._send(piece)
                self._held.append(rest)
                self._held_bytes = _encoded_bytes(rest)
        return texts

    def flush(self) -> list[str]:
        """Return the texts of what is left when the stream has ended."""
        self._held.append(self._decoder.decode(b"", final=True))
        held = self._take_held()
        return self._send(held) if held else []

    def _take_held(self) -> str:
        held = "".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        return held

    def _cut(self, block: str) -> list[str]:
        """Return the texts of a block that ends with its last line's newline or carriage return."""
        while "\r\r" in block:
            block = block.replace("\r\r", "\r")  # half of them each time
        block = block.replace("\r\n", "\n")
        if self._after_return:
            block = block.removeprefix("\r")
            if not block:
                return []  # the newline may still follow
            self._after_return = False
            block = block.removeprefix("\n")
        # Nothing but the first lines is taken apart: a line costs Python some 100 ns, and a program writes ten million.
        *lines, rest = block.split("\n", self._alone)
        self._alone -= len(lines)
        texts: list[str] = []
        for line in lines:
            texts += self._send(line) if line else self._send_blank(1)
        together, newline, redrawn = rest.rpartition("\n")
        if newline:
            texts += self._send_together(together)
        if redrawn:
            texts += self._send(redrawn)
            self._after_return = True
        return texts

    def _send_together(self, lines: str) -> list[str]:
        """Return lines in as few texts as they fit in. Blank lines stand inside of a text, or alone.

        *lines* is what stands before the newline of the last one.
        """
        texts: list[str] = []
        for group in _groups(lines) if len(lines) * _MAX_BYTES_PER_CHAR > MAX_TEXT_BYTES else (lines,):
            body = group.strip("\n")
            if not body:
                texts += self._send_blank(len(group) + 1)
                continue
            before = len(group) - len(group.lstrip("\n"))
            texts += self._send_blank(before)
            texts += self._send(body)
            texts += self._send_blank(len(group) - before - len(body))
        return texts

    def _send(self, text: str) -> list[str]:
        """Return a text that is not empty, and does not end with a newline, in pieces that events can carry."""
        texts: list[str] = []
        if text[0] == "\r" and self._last not in ("", "\r", "\n"):
            texts += self._send_blank(1)
            text = text[1:]
            if not text:
                return texts
        texts += _pieces(text)
        self._last = text[-1]
        self._blanks = 0
        return texts

    def _send_blank(self, count: int) -> list[str]:
        if not count:
            return []
        alone = min(count, MAX_BLANK_EVENTS - self._blanks)
        texts = ["\n"] * alone
        if texts and self._last not in ("", "\n"):
            texts[0] = "\n\n"  # the first one ends the line before
        if count > alone:
            texts.append("\n" * (count - alone))
        self._blanks += alone
        self._last = "\n"
        return texts


def _encoded_bytes(text: str) -> int:
    """Return how long a text is as a JSON string, without its quotes."""
    return len(encode_basestring_ascii(text)) - 2


def _groups(block: str) -> Iterator[str]:
    """Yield lines in groups that fit into one text each, or are one line."""
    lines = block.split("\n")
    start = size = 0
    for at, line in enumerate(lines):
        added = _encoded_bytes(line) + len(r"\n")
        if size + added > MAX_TEXT_BYTES and at > start:
            yield "\n".join(lines[start:at])
            start, size = at, 0
        size += added
    yield "\n".join(lines[start:])


def _pieces(text: str) -> list[str]:
    """Return a text in pieces of at most MAX_TEXT_BYTES as JSON."""
    if len(text) * _MAX_BYTES_PER_CHAR <= MAX_TEXT_BYTES or _encoded_bytes(text) <= MAX_TEXT_BYTES:
        return [text]
    pieces: list[str] = []
    start = size = 0
    for at in range(0, len(text), _CUT_CHARS):
        added = _encoded_bytes(text[at : at + _CUT_CHARS])
        if size + added > MAX_TEXT_BYTES:
            pieces.append(text[start:at])
            start, size = at, 0
        size += added
    return [*pieces, text[start:]]
