"""Contexts over a real link, whatever their runners do: a toy in plain Python that can be told to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from controlplane.errors import AgentError
from controlplane.link.link import Link
from controlplane.link.stream import Data, Stream
from execd.kernel import kernel
from execd.kernel.runner import progress
from execd.kernel.serve import Contexts
from execd.kernel.table import MAX_CONTEXTS, MAX_REMEMBERED
from execd.launch.environment import Environment
from execd.process.limits import Limits
from execd.process.reap import Reaper
from execd.wire.messages import (
    CodeFrame,
    ContextClose,
    ContextDone,
    ContextError,
    ContextInterrupt,
    ContextList,
    ContextOpen,
    ContextResult,
    ContextRun,
    ContextState,
    Done,
    SandboxClaim,
)
from tests.support.agent.execd_link import ControlPlaneEnd, collect, control_plane_of, note

pytestmark = pytest.mark.timeout(60)

TOY = Path(__file__).parents[2] / "support" / "agent" / "toy_kernel.py"

LOOP = "while True: time.sleep(0.01)"
STUBBORN = "signal.signal(signal.SIGINT, signal.SIG_IGN); say({'type': 'display', 'data': {}})\n" + LOOP


class Finished(NamedTuple):
    """What one run gave, in order."""

    items: list[Data | ContextResult | ContextError]
    done: ContextDone

    @property
    def stdout(self) -> str:
        return b"".join(item.data for item in self.items if isinstance(item, Data) and item.channel == 1).decode()

    @property
    def stderr(self) -> str:
        return b"".join(item.data for item in self.items if isinstance(item, Data) and item.channel == 2).decode()


class Sandbox:
    """A link to contexts in the languages toy (spawned), forked (by a zygote) and such as misbehave."""

    def __init__(self, contexts: Contexts, environment: Environment, end: ControlPlaneEnd, link: Link) -> None:
        self.contexts = contexts
        self.environment = environment
        self.end = end
        self.link = link

    async def open(self, context_id: str, language: str = "toy", cwd: str = "") -> ContextState:
        async with asyncio.timeout(20):
            return await self.link.call(ContextOpen(context_id, language, cwd), ContextState)

    async def start(self, context_id: str, code: str, timeout_s: float | None = None) -> Stream:
        return await self.link.open(ContextRun(context_id, code, timeout_s))

    async def run(self, context_id: str, code: str, timeout_s: float | None = None) -> Finished:
        async with asyncio.timeout(20), await self.start(context_id, code, timeout_s) as stream:
            return await finish(stream)

    async def list(self, **which: str) -> list[ContextState]:
        async with asyncio.timeout(10), await self.link.open(ContextList(**which)) as stream:
            return await collect(stream, ContextState)

    async def close(self, context_id: str = "", language: str = "") -> None:
        async with asyncio.timeout(10):
            await self.link.call(ContextClose(context_id, language), Done)

    async def refused(self, request: Any) -> AgentError:
        async with asyncio.timeout(30), await self.link.open(request) as stream:
            with pytest.raises(AgentError) as caught:
                await stream.receive()
        return caught.value


async def finish(stream: Stream) -> Finished:
    items: list[Data | ContextResult | ContextError] = []
    item = None
    try:
        while (item := await stream.receive()) is not None:
            if isinstance(item, ContextDone):
                assert await stream.receive() is None
                return Finished(items, item)
            assert isinstance(item, Data | ContextResult | ContextError)
            items.append(item)
        pytest.fail("the stream ended without context.done")
    finally:
        note(item, items)


async def shown(stream: Stream) -> None:
    """Wait until a run has shown something: it is in the middle of its code then."""
    while not isinstance(await stream.receive(), ContextResult):
        pass


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], Awaitable[object] | object]) -> None:
    """Wait, not long, for what happens in other processes and tells nobody here."""
    async with asyncio.timeout(20):
        while True:
            value = condition()
            if await value if isinstance(value, Awaitable) else value:
                return
            await asyncio.sleep(0.01)


async def gone(pid: int) -> None:
    await until(lambda: not is_alive(pid))


async def has_none(sandbox: Sandbox) -> bool:
    return not await sandbox.list()


def children_of(pid: int) -> set[int]:
    with contextlib.suppress(OSError):
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return set()


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    command = f'command = ["{sys.executable}", "-I", "-S", "{TOY}"'
    settings = {
        "toy": "",
        "forked": "zygote = true",
        "spared": "zygote = true\nspare = true\neager = true",
        "talking": 'interrupt = "message"',
        "layered": f'zygote = true\nspare = true\npreload = ["{tmp_path}/library"]',
    }
    os.mkfifo(tmp_path / "library")
    for language, more in settings.items():
        (kernels / f"{language}.toml").write_text(f'language = "{language}"\n{command}]\n{more}')
    for mistake in ("crash", "protocol", "failed"):
        (kernels / f"{mistake}.toml").write_text(f'language = "{mistake}"\n{command}, "{mistake}"]')
    (kernels / "hang.toml").write_text(f'language = "hang"\n{command}, "hang"]')
    for mistake in ("zygote-crash", "zygote-protocol", "zygote-hang", "nonsense", "no-fork"):
        how = mistake if mistake == "zygote-protocol" else mistake.removeprefix("zygote-")
        (kernels / f"{mistake}.toml").write_text(f'language = "{mistake}"\nzygote = true\n{command}, "{how}"]')
    (kernels / "missing.toml").write_text('language = "missing"\ncommand = ["/no/such/program"]')
    (kernels / "wrong.toml").write_text('language = "wrong"\ncommand = 1')
    reaper = Reaper()
    environment = Environment({**os.environ, "FROM_IMAGE": "1"}, str(tmp_path))
    contexts = Contexts(reaper, environment, str(kernels))
    async with control_plane_of(contexts.handlers()) as end:
        yield Sandbox(contexts, environment, end, await end.next_link())
        await contexts.table.shutdown()
    reaper.close()


async def test_a_context_keeps_its_state(sandbox: Sandbox) -> None:
    state = await sandbox.open("a")
    assert (state.id, state.language, state.busy) == ("a", "toy", False)
    assert is_alive(state.pid)

    assert (await sandbox.run("a", "x = 20")).done.cause == "ok"
    second = await sandbox.run("a", "print(x + 1)")

    assert second.stdout == "21\n"
    assert (second.done.cause, second.done.execution_count) == ("ok", 2)


@pytest.mark.parametrize("language", ["toy", "forked", "spared"])
async def test_environment_and_working_directory_are_those_of_the_sandbox(
    sandbox: Sandbox, tmp_path: Path, language: str
) -> None:
    """Also when zygote and spare were started before the claim brought them."""
    await sandbox.contexts.table.prepare()
    await sandbox.open("before", language)
    sandbox.environment.bind(SandboxClaim("s", env={"FROM_CLAIM": "2"}).env)
    (tmp_path / "work").mkdir()
    await sandbox.open("a", language, cwd="work")

    run = await sandbox.run("a", "print(os.environ['FROM_IMAGE'], os.environ['FROM_CLAIM'], os.getcwd())")

    assert run.stdout == f"1 2 {tmp_path}/work\n"
    assert (await sandbox.run("before", "print(os.environ.get('FROM_CLAIM'))")).stdout == "None\n"


async def test_output_and_messages_arrive_in_the_order_in_which_they_were_made(sandbox: Sandbox) -> None:
    await sandbox.open("a")

    run = await sandbox.run(
        "a",
        "for i in range(50):\n"
        "    print(i, flush=True)\n"
        "    say({'type': 'display', 'data': {'text/plain': str(i)}, 'ack': i + 1})\n"
        "    assert hear() == {'op': 'ack', 'ack': i + 1}\n",
    )

    order = [item.data.decode() if isinstance(item, Data) else item.data["text/plain"] for item in run.items]  # type: ignore[union-attr]
    assert "".join(order) == "".join(f"{i}\n{i}" for i in range(50))


async def test_runs_of_one_context_queue_in_order_and_another_context_goes_on(sandbox: Sandbox, tmp_path: Path) -> None:
    await sandbox.open("a")
    await sandbox.open("b")
    os.mkfifo(tmp_path / "fifo")
    first = await sandbox.start(
        "a", f"x = [1]; say({{'type': 'display', 'data': {{}}}}); open('{tmp_path}/fifo').read()"
    )
    second = await sandbox.start("a", "x.append(2)")
    third = await sandbox.start("a", "x.append(3); print(x)")
    await shown(first)

    assert [(one.id, one.busy) for one in await sandbox.list()] == [("a", True), ("b", False)]
    assert (await sandbox.run("b", f"open('{tmp_path}/fifo', 'w').close()")).done.cause == "ok"

    async with asyncio.timeout(20):
        assert [(await finish(stream)).done.cause for stream in (first, second)] == ["ok", "ok"]
        assert (await finish(third)).stdout == "[1, 2, 3]\n"


async def test_a_slow_reader_stops_its_own_context_only(sandbox: Sandbox) -> None:
    await sandbox.open("a")
    await sandbox.open("b")
    flood = await sandbox.start("a", "for i in range(100): print('x' * 100_000, flush=True)\nprint('end')")
    await flood.receive()

    assert (await sandbox.run("b", "print(1)")).stdout == "1\n"
    async with asyncio.timeout(30):
        assert (await finish(flood)).stdout.endswith("x\nend\n")


async def test_interrupt_keeps_the_state_and_without_a_run_does_nothing(sandbox: Sandbox) -> None:
    await sandbox.open("a")
    await sandbox.link.call(ContextInterrupt("a"), Done)
    stream = await sandbox.start("a", "x = 5; say({'type': 'display', 'data': {}})\n" + LOOP)
    await shown(stream)

    await sandbox.link.call(ContextInterrupt("a"), Done)

    async with asyncio.timeout(10):
        assert (await finish(stream)).done.cause == "interrupted"
    assert (await sandbox.run("a", "print(x)")).stdout == "5\n"


async def test_a_runner_may_be_interrupted_by_message_alone(sandbox: Sandbox) -> None:
    await sandbox.open("a", "talking")
    waiting = "say({'type': 'display', 'data': {}}); heard = hear(); print(heard == {'op': 'interrupt', 'id': number})"
    stream = await sandbox.start("a", waiting)
    await shown(stream)

    await sandbox.link.call(ContextInterrupt("a"), Done)

    async with asyncio.timeout(10):
        assert (await finish(stream)).stdout == "True\n"


async def test_a_timeout_interrupts_and_says_so(sandbox: Sandbox) -> None:
    await sandbox.open("a")

    run = await sandbox.run("a", "x = 6\n" + LOOP, timeout_s=0.5)

    assert run.done.cause == "timeout"
    assert run.done.wall_s >= 0.5
    assert (await sandbox.run("a", "print(x)")).stdout == "6\n"


async def test_code_that_ignores_the_interrupt_of_its_timeout_costs_the_context(sandbox: Sandbox) -> None:
    state = await sandbox.open("a")
    await sandbox.open("b")

    run = await sandbox.run("a", STUBBORN, timeout_s=0.5)

    assert (run.done.cause, run.done.died_of) == ("timeout", "killed")
    assert run.done.peak_memory_bytes > 1_000_000
    assert "its time was up, and did not stop within 5 s" in run.done.message
    await gone(state.pid)
    error = await sandbox.refused(ContextRun("a", "1"))
    assert (error.code, "did not stop within 5 s" in error.message) == ("context.not_found", True)
    assert (await sandbox.run("b", "print(1)")).stdout == "1\n"


async def test_a_client_that_reads_slowly_past_the_timeout_costs_nobody_the_context(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the code is done and only its output waits, or it is blocked by its own output."""
    monkeypatch.setattr(kernel, "STOP_S", 1.0)
    contexts = {"done": "y = 1; print('x' * 300_000)", "blocked": "y = 1\nwhile True: print('x' * 100_000, flush=True)"}
    streams = {}
    for name, code in contexts.items():
        await sandbox.open(name)
        streams[name] = await sandbox.start(name, code, timeout_s=1)

    await asyncio.sleep(2.5)  # nobody reads until both limits have passed, which must not hurt

    async with asyncio.timeout(20):
        done, blocked = [await finish(stream) for stream in streams.values()]
    assert (done.done.cause, len(done.stdout)) == ("ok", 300_001)
    assert blocked.done.cause == "timeout"
    for name in contexts:
        assert (await sandbox.run(name, "print(y)")).stdout == "1\n"


async def test_a_client_that_goes_away_interrupts_its_run_or_takes_it_out_of_the_queue(sandbox: Sandbox) -> None:
    await sandbox.open("a")
    running = await sandbox.start("a", "x = [1]; say({'type': 'display', 'data': {}})\n" + LOOP)
    await shown(running)
    queued = await sandbox.start("a", "x.append(2)")
    last = await sandbox.start("a", "print(x)")

    queued.close()
    running.close()

    async with asyncio.timeout(10):
        assert (await finish(last)).stdout == "[1]\n"


async def test_a_run_whose_client_has_gone_before_it_came_does_not_begin(sandbox: Sandbox) -> None:
    await sandbox.open("a")

    (await sandbox.start("a", "1")).close()  # in one packet

    assert (await sandbox.run("a", "print(number, heard)")).stdout == "1 []\n"


@pytest.mark.parametrize("reason", ["interrupt", "time_out"])
async def test_an_end_that_execd_has_not_read_yet_is_not_interrupted(sandbox: Sandbox, reason: str) -> None:
    await sandbox.open("a")
    stream = await sandbox.start("a", "say({'type': 'display', 'data': {}}); time.sleep(0.1)")
    await shown(stream)
    running = sandbox.contexts.table.find("a")
    # Nothing else in this loop runs meanwhile.
    assert select.select([running._alive.runner.channel.fileno()], [], [], 20)[0]

    if reason == "interrupt":
        running.interrupt()
    else:
        assert running._run is not None
        running._time_out(running._run)

    async with asyncio.timeout(10):
        assert (await finish(stream)).done.cause == "ok"
    assert (await sandbox.run("a", "print(heard)")).stdout == "[]\n"


async def test_what_a_runner_breaks_is_noticed_when_its_time_is_up(sandbox: Sandbox) -> None:
    await sandbox.open("a")
    stream = await sandbox.start("a", "say({'type': 'display', 'data': {}}); time.sleep(0.1); say(b'x\\n'); hear()")
    await shown(stream)
    running = sandbox.contexts.table.find("a")
    assert select.select([running._alive.runner.channel.fileno()], [], [], 20)[0]

    assert running._run is not None
    running._time_out(running._run)

    async with asyncio.timeout(10):
        assert (await finish(stream)).done.died_of == "protocol"


async def test_a_stubborn_run_that_nobody_waits_for_is_killed(sandbox: Sandbox) -> None:
    state = await sandbox.open("a")
    running = await sandbox.start("a", STUBBORN)
    await shown(running)

    running.close()

    await gone(state.pid)
    error = await sandbox.refused(ContextRun("a", "1"))
    assert "its client had gone, and did not stop within 5 s" in error.message


async def test_a_client_that_floods_and_goes_away_without_reading_leaves_a_usable_context(sandbox: Sandbox) -> None:
    await sandbox.open("a")
    flood = await sandbox.start("a", "x = 7\nwhile True: print('x' * 100_000, flush=True)")
    await flood.receive()

    flood.close()

    assert (await sandbox.run("a", "print(x)")).stdout.endswith("7\n")


@pytest.mark.parametrize("language", ["toy", "forked"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("os._exit(3)", "its process exited with status 3"),
        ("os.kill(os.getpid(), 11)", "its process was killed by SIGSEGV (Segmentation fault)"),
        ("os.kill(os.getpid(), 9)", "its process was killed by SIGKILL (Killed)"),
    ],
)
async def test_the_death_of_a_process_is_told_with_its_cause(
    sandbox: Sandbox, language: str, code: str, expected: str
) -> None:
    """… after what it printed; what waits is refused, other contexts live on, and the name is free."""
    await sandbox.open("a", language)
    await sandbox.open("b", language)
    run = await sandbox.start("a", f"print('last words', flush=True); {code}")
    waiting = await sandbox.start("a", "1")

    async with asyncio.timeout(20):
        finished = await finish(run)
        assert (finished.stdout, finished.done.cause, finished.done.message) == ("last words\n", "died", expected)
        with pytest.raises(AgentError) as caught:
            await waiting.receive()
    assert caught.value.code == "context.not_found"
    assert expected in caught.value.message
    assert expected in (await sandbox.refused(ContextRun("a", "1"))).message
    assert [one.id for one in await sandbox.list()] == ["b"]
    assert (await sandbox.run("b", "print(1)")).stdout == "1\n"
    await sandbox.open("a", language)
    assert (await sandbox.run("a", "print(2)")).stdout == "2\n"


async def test_a_death_is_noticed_between_runs_and_behind_a_child_that_holds_everything_open(sandbox: Sandbox) -> None:
    state = await sandbox.open("a", "forked")
    code = "child = os.fork()\nif not child:\n    os.setsid()\n    time.sleep(30)\n    os._exit(0)\nprint(child)"
    child = int((await sandbox.run("a", code)).stdout)
    try:
        os.kill(state.pid, signal.SIGKILL)
        await until(lambda: has_none(sandbox))
        assert "killed by SIGKILL" in (await sandbox.refused(ContextRun("a", "1"))).message
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("say(b'nonsense\\n')", "an undecodable message"),
        ("say({'type': 'surprise'})", "an undecodable message"),
        ("say({'type': 'started'})", "said Started out of turn"),
        ("say({'type': 'done', 'id': 99, 'status': 'ok'})", "said RunDone out of turn"),
        ("say({'type': 'done', 'id': number, 'status': 'fine'})", "said RunDone out of turn"),
        ("say(b'x' * (17 * 1024 * 1024))", "a line of more than"),
        ("channel.shutdown(2); time.sleep(60)", "has closed the channel"),
    ],
)
async def test_a_runner_that_breaks_the_rules_ends_its_own_context_only(
    sandbox: Sandbox, code: str, expected: str
) -> None:
    state = await sandbox.open("a")
    await sandbox.open("b")

    run = await sandbox.run("a", code + "\ntime.sleep(60)")

    assert run.done.cause == "died"
    assert expected in run.done.message
    await gone(state.pid)
    assert (await sandbox.run("b", "print(1)")).stdout == "1\n"


async def test_what_is_printed_between_runs_comes_with_the_next_one(sandbox: Sandbox) -> None:
    await sandbox.open("a")
    code = (
        "import threading\nthreading.Timer(0.05, lambda: (print('late', flush=True), open('{0}', 'w').close())).start()"
    )
    mark = Path(sandbox.environment.prepare().cwd) / "mark"
    await sandbox.run("a", code.format(mark))
    await until(mark.exists)

    assert (await sandbox.run("a", "print('now')")).stdout == "late\nnow\n"


async def test_a_background_process_that_prints_much_between_runs_is_never_blocked(sandbox: Sandbox) -> None:
    """The end of what it printed is kept, in whole lines, and what is missing is said."""
    await sandbox.open("a")
    mark = Path(sandbox.environment.prepare().cwd) / "mark"
    code = f"import subprocess; subprocess.Popen('seq 1 400000; touch {mark}', shell=True)"
    begun = await sandbox.run("a", code)  # and what `seq` prints at once
    await until(mark.exists)

    run = await sandbox.run("a", "print('now')")

    whole = "".join(f"{i}\n" for i in range(1, 400_001)) + "now\n"
    dropped = len(whole) - len(begun.stdout) - len(run.stdout)
    assert whole.startswith(begun.stdout)
    assert whole.endswith("\n" + run.stdout)
    assert run.stdout.startswith("2")  # 1 MiB, not the 64 KiB that begin with a 3
    said = f"[sandlot: {dropped} bytes that were printed on stdout between runs are dropped; the end follows]\n"
    assert run.stderr == said


async def test_what_is_shown_between_runs_comes_with_the_next_one(sandbox: Sandbox) -> None:
    """A thread that waits for an acknowledgement gets it at once."""
    await sandbox.open("a")
    mark = Path(sandbox.environment.prepare().cwd) / "mark"
    show = "say({'type': 'display', 'data': {'text/plain': 'late'}, 'display_id': 'd', 'ack': 1})"
    await sandbox.run(
        "a", f"import threading\nthreading.Timer(0.05, lambda: ({show}, open('{mark}', 'w').close())).start()"
    )
    await until(mark.exists)
    run = await sandbox.run("a", "print(heard or hear())")

    assert [item.data["text/plain"] for item in run.items if isinstance(item, ContextResult)] == ["late"]
    assert "'ack': 1" in run.stdout


async def test_a_message_of_many_megabytes_arrives_whole(sandbox: Sandbox) -> None:
    await sandbox.open("a")

    run = await sandbox.run("a", "say({'type': 'result', 'data': {'text/plain': 'x' * 15_000_000}, 'count': 1})")

    assert [len(item.data["text/plain"]) for item in run.items if isinstance(item, ContextResult)] == [15_000_000]


async def test_close_kills_the_process_group_and_frees_the_name(sandbox: Sandbox) -> None:
    state = await sandbox.open("a")
    started = await sandbox.run("a", "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)")
    stream = await sandbox.start("a", "say({'type': 'display', 'data': {}})\n" + LOOP)
    await shown(stream)

    await sandbox.close("a")

    assert not is_alive(state.pid)
    await gone(int(started.stdout))
    async with asyncio.timeout(10):
        done = (await finish(stream)).done
    assert (done.cause, done.message) == ("died", "it was closed")
    error = await sandbox.refused(ContextRun("a", "1"))
    assert (error.code, error.message) == ("context.not_found", "context a is gone: it was closed")
    await sandbox.open("a")


async def test_list_and_close_choose_by_id_language_or_all(sandbox: Sandbox) -> None:
    for context_id, language in (("a", "toy"), ("b", "forked"), ("c", "toy")):
        await sandbox.open(context_id, language)

    assert [one.id for one in await sandbox.list()] == ["a", "b", "c"]
    assert [one.id for one in await sandbox.list(language="TOY")] == ["a", "c"]
    assert [one.id for one in await sandbox.list(id="b")] == ["b"]
    await sandbox.close(language="toy")
    assert [one.id for one in await sandbox.list()] == ["b"]


async def test_what_cannot_be_is_refused_by_code(sandbox: Sandbox, tmp_path: Path) -> None:
    await sandbox.open("a")

    refusals = [
        (ContextOpen("a", "toy"), "context.duplicate", "context a exists"),
        (ContextOpen("b", "cobol"), "context.unsupported", "it has bash, crash, failed, forked"),
        (ContextOpen("b", "wrong"), "context.unsupported", "wrong.toml:2: command: expected `array`, got `int`"),
        (ContextOpen("b", "toy", cwd="$NO_SUCH"), "request.invalid", "NO_SUCH"),
        (ContextOpen("b", "missing"), "context.start_failed", "/no/such/program: No such file"),
        (ContextOpen("b", "crash"), "context.start_failed", "exited with status 1"),
        (ContextOpen("b", "protocol"), "context.start_failed", "does not speak protocol 1"),
        (ContextOpen("b", "failed"), "context.refused", "toy: not today"),
        (ContextOpen("b", "zygote-crash"), "context.start_failed", "status 1; it said: toy: no such library"),
        (ContextOpen("b", "zygote-protocol"), "context.start_failed", "speaks protocol 2, not 1"),
        (ContextOpen("b", "nonsense"), "context.start_failed", "its zygote sent an undecodable message"),
        (ContextOpen("b", "no-fork"), "context.start_failed", "fork: no room"),
        (ContextRun("b", "1"), "context.not_found", "context b is gone: no-fork: fork: no room"),
        (ContextRun("never", "1"), "context.not_found", "context never does not exist"),
        (ContextInterrupt("never"), "context.not_found", "context never does not exist"),
        (ContextClose("never"), "context.not_found", "context never does not exist"),
        (ContextList(id="never"), "context.not_found", "context never does not exist"),
        (ContextList(language="cobol"), "context.unsupported", "cobol"),
    ]
    for request, code, words in refusals:
        error = await sandbox.refused(request)
        assert (error.code, words in error.message) == (code, True), (request, error.message)
    assert [one.id for one in await sandbox.list()] == ["a"]


async def test_there_is_a_limit_to_contexts_and_to_what_is_remembered_of_them(sandbox: Sandbox) -> None:
    for number in range(MAX_CONTEXTS):
        await sandbox.open(f"c{number}", "forked")

    assert (await sandbox.refused(ContextOpen("more", "forked"))).code == "context.too_many"
    await sandbox.close(language="forked")
    for number in range(4):
        await sandbox.open(f"d{number}", "forked")
        await sandbox.close(f"d{number}")

    assert MAX_CONTEXTS == MAX_REMEMBERED
    assert "does not exist" in (await sandbox.refused(ContextRun("c0", "1"))).message
    assert "was closed" in (await sandbox.refused(ContextRun("c63", "1"))).message


async def test_contexts_outlive_a_lost_link_and_their_present_run_does_not(sandbox: Sandbox) -> None:
    await sandbox.open("a")
    stream = await sandbox.start("a", "x = 8; say({'type': 'display', 'data': {}})\n" + LOOP)
    await shown(stream)

    await sandbox.link.aclose()
    sandbox.link = await sandbox.end.next_link()

    assert [one.id for one in await sandbox.list()] == ["a"]
    assert (await sandbox.run("a", "print(x)")).stdout == "8\n"


async def test_contexts_outlive_their_zygote_and_new_ones_get_another(sandbox: Sandbox) -> None:
    await sandbox.open("a", "forked")
    zygote = int((await sandbox.run("a", "x = 9; print(os.getppid())")).stdout)

    os.kill(zygote, signal.SIGKILL)
    await gone(zygote)

    assert (await sandbox.run("a", "print(x)")).stdout == "9\n"
    await sandbox.open("b", "forked")
    assert int((await sandbox.run("b", "print(os.getppid())")).stdout) not in (0, zygote)
    # Only PID 1 hears how an orphan ends, but that it does is noticed.
    assert (await sandbox.run("a", "os._exit(1)")).done.cause == "died"


async def test_a_runner_may_say_more_of_an_error_of_a_display_and_of_an_end(sandbox: Sandbox) -> None:
    await sandbox.open("a")

    run = await sandbox.run(
        "a",
        "say({'type': 'display', 'data': {'text/plain': '1'}, 'display_id': 'd'})\n"
        "say({'type': 'display', 'data': {'text/plain': '2'}, 'display_id': 'd', 'update': True})\n"
        "say({'type': 'error', 'name': 'E', 'value': 'v', 'frames': [['f.toy', 3, 'g', 'h()'], ['f.toy', 5]]})\n"
        "say({'type': 'done', 'id': number, 'status': 'error', 'exit_code': 3, 'peak_memory_bytes': 1 << 40})\n"
        "hear()",
    )

    assert run.items == [
        ContextResult("display", {"text/plain": "1"}, display_id="d"),
        ContextResult("display", {"text/plain": "2"}, display_id="d", update=True),
        ContextError("E", "v", (), (CodeFrame("f.toy", 3, "g", "h()"), CodeFrame("f.toy", 5))),
    ]
    assert (run.done.cause, run.done.exit_code, run.done.peak_memory_bytes) == ("error", 3, 1 << 40)


@pytest.mark.parametrize(
    "message",
    [
        "{'type': 'done', 'id': number, 'status': 'ok', 'count': 10**30}",
        "{'type': 'done', 'id': number, 'status': 'ok', 'exit_code': -1}",
        "{'type': 'error', 'name': 'E', 'value': 'v', 'frames': [['f', 10**30]]}",
        "{'type': 'display', 'data': {}, 'ack': 1 << 64}",
    ],
)
async def test_numbers_that_cannot_be_passed_on_cost_the_runner_its_context(sandbox: Sandbox, message: str) -> None:
    await sandbox.open("a")

    run = await sandbox.run("a", f"say({message}); hear()")

    assert (run.done.cause, run.done.died_of) == ("died", "protocol")
    assert "undecodable" in run.done.message


async def test_the_id_of_a_display_is_cut(sandbox: Sandbox) -> None:
    await sandbox.open("a")

    run = await sandbox.run("a", "say({'type': 'display', 'data': {}, 'display_id': 'x' * 1_000_000})")

    assert run.items == [ContextResult("display", {}, display_id="x" * 200)]


@pytest.mark.parametrize("pid", ["1", "os.getpid()", "1 << 40"])
async def test_usage_is_of_the_runner_or_of_its_child_and_of_nobody_else(sandbox: Sandbox, pid: str) -> None:
    """Whatever it says at its start: the limit of numbers ends it, and others it cannot name."""
    sandbox.environment.bind({"TOY_PID": pid})
    if pid == "1 << 40":
        assert "undecodable" in (await sandbox.refused(ContextOpen("a", "toy"))).message
        return
    await sandbox.open("a")
    run = await sandbox.run("a", "kept = bytearray(50 << 20)")
    assert run.done.peak_memory_bytes > 50 << 20


async def test_what_a_run_prints_is_cut_between_characters(sandbox: Sandbox) -> None:
    """A client decodes what it gets: a part of a character would be shown as one that was never printed."""
    sandbox.contexts.table.max_output_bytes = 100
    await sandbox.open("a")

    run = await sandbox.run("a", "print('€' * 50)")

    assert run.stdout == 33 * "€"
    assert run.stderr == "\n[sandlot: this run has printed more than 100 bytes; what follows is dropped]\n"


async def test_what_a_run_shows_is_bounded_as_what_it_prints_is(sandbox: Sandbox) -> None:
    """Where it is cut, a line says so; what it prints has a budget of its own, and the next run has both anew."""
    sandbox.contexts.table.max_output_bytes = 10_000
    await sandbox.open("a")
    code = "for i in range(100): say({'type': 'display', 'data': {'text/plain': 'x' * 734}})\nprint('end')"

    for _ in range(2):
        run = await sandbox.run("a", code)

        assert len([item for item in run.items if isinstance(item, ContextResult)]) == 10
        assert run.stderr == "\n[sandlot: this run has shown more than 10000 bytes; what follows is dropped]\n"
        assert (run.stdout, run.done.cause) == ("end\n", "ok")


async def test_a_client_that_goes_away_while_a_context_starts_leaves_none(sandbox: Sandbox) -> None:
    opening = await sandbox.link.open(ContextOpen("a", "forked"))
    opening.close()

    await until(lambda: has_none(sandbox))
    await sandbox.open("a", "forked")


async def test_a_context_in_the_place_of_one_that_died_says_so_once(sandbox: Sandbox) -> None:
    """Its client may not have heard of the death: it was between two runs."""
    state = await sandbox.open("a")
    assert (await sandbox.run("a", "x = 1")).done.notice == ""
    os.kill(state.pid, signal.SIGKILL)
    await until(lambda: has_none(sandbox))

    await sandbox.open("a")
    notice = (await sandbox.run("a", "1")).done.notice
    assert notice.startswith("context a has begun anew, without what it held: its process was killed by SIGKILL")
    assert (await sandbox.run("a", "1")).done.notice == ""

    await sandbox.close("a")
    await sandbox.open("a")
    assert (await sandbox.run("a", "1")).done.notice == ""


async def test_a_spare_is_used_and_replaced(sandbox: Sandbox) -> None:
    await sandbox.open("a", "spared")
    await sandbox.contexts.table.prepare("spared")
    first = await spare_beside(sandbox, "a")

    assert (await sandbox.open("b", "spared")).pid == first

    assert await spare_beside(sandbox, "a", "b") != first


async def test_contexts_opened_while_the_spare_is_being_made_leave_one_spare(sandbox: Sandbox) -> None:
    preparing = asyncio.ensure_future(sandbox.contexts.table.prepare())
    states = await asyncio.gather(*(sandbox.open(name, "spared") for name in ("a", "b", "c")))
    await preparing
    spare = await spare_beside(sandbox, "a", "b", "c")

    assert spare not in {state.pid for state in states}


async def test_a_spare_that_has_died_is_not_given_out(sandbox: Sandbox) -> None:
    await sandbox.open("a", "spared")
    await sandbox.contexts.table.prepare("spared")
    spare = await spare_beside(sandbox, "a")
    os.kill(spare, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{spare}").exists())

    await sandbox.open("b", "spared")

    assert (await sandbox.run("b", "print(1)")).stdout == "1\n"


async def spare_beside(sandbox: Sandbox, *context_ids: str) -> int:
    """Return the one child of the zygote that is no context, once there is one."""
    contexts = {one.pid for one in await sandbox.list() if one.id in context_ids}
    zygote = int((await sandbox.run(context_ids[0], "print(os.getppid())")).stdout)
    await until(lambda: children_of(zygote) - contexts)
    (spare,) = children_of(zygote) - contexts
    return spare


PRELOADED = "print(os.environ['SANDLOT_PRELOAD'], os.getppid())"


async def born(sandbox: Sandbox, context_id: str) -> tuple[str, int]:
    """Return what the zygote of a context had loaded, and its process id."""
    loaded, _, zygote = (await sandbox.run(context_id, PRELOADED)).stdout.rpartition(" ")
    return loaded, int(zygote)


async def started_after(others: set[int]) -> int:
    """Return the child that this process, execd to its contexts, has more than these, once there is one."""
    await until(lambda: children_of(os.getpid()) - others)
    (pid,) = children_of(os.getpid()) - others
    return pid


def score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def test_a_context_does_not_wait_for_libraries_and_later_ones_have_them(sandbox: Sandbox, tmp_path: Path) -> None:
    """One zygote has loaded nothing, and ends with its contexts when the other has loaded all."""
    preparing = asyncio.ensure_future(sandbox.contexts.table.prepare("layered"))
    await sandbox.open("a", "layered")
    loaded, first = await born(sandbox, "a")
    assert loaded == ""
    await preparing  # its turn is over: contexts work
    preparing = asyncio.ensure_future(sandbox.contexts.table.prepare("layered"))
    await sandbox.open("b", "layered")
    assert await born(sandbox, "b") == ("", first)

    (tmp_path / "library").write_bytes(b"")
    await sandbox.contexts.table.prepare("layered")

    await sandbox.open("c", "layered")
    loaded, second = await born(sandbox, "c")
    assert (loaded, second != first) == (f"{tmp_path}/library", True)
    assert (await sandbox.run("a", "print(1)")).stdout == "1\n"
    await sandbox.close("a")
    assert is_alive(first)
    await sandbox.close("b")
    await gone(first)
    await sandbox.open("d", "layered")
    assert await born(sandbox, "d") == (loaded, second)
    await preparing

    os.kill(second, signal.SIGKILL)
    before = children_of(os.getpid())
    await gone(second)
    await sandbox.open("e", "layered")
    assert (await born(sandbox, "e"))[0] == ""
    await until(lambda: len(children_of(os.getpid()) - before) == 2)  # it loads again by itself


async def test_loading_stands_still_while_contexts_work(sandbox: Sandbox, tmp_path: Path) -> None:
    """And is the first to be killed for want of memory."""
    context = (await sandbox.open("a", "layered")).pid
    before = children_of(os.getpid())
    preparing = asyncio.ensure_future(sandbox.contexts.table.prepare("layered"))
    loader = await started_after(before)
    assert (score_of(loader), is_stopped(loader)) == (1000, False)

    stream = await sandbox.start("a", "say({'type': 'display', 'data': {}})\n" + LOOP)
    await shown(stream)
    await preparing
    await until(lambda: is_stopped(loader))
    stream.close()

    await until(lambda: not is_stopped(loader))
    (tmp_path / "library").write_bytes(b"")
    await sandbox.contexts.table.prepare("layered")
    assert score_of(loader) < 1000
    assert is_alive(context)


async def test_a_zygote_that_is_stopped_when_it_has_just_become_ready_goes_on(sandbox: Sandbox) -> None:
    """It has said that it can fork, and execd has not read that yet."""
    zygote = sandbox.contexts.table._supplies["forked"]._zygote
    assert zygote is not None
    life = zygote._alive()
    assert select.select([life._socket], [], [], 20)[0]
    zygote.hold(is_held=True)
    await zygote.start()
    zygote.hold(is_held=False)
    async with asyncio.timeout(20):
        runner = await zygote.fork()
    runner.close()


async def test_a_context_is_not_lost_when_the_bare_zygote_makes_way(sandbox: Sandbox, tmp_path: Path) -> None:
    """The other one becomes ready while the bare one, which the context waits for, starts."""
    supply = sandbox.contexts.table._supplies["layered"]
    assert supply._zygote is not None
    assert supply._bare is not None
    bare = supply._bare._alive()
    os.kill(bare.pid, signal.SIGSTOP)  # it has no time to become ready
    taking = asyncio.ensure_future(supply.take())
    (tmp_path / "library").unlink()
    (tmp_path / "library").write_bytes(b"")
    await supply._zygote.start()
    supply._bare.retire()
    runner = await taking
    assert bare.over
    runner.close()


@pytest.mark.parametrize("language", ["hang", "zygote-hang"])
async def test_what_does_nothing_while_it_starts_is_given_up(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    monkeypatch.setattr(progress, "TICK_S", 0.05)
    error = await sandbox.refused(ContextOpen("a", language))
    assert (error.code, "did nothing for 0.6 s" in error.message) == ("context.start_failed", True)


async def test_a_zygote_that_was_killed_for_want_of_memory_says_so(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counts = tmp_path / "memory.events"
    counts.write_text("oom_kill 0\n")
    limits = Limits((str(counts),), ())
    monkeypatch.setattr(sandbox.contexts.table._supplies["zygote-hang"]._zygote, "_limits", limits)
    before = children_of(os.getpid())
    opening = await sandbox.link.open(ContextOpen("a", "zygote-hang"))
    zygote = await started_after(before)
    counts.write_text("oom_kill 1\n")
    os.kill(zygote, signal.SIGKILL)
    with pytest.raises(AgentError, match=r"was killed by SIGKILL .*: the sandbox was out of memory"):
        await opening.receive()
    opening.close()


async def test_shutdown_ends_everything(sandbox: Sandbox) -> None:
    await sandbox.contexts.table.prepare()
    state = await sandbox.open("a", "spared")
    zygote = int((await sandbox.run("a", "print(os.getppid())")).stdout)

    await sandbox.contexts.table.shutdown()

    await gone(state.pid)
    await gone(zygote)
