"""A server whose settings name a collector: its requests are traces there."""

from __future__ import annotations

import tempfile

import httpx

from controlplane.runtime.driver import Driver
from controlplane.server.serve import control_plane
from controlplane.settings.sections import PathSettings, SandboxSettings, ServerSettings, Settings, TraceSettings
from tests.support.fakes.agents import AgentEngine, CutDriver
from tests.support.otlp_receiver import receiving
from tests.support.server.control_plane import IMAGE

KEY = "sandlot_of_a_test"


async def test_a_create_is_a_trace_from_the_request_to_the_agent() -> None:
    """As the settings say; the last spans are sent before the server has stopped. Prometheus' questions make none."""
    engine = AgentEngine(IMAGE)

    def make_driver(instance: str) -> Driver:
        return CutDriver(engine, instance=instance)

    # A short path, for the sake of Unix sockets.
    with receiving() as receiver, tempfile.TemporaryDirectory(prefix="sandlot-") as home:
        settings = Settings(
            server=ServerSettings(port=0, api_keys=(KEY,)),
            sandbox=SandboxSettings(image=IMAGE, pool_size=1),
            paths=PathSettings(state_dir=f"{home}/state", run_dir=f"{home}/run"),
            traces=TraceSettings(receiver.address),
        )
        async with control_plane(settings, make_driver, verify=lambda pid, container: True) as server:
            headers = {"OPEN-SANDBOX-API-KEY": KEY}
            async with httpx.AsyncClient(base_url=server.address, headers=headers, timeout=30) as client:
                wish = {"image": {"uri": IMAGE}, "entrypoint": ["tail"], "timeout": 300}
                limits = {"resourceLimits": {"cpu": "1", "memory": "1Gi"}}
                created = await client.post("/v1/sandboxes", json=wish | limits)
                assert created.status_code == 202, created.text
                told = await client.get("/metrics")
    request = receiver.one("sandbox.create")
    assert request.attributes["http.response.status_code"] == 202
    parts = {span.name for span in receiver.spans if span.parent_id == request.span_id}
    assert {"pool.claim", "agent sandbox.claim"} <= parts
    assert receiver.named("metrics") == []
    assert f'sandlot_create_duration_seconds_count{{image="{IMAGE}"' in told.text
    await engine.aclose()
