"""From the bytes of one output stream to the texts of its events.

The contract says: an event carries a line, without its newline; a client puts one newline between two events unless
one of them has one there already. That is why half a line is never sent, however long its other half takes: it would
be shown broken in two. And it is why newlines that a client does not add stand in the texts: blank lines at the head
of the line after them. A carriage return, with which a progress bar is redrawn, stays at the end of its text.

The first LINES_ALONE lines come one an event. After that the process is taken to flood, and lines that arrived
together share an event: a client needs some 50 µs for each.
"""

from __future__ import annotations

import codecs
import re

LINES_ALONE = 100
# A longer line is cut. Escaped, it still fits the largest event that every client reads (4 MiB).
MAX_LINE_CHARS = 640 * 1024
MAX_BLANK_LINES = 64 * 1024  # that wait; a flood of them must not pile up either

_RETURNS = re.compile("\r+")


class Lines:
    """Cuts one stream into texts. Bytes that are no UTF-8 become U+FFFD, wherever the chunks were cut."""

    __slots__ = ("_alone", "_blank", "_decoder", "_held", "_held_chars", "_last", "_newline_may_follow")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: list[str] = []  # the beginning of a line that has not ended
        self._held_chars = 0
        self._blank = 0  # blank lines that wait for a line to stand before
        self._last = ""  # the last character sent
        self._newline_may_follow = False  # a line was sent whose newline has not arrived yet
        self._alone = LINES_ALONE

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
            self._held_chars += len(text) - end
            if self._held_chars > MAX_LINE_CHARS:
                texts.extend(self._take_pieces())
                self._newline_may_follow = True
        return texts

    def flush(self) -> list[str]:
        """The stream has ended: return what is left."""
        self._held.append(self._decoder.decode(b"", final=True))
        texts = self._take_pieces()
        if self._blank:
            texts.append("\n" * self._blank)
        return texts

    def _take_held(self) -> str:
        held = "".join(self._held)
        self._held.clear()
        self._held_chars = 0
        return held

    def _take_pieces(self) -> list[str]:
        held = self._take_held()
        return [self._sent(held[at : at + MAX_LINE_CHARS]) for at in range(0, len(held), MAX_LINE_CHARS)]

    def _cut(self, block: str) -> list[str]:
        """Return the texts of a block that ends with its last line's newline or carriage return."""
        if "\r" in block:
            block = _RETURNS.sub("\r", block).replace("\r\n", "\n")
        if self._newline_may_follow:
            if self._last == "\r":
                block = block.removeprefix("\r")
                if not block:
                    return []  # the newline may still follow
            self._newline_may_follow = False
            block = block.removeprefix("\n")
        *lines, redrawn = block.split("\n")
        texts: list[str] = []
        at = 0
        while at < len(lines) and self._alone:
            self._add(texts, lines[at])
            at += 1
        self._add_together(texts, lines[at:])
        if redrawn:
            self._add(texts, redrawn)
            self._newline_may_follow = True
        if self._blank > MAX_BLANK_LINES:
            texts.append(self._sent(""))
        return texts

    def _add(self, texts: list[str], line: str) -> None:
        if line:
            texts.append(self._sent(line))
            self._alone -= self._alone > 0
        else:
            self._blank += 1

    def _add_together(self, texts: list[str], lines: list[str]) -> None:
        body = "\n".join(lines)
        text = body.strip("\n")
        if not text:
            self._blank += len(lines)
            return
        self._blank += len(body) - len(body.lstrip("\n"))
        texts.append(self._sent(text))
        self._blank = len(body) - len(body.rstrip("\n"))

    def _sent(self, text: str) -> str:
        """Return a text headed by the newlines that no client adds before it."""
        if self._blank:
            # The first one ends the line before, if there is one.
            text = "\n" * (self._blank + (self._last not in ("", "\n"))) + text
            self._blank = 0
        elif text[0] == "\r" and self._last not in ("", "\r", "\n"):
            text = "\n" + text
        self._last = text[-1]
        return text
