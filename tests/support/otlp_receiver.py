"""A collector that takes traces as OTLP over HTTP, and decodes them with the protocol's own library."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

CONTENT_TYPE = "application/x-protobuf"


class Received(NamedTuple):
    """A span that was received."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str  # "" for the first of a trace
    attributes: dict[str, str | int | float | bool]
    is_server: bool
    is_error: bool
    seconds: float
    ended_at: float  # Unix time


class Receiver:
    """The collector. `spans` has what it has received, `requests` the path and headers of each request.

    While `hold` is cleared, it answers nothing.
    """

    def __init__(self) -> None:
        self.hold = threading.Event()
        self.hold.set()
        self.spans: list[Received] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.resources: list[dict[str, str | int | float | bool]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.hold.wait()
                receiver.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-type", CONTENT_TYPE)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep what a request brings."""
        for resource in request.resource_spans:
            self.resources.append(_values(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans += [_received(span) for span in scope.spans]

    def one(self, name: str) -> Received:
        """Return the only span of that name."""
        (span,) = self.named(name)
        return span

    def named(self, name: str) -> list[Received]:
        """Return all spans of that name."""
        return [span for span in self.spans if span.name == name]


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a collector on a port of its own."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


def _received(span: trace_pb2.Span) -> Received:
    return Received(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_values(span.attributes),
        is_server=span.kind == trace_pb2.Span.SPAN_KIND_SERVER,
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        ended_at=span.end_time_unix_nano / 1e9,
    )


def _values(pairs: object) -> dict[str, str | int | float | bool]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in pairs}  # type: ignore[attr-defined]
