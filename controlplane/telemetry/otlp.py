"""Traces by the libraries of OpenTelemetry, sent in the background as OTLP over HTTP. An extra: `sandlot[traces]`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from urllib.parse import urlsplit

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from controlplane.errors import SandlotError
from controlplane.telemetry.tracing import NO_SPAN, Attributes, RawHeaders, Span

log = structlog.get_logger()

PATH = "/v1/traces"  # of a collector, by the protocol
SEND_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 6.0  # the last spans are sent at the server's stop; a collector that hangs must not block it
MAX_WAITING = 4096  # spans that wait for the collector; further ones are dropped
HEADERS = frozenset({b"traceparent", b"tracestate"})

_PROPAGATOR = TraceContextTextMapPropagator()


class OtlpSpan:
    """A span of the library, which ends once."""

    def __init__(self, span: trace.Span) -> None:
        self.span = span
        self._has_ended = False

    def set(self, attributes: Attributes) -> None:
        """Tell more of it."""
        self.span.set_attributes(dict(attributes))

    def fail(self, error: BaseException | str) -> None:
        """Note that it failed: the class of the error, and what a client may read of it."""
        if isinstance(error, BaseException):
            self.span.set_attribute("error.type", type(error).__name__)
            error = error.public if isinstance(error, SandlotError) else ""
        self.span.set_status(Status(StatusCode.ERROR, error or None))

    def end(self) -> None:
        """End it. A second call does nothing."""
        if not self._has_ended:
            self._has_ended = True
            self.span.end()


class OtlpTracer:
    """See `Tracer`."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], sample_ratio: float) -> None:
        address = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + PATH
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create({"service.name": "sandlot", "service.version": version("sandlot")}),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=address, headers=dict(headers), timeout=SEND_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_WAITING))
        self._tracer = self._provider.get_tracer("sandlot", version("sandlot"))

    def begin(self, name: str, attributes: Attributes, *, below: Span | None = None) -> Span:
        """Begin a part of what goes on. See `Tracer.begin`."""
        context = trace.set_span_in_context(below.span) if isinstance(below, OtlpSpan) else None
        if context is None and not _goes_on():
            return NO_SPAN
        return OtlpSpan(self._tracer.start_span(name, context, attributes=dict(attributes)))

    @contextlib.contextmanager
    def inside(self, name: str, attributes: Attributes) -> Iterator[Span]:
        """Make a span of what the block does. See `Tracer.inside`."""
        if not _goes_on():
            yield NO_SPAN
            return
        with _current(OtlpSpan(self._tracer.start_span(name, attributes=dict(attributes)))) as span:
            yield span

    @contextlib.contextmanager
    def first(self, name: str, attributes: Attributes, headers: RawHeaders = ()) -> Iterator[Span]:
        """Begin or continue a trace. See `Tracer.first`."""
        carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers if key in HEADERS}
        context = _PROPAGATOR.extract(carrier) if carrier else None
        kind = SpanKind.SERVER if headers else SpanKind.INTERNAL
        started = self._tracer.start_span(name, context, kind=kind, attributes=dict(attributes))
        with _current(OtlpSpan(started)) as span:
            yield span

    def ended(self, name: str, attributes: Attributes, seconds: float, *, below: Span | None) -> None:
        """Add a span that has ended just now. See `Tracer.ended`."""
        if isinstance(below, OtlpSpan):
            now = time.time_ns()
            began = now - round(max(0.0, seconds) * 1e9)
            context = trace.set_span_in_context(below.span)
            self._tracer.start_span(name, context, attributes=dict(attributes), start_time=began).end(now)

    def traceparent(self) -> str:
        """Return how others continue the trace that goes on. See `Tracer.traceparent`."""
        carrier: dict[str, str] = {}
        if _goes_on():
            _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent", "")

    async def aclose(self) -> None:
        """Send what waits, as far as the collector takes it in some seconds."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.to_thread(self._provider.shutdown)
        except TimeoutError:
            log.warning("traces.not_sent")


def _goes_on() -> bool:
    return trace.get_current_span().get_span_context().is_valid


@contextlib.contextmanager
def _current(span: OtlpSpan) -> Iterator[OtlpSpan]:
    """Let a span be the one that goes on inside of the block, and end it; an error that leaves the block is its own."""
    try:
        with trace.use_span(span.span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield span
    except Exception as error:
        span.fail(error)
        raise
    finally:
        span.end()
