"""What Prometheus is told: the statistics of a control plane at work, under names that do not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.errors import NotFound
from controlplane.runtime.events import EventKind
from controlplane.sandbox import State
from controlplane.server.composition import ControlPlane
from controlplane.server.metrics import make_registry, running_containers
from controlplane.telemetry.load import Loads
from tests.support.fakes.agents import AgentEngine
from tests.support.samples import Samples, samples_of
from tests.support.server.control_plane import IMAGE, Home, a_request, until


async def read(plane: ControlPlane) -> Samples:
    """All samples by name; those by state with the state."""
    loads = Loads(plane.driver.containers, lambda: running_containers(plane.registry))
    await loads.look()
    return samples_of(make_registry(plane, loads, Path("/")))


async def test_metrics_of_a_control_plane_at_work(home: Home) -> None:
    """Sandboxes, the pool, links; counters count."""
    async with home.run() as plane:
        before = await read(plane)
        assert before["sandlot_sandboxes[Running]"] == 0
        assert before["sandlot_pool_target"] == before["sandlot_pool_warm"] == before["sandlot_links"] == 2
        assert before["sandlot_link_received_bytes_total"] > 0
        await plane.sandboxes.create(a_request())
        after = await read(plane)
        assert after["sandlot_sandboxes[Running]"] == 1
        assert after["sandlot_sandboxes_created_total"] == 1
        assert after["sandlot_sandbox_create_failures_total"] == 0
        assert after["sandlot_pool_claims_total"] == after["sandlot_pool_hits_total"] == 1
        assert after["sandlot_pool_warm"] == after[f"sandlot_pool_containers[default][{IMAGE}][warm]"] == 1
        assert after[f"sandlot_pool_containers[default][{IMAGE}][target]"] == 2
        assert after[f"sandlot_pool_requests_total[default][{IMAGE}][hit]"] == 1
        assert after[f"sandlot_pool_requests_total[default][{IMAGE}][miss]"] == 0
        assert after["sandlot_link_streams"] == 1  # on which the entrypoint is followed
        assert after["sandlot_server_peak_memory_bytes"] > 1 << 20
        assert after["sandlot_server_memory_bytes"] > 1 << 20
        assert before.keys() <= after.keys()


async def test_warm_and_cold_creates_are_timed_apart(home: Home) -> None:
    """By image; a claim of a warm container is timed as well as the start of a cold one."""
    async with home.run() as plane:
        await plane.sandboxes.create(a_request())
        await plane.sandboxes.create(a_request(image="other/image"))
        told = await read(plane)
    for name in ("claim", "create"):
        assert told[f"sandlot_{name}_duration_seconds_count[{IMAGE}][warm]"] == 1
        assert told[f"sandlot_{name}_duration_seconds_count[other/image][cold]"] == 1
    assert told["sandlot_container_start_duration_seconds_count[other/image]"] == 1
    assert told["sandlot_link_up_duration_seconds_count[other/image]"] == 1
    assert told["sandlot_engine_calls_total[container.create][ok]"] >= 3


async def test_ends_are_counted_by_reason(home: Home, engine: AgentEngine) -> None:
    """Deleted by a client, and lost; a create that fails tells the class of its error."""
    async with home.run() as plane:
        deleted = await plane.sandboxes.create(a_request())
        lost = await plane.sandboxes.create(a_request())
        await plane.sandboxes.delete(deleted.id)
        await engine.die(lost.container_id)
        await until(lambda: plane.registry.get(lost.id).state is not State.RUNNING)
        with pytest.raises(NotFound):
            await plane.sandboxes.create(a_request(image="", snapshot_id="none"))
        told = await read(plane)
    assert told["sandlot_sandbox_ends_total[DELETED]"] == 1
    assert told["sandlot_sandbox_ends_total[CONTAINER_EXITED_ERROR]"] == 1
    assert told["sandlot_sandbox_lifetime_seconds_count"] == 2
    assert told["sandlot_engine_events_total[died]"] >= 1


async def test_what_a_look_tells(home: Home, engine: AgentEngine) -> None:
    """The engine, its disk, what sandboxes use and may use, and what this server is."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request())
        engine.tell(engine.find(sandbox.container_id), EventKind.OOM)
        await plane.driver.disk_room()
        told = await read(plane)
    assert told["sandlot_engine_up"] == 1
    assert [name for name in told if name.startswith("sandlot_engine_info[fake]")]
    assert told["sandlot_sandboxes_memory_bytes"] == 1 << 20  # as the fake engine tells of each
    assert told["sandlot_sandboxes_cpu_limit_cores"] == sandbox.spec.limits.cpus
    assert told["sandlot_sandboxes_memory_limit_bytes"] == sandbox.spec.limits.memory_bytes
    assert told["sandlot_disk_free_bytes[engine]"] > 0
    assert told["sandlot_disk_free_bytes[state]"] > 0
    assert told["sandlot_snapshots[Ready]"] == told["sandlot_volumes_mounted"] == 0
    assert told["sandlot_store_late_writes"] == told["sandlot_audit_lost_entries_total"] == 0
    assert [name for name in told if name.startswith("sandlot_build_info[")]
    assert told["process_open_fds"] > 0
