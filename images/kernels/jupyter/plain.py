"""Messages of a kernel as the runner protocol can carry them: valid UTF-8, bounded numbers, JSON without NaN."""

from __future__ import annotations

import json
import math
from typing import Any

# The limits of execd: docs/runner-protocol.md.
MAX_LINE_BYTES = 16 * 1024 * 1024 - 64 * 1024
MAX_NUMBER = 2**63 - 1
MAX_MIME_TYPES = 1000
MAX_LINES = 10_000


def text(value: object) -> str:
    """Return a text with ? in place of lone surrogates, which have no UTF-8."""
    return str(value).encode("utf-8", "replace").decode()


def number(value: object) -> int:
    """Return the nearest number that the protocol has; 0 for a value that is not a number."""
    return max(0, min(int(value), MAX_NUMBER)) if isinstance(value, int) else 0


def lines(value: object) -> list[str]:
    """Return the lines of a traceback."""
    return [text(line) for line in value[:MAX_LINES]] if isinstance(value, list) else [text(value)]


def bundle(data: dict[Any, Any]) -> dict[str, str]:
    """Return a MIME bundle whose values are all texts, with at most MAX_MIME_TYPES of them."""
    return {text(mime): _content(mime, value) for mime, value in list(data.items())[:MAX_MIME_TYPES]}


def line_of(message: dict[str, Any]) -> bytes:
    """Return a message as a line. If it is too long, replace its contents by a text that says so."""
    line = _encode(message)
    if len(line) <= MAX_LINE_BYTES:
        return line
    notice = f"(not shown: {len(line)} bytes, more than {MAX_LINE_BYTES})"
    shorter: dict[str, Any] = {"data": {"text/plain": notice}, "value": notice, "message": notice, "prompt": notice}
    empty: dict[str, Any] = {"traceback": [], "matches": []}
    return _encode({key: {**shorter, **empty}.get(key, value) for key, value in message.items()})


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _content(mime: object, value: object) -> str:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list) and "json" not in str(mime):
        return "".join(map(text, value))
    return text(json.dumps(_without_nan(value), ensure_ascii=False))


def _without_nan(value: object) -> object:
    """Return JSON of Python, which has NaN and infinities, as standard JSON, with null in their place."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [_without_nan(one) for one in value]
        case dict():
            return {key: _without_nan(one) for key, one in value.items()}
    return value
