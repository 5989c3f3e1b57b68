"""Traces: what takes part of the time of a request. `otlp.py` makes them; where traces are off, nothing here does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Protocol, Self

Attributes = Mapping[str, str | int | float | bool]
RawHeaders = Iterable[tuple[bytes, bytes]]


class Span(Protocol):
    """A part of a trace that goes on."""

    def set(self, attributes: Attributes) -> None:
        """Tell more of it."""

    def fail(self, error: BaseException | str) -> None:
        """Note that it failed."""

    def end(self) -> None:
        """End it. A second call does nothing."""


class Tracer(Protocol):
    """Makes spans. A span knows the span around it, in the same task or the one that made the task."""

    def begin(self, name: str, attributes: Attributes, *, below: Span | None = None) -> Span:
        """Begin a part of what goes on here, or of *below*; `end` must follow. Does nothing where no trace goes on."""

    def inside(self, name: str, attributes: Attributes) -> contextlib.AbstractContextManager[Span]:
        """Make a span of what the block does, as a part of what goes on. Does nothing where no trace goes on."""

    def first(
        self, name: str, attributes: Attributes, headers: RawHeaders = ()
    ) -> contextlib.AbstractContextManager[Span]:
        """Begin a trace with what the block does, or continue the one that *headers* of a request tell of."""

    def ended(self, name: str, attributes: Attributes, seconds: float, *, below: Span | None) -> None:
        """Add a span that has ended just now, after so long."""

    def traceparent(self) -> str:
        """Return how others continue the trace that goes on (W3C Trace Context); "" where none does."""


class _SilentSpan:
    """A span that tells nothing, and the block of one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let errors pass."""

    def set(self, attributes: Attributes) -> None:
        """Do nothing."""

    def fail(self, error: BaseException | str) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


NO_SPAN = _SilentSpan()


class Silent:
    """The tracer of a server without traces."""

    def begin(self, name: str, attributes: Attributes, *, below: Span | None = None) -> Span:
        """Return a span that tells nothing."""
        del name, attributes, below
        return NO_SPAN

    def inside(self, name: str, attributes: Attributes) -> contextlib.AbstractContextManager[Span]:
        """Do nothing around the block."""
        del name, attributes
        return NO_SPAN

    def first(
        self, name: str, attributes: Attributes, headers: RawHeaders = ()
    ) -> contextlib.AbstractContextManager[Span]:
        """Do nothing around the block."""
        del name, attributes, headers
        return NO_SPAN

    def ended(self, name: str, attributes: Attributes, seconds: float, *, below: Span | None) -> None:
        """Do nothing."""

    def traceparent(self) -> str:
        """Return nothing."""
        return ""


SILENT = Silent()
