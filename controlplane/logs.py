"""Logging by structlog on stderr, as lines for people or as JSON for machines."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from controlplane.settings.sections import LogSettings

# Local variables may be keys and tokens, so tracebacks omit them.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))

# The second net: no code of ours logs a secret, but the messages of libraries and errors may contain one.
_SECRETS = re.compile(
    r"(?P<key>\bsandlot_)[\w-]{16,}"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}"
    r"|(?P<name>\b(?:ticket|token|password|secret|api[_-]?key|signature)['\"]?\s*[=:]\s*['\"]?)[\w.~+/=-]{8,}"
    r"|(?P<path>/signed/)[^\s'\"]+"
    r"|(?<=://)[^\s'\"/@:]*:[^\s'\"/@]+(?=@)"  # the name and the password in a URL
    r"|(?P<host>\b\d{1,5}-)[0-9a-f]{16,32}-[0-9a-z]{1,10}-[a-z2-7]{16,32}"  # a signed host name
    r"|(?:(?<![\w-])|(?<=\\[nrt]))[\w-]{43}(?![\w-])",  # a sandbox's token, also after a newline that is written as \n
    re.IGNORECASE | re.ASCII,
)

# Most texts contain none of these, and this check costs a tenth of the full one.
_LONG = re.compile(r"(?<![\w-])[\w-]{43}", re.ASCII)
_HINTS = ("@", "sandlot_", "bearer", "basic", "/signed/", "ticket", "token", "password", "secret", "key", "signature")


class _Stderr(io.TextIOBase):
    """A stderr whose errors do not stop the server: its reader may leave, or its disk may be full."""

    def write(self, text: str) -> int:
        """Write a line, or drop it on an error."""
        try:
            return sys.stderr.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Write the buffer, or drop it on an error."""
        try:
            sys.stderr.flush()
        except OSError:
            pass


def redact(text: str) -> str:
    """Return *text* without everything that looks like a key, a token, or a signed address."""
    lowered = text.lower()
    if not _LONG.search(text) and not any(hint in lowered for hint in _HINTS):
        return text
    return _SECRETS.sub(_what_is_left, text)


def _what_is_left(match: re.Match[str]) -> str:
    return f"{match[match.lastgroup] if match.lastgroup else ''}…"


def _redacted(value: object) -> object:
    match value:
        case str():
            return redact(value)
        case dict():
            return {key: _redacted(each) for key, each in value.items()}
        case list() | tuple():
            return [_redacted(each) for each in value]
        case bool() | int() | float() | None:
            return value
    return redact(str(value))


def _redact_values(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        key: value if key.startswith("_") or key == "exc_info" else _redacted(value) for key, value in event.items()
    }


def _redact_text(_: WrappedLogger, __: str, text: EventDict) -> str:
    return redact(str(text))  # the event as the renderer before has made it


MAX_LINES = 1000  # of the log that are kept in memory
MAX_LINE_BYTES = 4096  # of the fields of one of them


class Line(msgspec.Struct, frozen=True):
    """One event of the log. `seq` grows by one with each."""

    seq: int
    at: str  # ISO 8601, UTC
    level: str
    event: str
    fields: dict[str, Any]  # JSON, without secrets


class Tail:
    """The last lines of the log, for those who cannot see stderr. Any thread may log."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=MAX_LINES)
        self._last = 0
        self._lock = threading.Lock()
        self._followers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def keep(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        """Keep an event whose secrets are gone, and return it as it is, as a processor of structlog."""
        fields = {**_TRACEBACKS(logger, name, dict(event))} if "exc_info" in event else dict(event)
        fields = cast(dict[str, Any], {key: _redacted(value) for key, value in fields.items() if key[0] != "_"})
        at, level, text = (str(fields.pop(key, "")) for key in ("timestamp", "level", "event"))
        size = len(msgspec.json.encode(fields, enc_hook=str))
        if size > MAX_LINE_BYTES:
            fields = {"left_out": f"{size} bytes: see the server's own log"}
        with self._lock:
            self._last += 1
            self._lines.append(Line(self._last, at, level, text[:MAX_LINE_BYTES], fields))
            for loop, woken in self._followers:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(woken.set)
        return event

    def after(self, seq: int, most: int) -> list[Line]:
        """Return the oldest lines with a number above *seq*, at most *most*."""
        with self._lock:
            return [line for line in self._lines if line.seq > seq][:most]

    @property
    def bounds(self) -> tuple[int, int]:
        """The numbers of the oldest line and of the newest one; the first is above the second if there are none."""
        with self._lock:
            return self._last - len(self._lines) + 1, self._last

    @contextlib.contextmanager
    def following(self) -> Iterator[asyncio.Event]:
        """Yield an event that is set with each line, inside of the block."""
        follower = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._followers.add(follower)
        try:
            yield follower[1]
        finally:
            with self._lock:
                self._followers.discard(follower)


TAIL = Tail()  # of this process, as the configuration of structlog is


def is_json(settings: LogSettings) -> bool:
    """Return whether logs are JSON, for machines."""
    return settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())


def configure(settings: LogSettings) -> None:
    """Set structlog up, once, at the start. The warnings of libraries get the same format."""
    stderr = cast(TextIO, _Stderr())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Processor] = (
        [_TRACEBACKS, _redact_values, TAIL.keep, structlog.processors.JSONRenderer()]
        if is_json(settings)
        else [
            _redact_values,
            TAIL.keep,
            # Texts of clients are quoted, because a terminal obeys control characters. The plain traceback never has
            # local variables, whatever packages are installed.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                repr_native_str=True,
                exception_formatter=structlog.dev.plain_traceback,
            ),
            _redact_text,  # for the texts of tracebacks
        ]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stderr),
        cache_logger_on_first_use=True,
    )
    foreign = logging.StreamHandler(stderr)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[foreign], level=max(level, logging.WARNING), force=True)
