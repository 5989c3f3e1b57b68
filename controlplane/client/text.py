"""Text of sandboxes for a terminal. Such text is hostile: no control character and no escape sequence passes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

# Colours and their like: what tools print most, and nothing that a reader misses.
_STYLES = re.compile(r"\x1b\[[0-9;:]*m")
# Control (Cc), format (Cf: they reorder the text that is shown), surrogates, and separators of lines.
_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_PLAIN = re.compile(r"[ -~]*")


def safe(text: str, *, keep: str = "") -> str:
    """Return a text with everything that controls a terminal replaced by an escape such as `\\x1b`.

    The characters of *keep* stay.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(each if each in keep or _is_harmless(each) else _escape(each) for each in text)


def safe_lines(text: str) -> str:
    """Return output of a program: lines and tabs stay, colours are dropped, the rest as in `safe`."""
    return safe(_STYLES.sub("", text).replace("\r\n", "\n"), keep="\n\t")


def _is_harmless(character: str) -> bool:
    return unicodedata.category(character) not in _HARMFUL


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def width(text: str) -> int:
    """Return the columns that a terminal needs for a safe text."""
    if text.isascii():
        return len(text)
    wide = sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)
    return wide - sum(1 for each in text if unicodedata.combining(each))


def cut(text: str, columns: int) -> str:
    """Return as much of a text as fits, with an ellipsis where something is missing."""
    if width(text) <= columns:
        return text
    kept = text
    while kept and width(kept) > columns - 1:
        kept = kept[:-1]
    return f"{kept}…" if columns > 0 else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, columns: int = 0) -> str:
    """Return a table of hostile texts; its last column is cut where the lines would be longer than *columns*."""
    shown = [tuple(head), *(tuple(safe(cell) for cell in row) for row in rows)]
    widths = [max(width(row[index]) for row in shown) for index in range(len(head))]
    if columns:
        widths[-1] = min(widths[-1], max(len(head[-1]), columns - sum(each + 2 for each in widths[:-1])))
    lines = []
    for row in shown:
        cells = (cut(cell, wanted) for cell, wanted in zip(row, widths, strict=True))
        lines.append("  ".join(cell + " " * (wanted - width(cell)) for cell, wanted in zip(cells, widths, strict=True)))
    return "\n".join(line.rstrip() for line in lines)


def duration(seconds: float) -> str:
    """Return a time in its two largest units at most, such as `3h 20m`."""
    total = max(0, int(seconds))
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for index, (name, size) in enumerate(units):
        if total >= size:
            text = f"{total // size}{name}"
            if index + 1 < len(units) and (rest := total % size // units[index + 1][1]) and total // size < 10:
                text += f" {rest}{units[index + 1][0]}"
            return text
    return "0s"


def size(count: float) -> str:
    """Return a number of bytes in the unit that people read: powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def moment(text: str | None) -> datetime | None:
    """Return a time of the API; None if there is none, or it is none."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except (TypeError, ValueError):
        return None
    return found.replace(tzinfo=found.tzinfo or UTC) if found else None
