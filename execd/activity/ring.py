"""The entries of an activity in memory: numbered from 1, bounded in number and in bytes, the oldest dropped first.

There are two kinds of entries, the outline and the bulk (output and results), and half of the memory is safe for each:
a flood of output does not drop the commands before it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from msgspec.structs import replace

from execd.wire.messages import (
    ActivityBegun,
    ActivityDropped,
    ActivityEnded,
    ActivityItem,
    ActivityState,
    ContextError,
    ContextPrompt,
    ContextResult,
    Problem,
    RunOutput,
)

# Unless the claim sets other limits.
MAX_ENTRIES = 20_000
MAX_BYTES = 4 << 20
MAX_ENTRY_BYTES = 1 << 20  # of one entry; never more than a quarter of the ring
ENTRY_BYTES = 384  # the memory of an entry, beside its content
TEXT_BYTES = 64  # the memory of each text of a traceback or a bundle, beside its content

Said = (
    ActivityBegun | RunOutput | ContextResult | ContextError | ContextPrompt | ActivityEnded | Problem | ActivityState
)
_BULK = (RunOutput, ContextResult)


class _Entry(NamedTuple):
    item: ActivityItem
    size: int
    is_bulk: bool


class Ring:
    """The entries that are kept. `first` and `last` are their numbers; `first` is `last + 1` when there is none."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self.first, self.last = 1, 0
        self.total_bytes = 0
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: deque[_Entry | None] = deque()  # from `first` to `last`; None: dropped before older ones
        self._bulk: deque[int] = deque()  # the numbers of the bulk that is kept
        self._bulk_bytes = 0

    def limit(self, max_entries: int, max_bytes: int) -> None:
        """Set other bounds. What is too much for them is dropped."""
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._make_room()

    def put(self, at: float, op: str, said: Said) -> int:
        """Add an entry and return its number. What is too large for the ring is cut."""
        said, size, cut = _fit(said, min(MAX_ENTRY_BYTES, self._max_bytes // 4))
        self.last += 1
        is_bulk = isinstance(said, _BULK)
        self._entries.append(_Entry(ActivityItem(self.last, at, op, said, cut), size, is_bulk))
        self.total_bytes += size
        if is_bulk:
            self._bulk.append(self.last)
            self._bulk_bytes += size
        self._make_room()
        return self.last

    def next(self, after: int) -> ActivityItem | None:
        """Return the first entry after a number, or first the gap before that entry; None at the end."""
        number = max(after + 1, self.first)
        while number <= self.last and self._entries[number - self.first] is None:
            number += 1
        if number > after + 1 and after < self.last:
            last = number - 1
            return ActivityItem(last, 0.0, "", ActivityDropped(after + 1))
        entry = self._entries[number - self.first] if number <= self.last else None
        return None if entry is None else entry.item

    def _make_room(self) -> None:
        while len(self._entries) > self._max_entries or self._is_too_large():
            if self._bulk and len(self._entries) <= self._max_entries and self._bulk_bytes > self._max_bytes // 2:
                self._drop_bulk()
            else:
                self._drop_first()

    def _is_too_large(self) -> bool:
        return self.total_bytes > self._max_bytes

    def _drop_bulk(self) -> None:
        """Drop the oldest entry of the bulk, and leave its place to what is older."""
        number = self._bulk[0]
        if number == self.first:
            self._drop_first()
            return
        self._forget(number - self.first)
        self._entries[number - self.first] = None

    def _drop_first(self) -> None:
        self._forget(0)
        self._entries.popleft()
        self.first += 1
        while self._entries and self._entries[0] is None:
            self._entries.popleft()
            self.first += 1

    def _forget(self, place: int) -> None:
        entry = self._entries[place]
        if entry is None:
            return
        self.total_bytes -= entry.size
        if entry.is_bulk:
            self._bulk.popleft()
            self._bulk_bytes -= entry.size


def _fit(said: Said, most: int) -> tuple[Said, int, int]:
    """Return an entry that takes at most *most* bytes, how many it takes, and how many were left out."""
    size = _size(said)
    if size <= most:
        return said, size, 0
    match said:
        case RunOutput(data=data):  # never so large: the watch cuts output into smaller pieces
            said = replace(said, data=data[: most - ENTRY_BYTES])
        case ContextResult(data=bundle):
            said = replace(said, data=_smaller(bundle, most - ENTRY_BYTES))
        case ContextError():
            short = tuple(line[:4096] for line in said.traceback[-16:])
            said = replace(said, value=said.value[:16384], traceback=short, frames=said.frames[-16:])
            if _size(said) > most:
                said = replace(said, name=said.name[:256], value=said.value[:1024], traceback=(), frames=())
        case ActivityBegun(text=text):
            said = replace(said, text=_clipped(text, most - ENTRY_BYTES))
        case ContextPrompt(prompt=prompt):
            said = replace(said, prompt=_clipped(prompt, most - ENTRY_BYTES))
    left = _size(said)
    return said, left, size - left


def _smaller(bundle: dict[str, str], most: int) -> dict[str, str]:
    """Return a bundle without its largest values: those that fit, the smallest first."""
    kept: dict[str, str] = {}
    for mime, text in sorted(bundle.items(), key=lambda pair: len(pair[1])):
        most -= _text_bytes(mime) + _text_bytes(text)
        if most < 0:
            break
        kept[mime] = text
    return kept


def _clipped(text: str, most: int) -> str:
    """Return the beginning of a text, in characters that take at most *most* bytes together."""
    return text[: most // (_text_bytes(text) // max(len(text), 1) + 1)]


def _text_bytes(text: str) -> int:
    """Return the memory of a text: one, two or four bytes a character, as Python keeps it."""
    return text.__sizeof__()


def _size(said: Said) -> int:
    """Return about how much memory an entry takes, in bytes."""
    match said:
        case RunOutput(data=data):
            return ENTRY_BYTES + len(data)
        case ContextResult(data=bundle):
            return ENTRY_BYTES + sum(_text_bytes(mime) + _text_bytes(text) for mime, text in bundle.items())
        case ContextError():
            texts = [said.name, said.value, *said.traceback]
            for frame in said.frames:
                texts += (frame.file, frame.function, frame.code)
            return ENTRY_BYTES + sum(map(_text_bytes, texts)) + TEXT_BYTES * len(said.frames)
        case ActivityBegun():
            return ENTRY_BYTES + sum(map(_text_bytes, (said.text, said.path, said.cwd, said.context)))
        case ContextPrompt(prompt=prompt):
            return ENTRY_BYTES + _text_bytes(prompt)
        case ActivityEnded(message=text) | Problem(message=text) | ActivityState(reason=text):
            return ENTRY_BYTES + _text_bytes(text)
