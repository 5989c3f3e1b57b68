"""Traces of requests as a collector receives them, with a real execd."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from controlplane.server.traces import tracing
from controlplane.settings.sections import TraceSettings
from tests.support.agent.live_agent import LiveAgent
from tests.support.otlp_receiver import Received, Receiver, receiving
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge, serving
from tests.support.server.stream_client import output, streaming

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"


@contextlib.asynccontextmanager
async def traced(agent: LiveAgent, receiver: Receiver, sample_ratio: float = 1.0) -> AsyncIterator[Edge]:
    """Serve with traces; at the end of the block, the collector has them all."""
    settings = TraceSettings(receiver.address, ("X-Tenant: one",), sample_ratio)
    async with tracing(settings) as tracer, serving(agent.link, tracer=tracer) as edge:
        yield edge


def below(receiver: Receiver, parent: Received) -> dict[str, Received]:
    """Return the parts of a span by their names."""
    return {span.name: span for span in receiver.spans if span.parent_id == parent.span_id}


async def test_a_run_is_traced_from_the_request_to_the_runner(agent: LiveAgent) -> None:
    """The request, what it asks of the agent, and the run as the agent has measured it."""
    with receiving() as receiver:
        async with traced(agent, receiver) as edge, edge.execd() as client:
            code = {"code": "sleep 0.2; echo out; false", "context": {"language": "bash"}}
            answer = await client.post("/code", json=code)
            request_id = answer.headers["x-request-id"]
    request = receiver.one("code.run")
    assert (request.parent_id, request.is_server, request.is_error) == ("", True, False)
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["sandlot.sandbox"] == SANDBOX_ID
    assert request.attributes["sandlot.request_id"] == request_id
    parts = below(receiver, request)
    assert parts.keys() == {"agent context.open", "agent context.run"}
    (run,) = below(receiver, parts["agent context.run"]).values()
    assert run.name == "run"
    assert (run.attributes["sandlot.language"], run.attributes["sandlot.cause"]) == ("bash", "error")
    assert run.attributes["sandlot.output_bytes"] == len("out\n")
    assert 0.2 <= run.seconds <= parts["agent context.run"].seconds <= request.seconds
    assert {span.trace_id for span in receiver.spans} == {request.trace_id}


async def test_the_collector_is_asked_as_the_settings_say(agent: LiveAgent) -> None:
    """At the path of the protocol, with the headers; the server names itself."""
    with receiving() as receiver:
        async with traced(agent, receiver) as edge, edge.client() as client:
            await client.get("/sandboxes")
    (path, headers), *_ = receiver.requests
    assert (path, headers["content-type"], headers["x-tenant"]) == ("/v1/traces", "application/x-protobuf", "one")
    assert receiver.resources[0]["service.name"] == "sandlot"


async def test_a_clients_trace_is_continued_as_far_as_the_program_that_it_runs(agent: LiveAgent) -> None:
    """Its `traceparent` is the request's parent, and a command gets one; its own environment goes before."""
    with receiving() as receiver:
        async with traced(agent, receiver) as edge, edge.execd() as client:
            client.headers["traceparent"] = TRACEPARENT
            answer = await client.post("/command", json={"command": "echo $TRACEPARENT"})
            mine = await client.post("/command", json={"command": "echo $TRACEPARENT", "envs": {"TRACEPARENT": "mine"}})
    first, second = receiver.named("command.run")
    assert (first.trace_id, first.parent_id) == (TRACE, PARENT)
    assert (second.trace_id, second.parent_id) == (TRACE, PARENT)
    assert _said(answer) == f"00-{TRACE}-{first.span_id}-01"
    assert _said(mine) == "mine"


def _said(answer: httpx.Response) -> str:
    events = [json.loads(frame) for frame in answer.text.split("\n\n")[:-1]]
    return "".join(event["text"] for event in events if event["type"] == "stdout").strip()


@pytest.mark.parametrize(("sample_ratio", "traceparent"), [(0.0, ""), (1.0, UNSAMPLED)])
async def test_what_is_not_sampled_is_not_sent(agent: LiveAgent, sample_ratio: float, traceparent: str) -> None:
    """By the settings, or because the client has decided so."""
    with receiving() as receiver:
        async with traced(agent, receiver, sample_ratio) as edge, edge.client() as client:
            await client.get("/sandboxes", headers={"traceparent": traceparent} if traceparent else {})
    assert receiver.spans == []


async def test_failures_and_strangers(agent: LiveAgent) -> None:
    """An error has its class; who has no key makes no trace, and neither does who asks for the health."""
    with receiving() as receiver:
        async with traced(agent, receiver) as edge:
            async with httpx.AsyncClient(base_url=edge.url) as stranger:
                for path in ("/v1/sandboxes", "/health", "/version"):
                    await stranger.get(path, headers={"traceparent": TRACEPARENT})
            async with edge.client() as client:
                assert (await client.get("/sandboxes/0123456789abcdee")).status_code == 404
                await agent.link.aclose()
                lost = await client.post(f"/sandboxes/{SANDBOX_ID}/proxy/44772/command", json={"command": "true"})
                assert lost.status_code == 502
    found, failed = receiver.one("sandbox.get"), receiver.one("command.run")
    assert (found.is_error, found.attributes["http.response.status_code"]) == (False, 404)
    assert failed.is_error
    (asked,) = below(receiver, failed).values()
    assert (asked.name, asked.is_error) == ("agent process.start", True)
    assert "error.type" in asked.attributes
    assert {span.name for span in receiver.spans} == {"sandbox.get", "command.run", "agent process.start"}


async def test_operations_of_the_native_stream_are_spans(agent: LiveAgent) -> None:
    """Below the handshake of their socket, which has ended long before."""
    with receiving() as receiver:
        async with traced(agent, receiver) as edge:
            url = f"ws://{edge.address}/v1/sandboxes/{SANDBOX_ID}/stream"
            headers = {"OPEN-SANDBOX-API-KEY": API_KEY, "traceparent": TRACEPARENT}
            async with streaming(url, headers=headers) as stream:
                await stream.hello()
                said = output(await stream.ask("command", command="sleep 0.2; echo $TRACEPARENT"))
    socket = receiver.one("sandbox.stream")
    assert (socket.trace_id, socket.attributes["http.response.status_code"]) == (TRACE, 101)
    command = below(receiver, socket)["command.run"]
    assert socket.ended_at < command.ended_at
    assert said.strip() == f"00-{TRACE}-{command.span_id}-01"
    assert below(receiver, command).keys() == {"agent process.start"}


async def test_nothing_secret_is_in_a_trace(agent: LiveAgent) -> None:
    """No path, no query, no header, no code, no variable."""
    secret = "sandlot_" + "5" * 40
    with receiving() as receiver:
        async with traced(agent, receiver) as edge, edge.execd() as client:
            await client.post("/command", json={"command": f"echo {secret}", "envs": {"KEY": secret}})
            await client.get("/files/info", params={"path": f"/{secret}"}, headers={"X-Secret": secret})
            await client.get(f"/proxy/1/{secret}", params={"token": secret})
    assert len(receiver.spans) >= 4
    assert secret not in repr(receiver.spans)
    assert edge.token not in repr(receiver.spans)
