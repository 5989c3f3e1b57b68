"""Traces of what a control plane does itself; and that a server without them does not know their libraries."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from controlplane.errors import ConfigError, NotFound
from controlplane.server.traces import tracing
from controlplane.settings.sections import TraceSettings
from controlplane.telemetry import otlp
from controlplane.telemetry.tracing import SILENT
from tests.support.otlp_receiver import receiving
from tests.support.server.control_plane import IMAGE, Home, a_request


async def test_a_create_is_traced_to_the_agent(home: Home) -> None:
    """With the claim of the container; the start of a container that the pool keeps is a trace of its own."""
    with receiving() as receiver:
        async with tracing(TraceSettings(receiver.address)) as tracer, home.run(tracer=tracer) as plane:
            with tracer.first("request", {}):
                await plane.sandboxes.create(a_request())
                with pytest.raises(NotFound):
                    await plane.sandboxes.create(a_request(image="", snapshot_id="none"))
    request = receiver.one("request")
    parts = {span.name: span for span in receiver.spans if span.parent_id == request.span_id}
    assert {"pool.claim", "agent sandbox.claim"} <= parts.keys()
    assert parts["pool.claim"].attributes == {"sandlot.image": IMAGE, "sandlot.start": "warm"}
    starts = receiver.named("container.provision")
    assert len(starts) >= 2
    for start in starts:
        below = [span.name for span in receiver.spans if span.parent_id == start.span_id]
        assert (start.parent_id, start.is_server) == ("", False)
        assert below == ["engine container.create", "engine container.start"]
    # What the server asks the engine for itself, every few seconds, is no part of any trace.
    assert receiver.named("engine container.list") == []


async def test_a_failed_start_is_told_with_its_error(home: Home) -> None:
    """On the call and on all around it."""
    with receiving() as receiver:
        async with tracing(TraceSettings(receiver.address)) as tracer, home.run(tracer=tracer) as plane:
            with pytest.raises(Exception, match="no/such"):
                await plane.sandboxes.create(a_request(image="no/such:image"))
    failed = [span for span in receiver.spans if span.is_error]
    assert {span.name for span in failed} == {"engine container.create", "container.provision"}
    assert {span.attributes["error.type"] for span in failed} == {"ImageMissing"}


async def test_a_collector_that_is_gone_disturbs_nobody(home: Home) -> None:
    """Nor does it keep the server from its end."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with tracing(TraceSettings(address)) as tracer, home.run(tracer=tracer) as plane:
            with tracer.first("request", {}):
                await plane.sandboxes.create(a_request())


async def test_without_the_libraries_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a sentence that says what to install; without the setting, nobody misses them."""
    monkeypatch.delitem(sys.modules, "controlplane.telemetry.otlp", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"pip install 'sandlot\[traces\]'"):
        async with tracing(TraceSettings("http://localhost:4318")):
            """It does not begin."""
    async with tracing(TraceSettings()) as tracer:
        assert tracer is SILENT


def test_a_server_without_traces_loads_nothing_of_them() -> None:
    """Neither their libraries nor what these need."""
    code = (
        "import sys, controlplane.server.serve, controlplane.cli.main; "
        "print([each for each in ('opentelemetry', 'google.protobuf', 'requests') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_silent_tracer_says_nothing() -> None:
    """Its spans are all the same one."""
    with SILENT.inside("a", {}) as inside, SILENT.first("b", {}) as first:
        assert inside is first is SILENT.begin("c", {})
    assert SILENT.traceparent() == ""


async def test_spans_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the collector does not take them, others are dropped, and nobody waits."""
    monkeypatch.setattr(otlp, "MAX_WAITING", 512)  # as many as are sent at once
    with receiving() as receiver:
        receiver.hold.clear()
        tracer = otlp.OtlpTracer(receiver.address, {}, 1.0)
        for number in range(3000):
            with tracer.first(str(number), {}):
                pass
        receiver.hold.set()
        await tracer.aclose()
    assert 512 <= len(receiver.spans) < 2000
