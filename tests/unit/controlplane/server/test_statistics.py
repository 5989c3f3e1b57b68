"""What Prometheus is told: the statistics of a control plane at work, under names that do not change."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controlplane.server.composition import ControlPlane
from controlplane.server.metrics import StatisticsCollector, make_registry
from tests.support.fakes.agents import AgentEngine
from tests.support.server.control_plane import IMAGE, Home, a_request


def read(plane: ControlPlane) -> dict[str, float]:
    """All samples by name; those by state with the state."""
    collector = StatisticsCollector(plane.sandboxes.statistics, plane.pool.statistics, plane.directory.statistics)
    text = generate_latest(make_registry(collector)).decode()
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_of_a_control_plane_at_work() -> None:
    """Sandboxes, the pool, links; counters count."""
    engine = AgentEngine(IMAGE)
    home = Home(engine)
    try:
        async with home.run() as plane:
            before = read(plane)
            assert before["sandlot_sandboxes[Running]"] == 0
            assert before["sandlot_pool_target"] == before["sandlot_pool_warm"] == before["sandlot_links"] == 2
            assert before["sandlot_link_received_bytes_total"] > 0
            await plane.sandboxes.create(a_request())
            after = read(plane)
            assert after["sandlot_sandboxes[Running]"] == 1
            assert after["sandlot_sandboxes_created_total"] == 1
            assert after["sandlot_sandbox_create_failures_total"] == 0
            assert after["sandlot_pool_claims_total"] == after["sandlot_pool_hits_total"] == 1
            assert after["sandlot_pool_warm"] == 1
            assert after["sandlot_link_streams"] == 1  # on which the entrypoint is followed
            assert after["sandlot_server_peak_memory_bytes"] > 1 << 20
            assert after["sandlot_server_memory_bytes"] > 1 << 20
            assert set(before) == set(after)
    finally:
        await home.aclose()
