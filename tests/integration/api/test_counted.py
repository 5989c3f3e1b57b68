"""What requests leave in the metrics: operations, runs, refusals and ports, with a real execd."""

from __future__ import annotations

import asyncio

import httpx
from aiohttp import web

from controlplane.telemetry.metrics import Metrics
from tests.support.samples import Samples, samples_of
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge
from tests.support.server.control_plane import until
from tests.support.server.port_services import application, opened
from tests.support.server.stream_client import streaming

KEY = {"OPEN-SANDBOX-API-KEY": API_KEY}


def told(metrics: Metrics, name: str) -> Samples:
    """The samples of one family that are not 0, by their labels."""
    found = samples_of(*metrics.collectors())
    return {each.removeprefix(name): value for each, value in found.items() if each.partition("[")[0] == name and value}


async def test_requests_are_counted_by_their_operation(edge: Edge) -> None:
    """Whatever the path has in it. What is open while it is served is not open afterwards."""
    async with edge.client() as client:
        await client.get(f"/sandboxes/{SANDBOX_ID}")
        await client.get("/sandboxes/0123456789abcdee")
        await client.get("/no/such/path")
        await client.get(f"/sandboxes/{SANDBOX_ID}", headers={"OPEN-SANDBOX-API-KEY": "wrong"})
    async with httpx.AsyncClient(base_url=edge.url) as stranger:
        await stranger.get(f"/v1/sandboxes/{SANDBOX_ID}")
    assert told(edge.metrics, "sandlot_requests_total") == {
        "[sandbox.get][GET][200]": 1,
        "[sandbox.get][GET][404]": 1,
        "[none][GET][404]": 1,
        "[none][GET][401]": 2,
    }
    assert told(edge.metrics, "sandlot_request_duration_seconds_count") == {"[sandbox.get]": 2, "[none]": 3}
    assert told(edge.metrics, "sandlot_auth_failures_total") == {"[INVALID_API_KEY]": 1, "[MISSING_API_KEY]": 1}
    await until(lambda: not told(edge.metrics, "sandlot_requests_open"))


async def test_runs_are_counted_by_what_they_were_and_how_they_ended(edge: Edge, client: httpx.AsyncClient) -> None:
    """Commands, code, code of a named context, sessions; of one that its client left, that it did."""
    await client.post("/command", json={"command": "echo out; exit 3"})
    await client.post("/code", json={"code": "echo out", "context": {"language": "bash"}})
    context = (await client.post("/code/context", json={"language": "bash"})).json()["id"]
    await client.post("/code", json={"code": "false", "context": {"id": context}})
    session = (await client.post("/session")).json()["session_id"]
    await client.post(f"/session/{session}/run", json={"command": "echo out"})
    async with client.stream("POST", "/command", json={"command": "echo begun; sleep 60"}) as answer:
        async for line in answer.aiter_lines():
            if "begun" in line:
                break
    await until(lambda: "[command][][abandoned]" in told(edge.metrics, "sandlot_runs_total"))
    assert told(edge.metrics, "sandlot_runs_total") == {
        "[command][][exit]": 1,
        "[command][][abandoned]": 1,
        "[code][bash][ok]": 1,
        "[code][bash][error]": 1,
        "[session][bash][ok]": 1,
    }
    assert told(edge.metrics, "sandlot_run_output_bytes_total")["[session]"] == len("out\n")
    assert told(edge.metrics, "sandlot_run_duration_seconds_count")["[code][bash]"] == 2


async def test_what_cannot_run_is_refused(edge: Edge, client: httpx.AsyncClient) -> None:
    """It has no receipt, and is counted all the same."""
    await client.post("/command", json={"argv": ["/no/such/program"]})
    assert told(edge.metrics, "sandlot_runs_total") == {"[command][][refused]": 1}


async def test_the_first_value_of_a_sandbox_is_timed(edge: Edge, client: httpx.AsyncClient) -> None:
    """From the request on, with the context that is opened for it; the second run says nothing more."""
    edge.metrics.created(SANDBOX_ID, "sandlot/bash", "warm", 0.01)
    for code in ("sleep 0.2; echo one; sleep 0.2", "sleep 1"):
        await client.post("/code", json={"code": code, "context": {"language": "bash"}})
    assert told(edge.metrics, "sandlot_first_value_duration_seconds_count") == {"[sandlot/bash]": 1}
    assert told(edge.metrics, "sandlot_first_value_duration_seconds_sum")["[sandlot/bash]"] >= 0.2


async def test_operations_of_the_native_stream_are_requests(edge: Edge) -> None:
    """Each for itself, beside the socket that carries them."""
    url = f"ws://{edge.address}/v1/sandboxes/{SANDBOX_ID}/stream"
    async with streaming(url, headers=KEY) as stream:
        await stream.hello()
        await stream.ask("command", command="true")
        await stream.ask("file.read", path="/no/such/file")
        assert told(edge.metrics, "sandlot_requests_open") == {"[websocket]": 1}
    counted = told(edge.metrics, "sandlot_requests_total")
    assert counted["[sandbox.stream][WEBSOCKET][101]"] == 1
    assert counted["[command.run][STREAM][200]"] == counted["[file.download][STREAM][404]"] == 1
    assert told(edge.metrics, "sandlot_request_errors_total") == {"[FILE_NOT_FOUND]": 1}


async def test_bytes_through_ports_are_counted_while_they_flow(edge: Edge) -> None:
    """Of a connection that is still open too, in both directions."""
    go_on = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        await request.read()
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"x" * 10_000)
        await go_on.wait()
        return answer

    async with application(web.post("/", serve)) as port, opened(edge, port) as client:
        async with client.stream("POST", "/", content=b"y" * 5000) as answer:
            body = answer.aiter_raw()
            await anext(body)
            assert told(edge.metrics, "sandlot_port_connections_open") == {"[http]": 1}
            assert told(edge.metrics, "sandlot_port_bytes_total")["[from_sandbox]"] > 0
            go_on.set()
            assert [piece async for piece in body if piece == b""] == []
        await until(lambda: not told(edge.metrics, "sandlot_port_connections_open"))
    counted = told(edge.metrics, "sandlot_port_bytes_total")
    assert 10_000 < counted["[from_sandbox]"] < 11_000
    assert 5_000 < counted["[to_sandbox]"] < 6_000
    assert told(edge.metrics, "sandlot_port_connections_total") == {"[http]": 1}
