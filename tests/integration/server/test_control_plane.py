"""The control plane without its edge, and real execd processes: a sandbox's whole life, and that of a restart."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.errors import InvalidRequest, NotFound, StartFailed
from controlplane.lifecycle.deadlines import reap_once
from controlplane.lifecycle.records.registry import utc_now
from controlplane.link.stream import Data
from controlplane.sandbox import Sandbox, State
from controlplane.server.composition import ControlPlane
from execd.wire.messages import (
    FileInfo,
    FileStat,
    ProcessExited,
    ProcessList,
    ProcessStart,
    ProcessStarted,
    ProcessState,
)
from tests.support.fakes.engine import FakeEngine
from tests.support.server.control_plane import IMAGE, Home, a_request, until

FOREVER = ("sleep", "infinity")


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine(IMAGE, "other/image")


@pytest.fixture
async def home(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Home]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("JUPYTER_PORT", "0")  # all of these containers share one network
    home = Home(engine)
    yield home
    await home.aclose()


def containers(engine: FakeEngine) -> set[str]:
    """Whose containers there are."""
    return {container.spec.sandbox_id for container in engine.containers.values()}


async def only_a_full_pool_is_left(home: Home, plane: ControlPlane) -> None:
    """No record, no container, no directory but those of warm ones."""
    await until(
        lambda: (
            plane.pool.is_full
            and plane.sandboxes.list() == []
            and plane.pool.statistics().starting == 0
            and containers(home.engine) == plane.pool.warm_ids() == {path.name for path in home.sockets.iterdir()}
        )
    )


async def run(plane: ControlPlane, sandbox: Sandbox, script: str) -> str:
    """Run a shell script in a sandbox; return what it wrote to stdout."""
    async with await plane.relay.open(sandbox.id, ProcessStart(id=os.urandom(4).hex(), shell=script)) as stream:
        await stream.expect(ProcessStarted)
        output = b""
        while (item := await stream.receive()) is not None:
            if isinstance(item, Data):
                output += item.data
            else:
                assert isinstance(item, ProcessExited)
                assert item.exit_code == 0
    return output.decode()


async def test_a_sandbox_from_create_to_delete(home: Home, plane: ControlPlane) -> None:
    """Create, get, list, run something in it, delete; then nothing is left."""
    sandbox = await plane.sandboxes.create(a_request(env={"COLOUR": "blue"}, entrypoint=FOREVER))
    assert plane.sandboxes.get(sandbox.id) == sandbox
    assert plane.sandboxes.list() == [sandbox]
    assert await run(plane, sandbox, "echo $COLOUR") == "blue\n"
    await plane.sandboxes.delete(sandbox.id)
    with pytest.raises(NotFound):
        plane.sandboxes.get(sandbox.id)
    await only_a_full_pool_is_left(home, plane)
    with pytest.raises(NotFound):
        await plane.relay.open(sandbox.id, FileStat(paths=("/",)))


async def test_sandboxes_do_not_see_each_other(plane: ControlPlane) -> None:
    """Each has its own agent."""
    one, other = [await plane.sandboxes.create(a_request(env={"WHO": who})) for who in ("one", "other")]
    assert await run(plane, one, "echo $WHO") == "one\n"
    assert await run(plane, other, "echo $WHO") == "other\n"


async def test_a_deadline_is_enforced_and_can_be_moved(home: Home, plane: ControlPlane) -> None:
    """At the moment that was set last, by an injected clock."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60))
    due = utc_now() + timedelta(seconds=300)
    plane.sandboxes.renew(sandbox.id, due)
    reap_once(plane.deadlines, plane.endings.expire, due.timestamp() - 1)
    assert await run(plane, sandbox, "echo alive") == "alive\n"
    reap_once(plane.deadlines, plane.endings.expire, due.timestamp())
    await only_a_full_pool_is_left(home, plane)


async def test_the_reaper_itself_ends_a_sandbox(home: Home, plane: ControlPlane) -> None:
    """A deadline that is over almost as soon as it is set: the running reaper finds it."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60))
    plane.sandboxes.renew(sandbox.id, utc_now() + timedelta(milliseconds=20))
    await only_a_full_pool_is_left(home, plane)


async def test_an_entrypoint_that_succeeds(engine: FakeEngine, plane: ControlPlane) -> None:
    """Terminated, remembered for a while, its container gone."""
    sandbox = await plane.sandboxes.create(a_request(entrypoint=("true",)))
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.TERMINATED)
    assert plane.sandboxes.get(sandbox.id).reason == "CONTAINER_EXITED"
    assert sandbox.id not in containers(engine)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "the entrypoint ended: exit, exit code 3"),
        (
            "printf 'starting\\nno such option: \\033[31m-x\\n\\n' >&2; exit 3",
            "the entrypoint ended: exit, exit code 3; it said: no such option: [31m-x",
        ),
        ("kill -9 $$", "the entrypoint ended: signal, exit code 137"),
    ],
)
async def test_an_entrypoint_that_fails(script: str, message: str, engine: FakeEngine, plane: ControlPlane) -> None:
    """Failed, with how it ended."""
    sandbox = await plane.sandboxes.create(a_request(entrypoint=("sh", "-c", script)))
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
    failed = plane.sandboxes.get(sandbox.id)
    assert (failed.reason, failed.message) == ("CONTAINER_EXITED_ERROR", message)
    await until(lambda: sandbox.id not in containers(engine))


@pytest.mark.parametrize(
    "entrypoint", [("/no/such/program",), ("/etc/passwd",), ("/",), ("/no/such program -x",), ("it's no program",)]
)
async def test_an_entrypoint_that_cannot_be_executed(
    entrypoint: tuple[str, ...], home: Home, plane: ControlPlane
) -> None:
    """The create is refused, and its container removed."""
    with pytest.raises(InvalidRequest, match="the entrypoint cannot be executed") as error:
        await plane.sandboxes.create(a_request(entrypoint=entrypoint))
    assert error.value.code == "sandbox.invalid_entrypoint"
    assert plane.sandboxes.list() == []
    await only_a_full_pool_is_left(home, plane)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("sleep 1000", ("sleep", "1000")),
        ("tail -f /dev/null", ("tail", "-f", "/dev/null")),
        ("sh -c 'sleep \"1000\"; :'", ("sh", "-c", 'sleep "1000"; :')),
        ("{program}", ("{program}",)),
    ],
)
async def test_an_entrypoint_of_one_item_is_split_unless_it_is_a_program(
    item: str, words: tuple[str, ...], tmp_path: Path, plane: ControlPlane
) -> None:
    """As a shell would; the sandbox shows what was executed."""
    program = tmp_path / "with a blank"
    program.write_text("#!/bin/sh\nsleep 1000\n")
    program.chmod(0o755)

    made = await plane.sandboxes.create(a_request(entrypoint=(item.format(program=program),)))

    executed = tuple(word.format(program=program) for word in words)
    assert made.spec.entrypoint == plane.sandboxes.get(made.id).spec.entrypoint == executed
    state = await plane.relay.call(made.id, ProcessList(id="entrypoint"), ProcessState)
    assert (state.command, state.exited) == (" ".join(executed), None)


async def test_twenty_at_once_on_a_pool_of_three(home: Home, engine: FakeEngine) -> None:
    """Each gets its own, none fails, and the pool is full again afterwards."""
    async with home.run(pool_size=3) as plane:
        made = await asyncio.gather(*(plane.sandboxes.create(a_request(timeout_s=600)) for _ in range(20)))
        assert len({sandbox.id for sandbox in made}) == 20
        assert {sandbox.state for sandbox in made} == {State.RUNNING}
        assert {sandbox.id for sandbox in made} <= containers(engine)
        await asyncio.gather(*(plane.sandboxes.delete(sandbox.id) for sandbox in made))
        await until(lambda: plane.sandboxes.list() == [] and plane.pool.is_full)
        assert plane.pool.statistics().failures == 0
        await until(lambda: containers(engine).isdisjoint({sandbox.id for sandbox in made}))


async def test_creates_and_cancellations_mixed(home: Home, plane: ControlPlane) -> None:
    """Every second caller loses patience at some point; what they wanted leaves nothing behind."""
    creating = [asyncio.ensure_future(plane.sandboxes.create(a_request())) for _ in range(10)]
    for number, task in enumerate(creating):
        if number % 2:
            for _ in range(3 * number):
                await asyncio.sleep(0)
            task.cancel()
    results = await asyncio.gather(*creating, return_exceptions=True)
    made = [result for result in results if isinstance(result, Sandbox)]
    assert len(made) >= 5
    assert plane.sandboxes.statistics().by_state[State.RUNNING] == len(made)
    for sandbox in made:
        await plane.sandboxes.delete(sandbox.id)
    await only_a_full_pool_is_left(home, plane)


async def test_a_warm_container_that_dies(engine: FakeEngine, home: Home, plane: ControlPlane) -> None:
    """It is replaced, and never handed out."""
    victim, other = sorted(plane.pool.warm_ids())
    container = next(one for one in engine.containers.values() if one.spec.sandbox_id == victim)
    await engine.die(container.told.id)
    sandbox = await plane.sandboxes.create(a_request())
    assert sandbox.id == other
    await plane.sandboxes.delete(sandbox.id)
    await only_a_full_pool_is_left(home, plane)


async def test_a_claimed_container_that_dies(engine: FakeEngine, plane: ControlPlane) -> None:
    """Its sandbox fails, with the exit code of process 1."""
    sandbox = await plane.sandboxes.create(a_request())
    await engine.die(sandbox.container_id)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
    assert plane.sandboxes.get(sandbox.id).message == "the container ended with exit code 137"


async def test_a_request_under_way_when_the_container_dies(engine: FakeEngine, plane: ControlPlane) -> None:
    """It ends with an error instead of hanging."""
    sandbox = await plane.sandboxes.create(a_request())
    async with await plane.relay.open(sandbox.id, ProcessStart(id="p", shell="sleep 1000")) as stream:
        await stream.expect(ProcessStarted)
        waiting = asyncio.ensure_future(stream.receive())
        await engine.die(sandbox.container_id)
        await asyncio.wait([waiting], timeout=10)
        assert waiting.done()
        assert waiting.exception() is not None


async def test_an_agent_that_hangs_while_it_is_claimed(
    engine: FakeEngine, home: Home, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The create fails in bounded time, its container is removed, frozen as it is."""
    monkeypatch.setattr("controlplane.lifecycle.entrypoints.CLAIM_TIMEOUT_S", 0.2)
    for container in engine.containers.values():
        engine.freeze(container.told.id)
    with pytest.raises(StartFailed, match="did not take the claim"):
        await plane.sandboxes.create(a_request())
    await until(lambda: plane.sandboxes.list() == [])


async def test_a_restart_takes_everything_over(home: Home, engine: FakeEngine) -> None:
    """As after `kill -9`: same sandbox, same deadline, same processes; warm ones serve; the entrypoint is followed."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request(timeout_s=600, entrypoint=("sh", "-c", "sleep 1000; exit 5")))
        async with await plane.relay.open(
            sandbox.id, ProcessStart(id="kept", shell="echo $$; sleep 1000", background=True)
        ) as stream:
            pid = (await stream.expect(ProcessStarted)).pid
        await plane.pool.wait_full()
        warm = plane.pool.warm_ids()
        home.driver.cut = True
    async with home.run() as plane:
        assert plane.sandboxes.list() == [sandbox]
        assert plane.pool.warm_ids() == warm
        assert sandbox.expires_at is not None
        assert plane.deadlines.next_due() == sandbox.expires_at.timestamp()
        kept = await plane.relay.call(sandbox.id, ProcessList(id="kept"), ProcessState)
        assert (kept.pid, kept.exited) == (pid, None)
        entrypoint = await plane.relay.call(sandbox.id, ProcessList(id="entrypoint"), ProcessState)
        os.killpg(entrypoint.pid, signal.SIGTERM)
        await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
        assert plane.sandboxes.get(sandbox.id).message == "the entrypoint ended: signal, exit code 143"
    assert containers(engine) == set()


async def test_an_entrypoint_that_ended_while_nobody_looked(home: Home, engine: FakeEngine) -> None:
    """execd tells the next control plane how."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request(entrypoint=FOREVER))
        entrypoint = await plane.relay.call(sandbox.id, ProcessList(id="entrypoint"), ProcessState)
        home.driver.cut = True
    os.killpg(entrypoint.pid, signal.SIGKILL)
    async with home.run() as plane:
        await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
        assert plane.sandboxes.get(sandbox.id).message == "the entrypoint ended: signal, exit code 137"


async def test_five_restarts_leak_nothing(home: Home, engine: FakeEngine) -> None:
    """Cut off in different places: in the end there are the sandboxes that were made, and a pool."""
    kept = []
    for number in range(5):
        async with home.run() as plane:
            kept.append(await plane.sandboxes.create(a_request(timeout_s=600)))
            doomed = await plane.sandboxes.create(a_request(timeout_s=600))
            if number % 2:
                await plane.pool.wait_full()
            home.driver.cut = True
            await plane.sandboxes.delete(doomed.id)
    async with home.run() as plane:
        ids = {sandbox.id for sandbox in kept}
        await until(lambda: {sandbox.id for sandbox in plane.sandboxes.list()} == ids)
        await until(lambda: containers(engine) == ids | plane.pool.warm_ids())
        assert len(plane.pool.warm_ids()) == 2
        for sandbox in kept:
            assert await run(plane, sandbox, "echo here") == "here\n"


async def test_files_can_be_described(plane: ControlPlane) -> None:
    """A request with one reply, over the relay."""
    sandbox = await plane.sandboxes.create(a_request())
    info = await plane.relay.call(sandbox.id, FileStat(paths=("/etc/passwd",)), FileInfo)
    assert info.path == "/etc/passwd"


async def test_an_orderly_stop(home: Home, engine: FakeEngine) -> None:
    """Warm containers end with the server, sandboxes do not."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request(timeout_s=600))
        await plane.pool.wait_full()
        assert len(engine.containers) == 3
    assert containers(engine) == {sandbox.id}
    assert {path.name for path in home.sockets.iterdir()} == {sandbox.id}
