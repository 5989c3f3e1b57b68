"""What a live Python context can do beside running code: be copied, asked, answered, begun anew; and what runs cost."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.errors import AgentError
from execd.wire.messages import (
    ContextComplete,
    ContextCompletion,
    ContextFork,
    ContextInput,
    ContextInspect,
    ContextInspection,
    ContextList,
    ContextPrompt,
    ContextRestart,
    ContextRun,
    ContextState,
    Done,
)
from tests.integration.execd.test_context import (
    Context,
    Finished,
    Sandbox,
    context,
    finish,
    printed,
    sandbox,
)

__all__ = ["context", "sandbox"]  # fixtures

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


async def fork(sandbox: Sandbox, source: Context, *ids: str) -> list[Context]:
    async with asyncio.timeout(60), await sandbox.link.open(ContextFork(source.id, ids)) as stream:
        copies = [Context(sandbox, await stream.expect(ContextState)) for _ in ids]
        assert await stream.receive() is None
    return copies


async def count_contexts(sandbox: Sandbox) -> int:
    count = 0
    async with await sandbox.link.open(ContextList()) as stream:
        while await stream.receive() is not None:
            count += 1
    return count


# -- copies


async def test_copies_have_the_state_and_go_their_own_ways(sandbox: Sandbox, context: Context) -> None:
    await context.run("import os; x = [1]; here = os.getpid(); await __import__('asyncio').sleep(0)")
    one, two = await fork(sandbox, context, "one", "two")

    assert (await one.run("x.append(2); x, os.getpid() == here")).text == "([1, 2], False)"
    assert (await two.run("x.append(3); import asyncio; await asyncio.sleep(0); x")).text == "[1, 3]"
    assert (await context.run("import asyncio; await asyncio.sleep(0); x, os.getpid() == here")).text == "([1], True)"
    assert [copy.pid for copy in (one, two)] == [int((await copy.run("os.getpid()")).text) for copy in (one, two)]

    await context.close()
    assert (await one.run("print('out')\n!echo child")).printed() == "out\nchild\n"
    (grandchild,) = await fork(sandbox, one, "three")
    assert (await grandchild.run("x")).text == "[1, 2]"
    for copy in (one, two, grandchild):
        await copy.close()


async def test_a_copy_is_made_between_runs_in_their_order(sandbox: Sandbox, context: Context) -> None:
    busy = await context.start("import time; print('go'); time.sleep(0.2); y = 'first'")
    await printed(busy)
    forking = asyncio.ensure_future(fork(sandbox, context, "ordered"))
    async with asyncio.timeout(30):
        await finish(busy)
        (copy,) = await forking
    assert (await copy.run("y")).text == "'first'"
    await copy.close()


async def test_a_copy_can_be_interrupted_and_killed_alone(sandbox: Sandbox, context: Context) -> None:
    await context.run("x = 1")
    (copy,) = await fork(sandbox, context, "alone")
    stream = await copy.start("print('go')\nwhile True: pass")
    await printed(stream)
    await copy.interrupt()
    async with asyncio.timeout(30):
        assert (await finish(stream)).done.cause == "interrupted"
    assert (await copy.run("x")).text == "1"

    died = await copy.run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (died.done.cause, died.done.died_of, died.done.exit_code) == ("died", "signal", 139)
    assert (await context.run("x")).text == "1"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import threading; threading.Thread(target=threading.Event().wait, name='mine', daemon=True).start()", "mine"),
        (
            "import asyncio; task = asyncio.get_running_loop().create_task(asyncio.sleep(99)); await asyncio.sleep(0)",
            "task",
        ),
    ],
)
async def test_what_goes_on_beside_runs_makes_a_copy_impossible(
    sandbox: Sandbox, context: Context, code: str, reason: str
) -> None:
    await context.run(code)
    before = await count_contexts(sandbox)

    with pytest.raises(AgentError, match=reason) as caught:
        await fork(sandbox, context, "no-1", "no-2")

    assert caught.value.code == "context.not_forkable"
    assert (await context.run("1")).text == "1"
    assert await count_contexts(sandbox) == before


async def test_threads_of_numpy_are_no_reason_to_refuse(sandbox: Sandbox, context: Context) -> None:
    await context.run("import numpy as np; a = np.ones((600, 600)); b = a @ a")
    (copy,) = await fork(sandbox, context, "numeric")
    assert (await copy.run("float((b @ a)[0, 0])")).text == "360000.0"
    await copy.close()


async def test_copies_share_a_large_array_until_they_write_to_it(sandbox: Sandbox, context: Context) -> None:
    await context.run("import numpy as np; big = np.ones(500 << 17)")  # 500 MiB
    copies = await fork(sandbox, context, "big-1", "big-2", "big-3")
    own = "sum(int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if l.startswith('Private')) >> 10"  # MiB

    assert [(await copy.run("float(big[-1])")).text for copy in copies] == ["1.0"] * 3
    assert [int((await copy.run(own)).text) < 100 for copy in copies] == [True] * 3
    await copies[0].run("big += 1")
    assert [int((await copy.run(own)).text) < 100 for copy in copies] == [False, True, True]
    for copy in copies:
        await copy.close()


async def test_bad_copies_are_refused(sandbox: Sandbox, context: Context) -> None:
    for ids, code in (((context.id,), "context.duplicate"), (("a", "a"), "context.duplicate")):
        with pytest.raises(AgentError) as caught:
            await fork(sandbox, context, *ids)
        assert caught.value.code == code
    with pytest.raises(AgentError) as caught:
        await sandbox.link.call(ContextFork("nobody", ("x",)), ContextState)
    assert caught.value.code == "context.not_found"


# -- input


async def run_with_input(
    sandbox: Sandbox, context: Context, code: str, *answers: str | None
) -> tuple[Finished, list[ContextPrompt]]:
    """Run code, and answer what it asks."""
    prompts: list[ContextPrompt] = []
    rest = list(answers)
    async with asyncio.timeout(30), await sandbox.link.open(ContextRun(context.id, code, None, input=True)) as stream:
        items = []
        while (item := await stream.receive()) is not None:
            if isinstance(item, ContextPrompt):
                prompts.append(item)
                await sandbox.link.call(ContextInput(context.id, rest.pop(0)), Done)
            else:
                items.append(item)
    return Finished(items[:-1], items[-1]), prompts  # type: ignore[arg-type]


async def test_code_asks_and_somebody_answers(sandbox: Sandbox, context: Context) -> None:
    code = "import getpass\na = input('name? ')\nb = getpass.getpass('secret? ')\n(a, len(b))"
    run, prompts = await run_with_input(sandbox, context, code, "Äda", "x" * 10_000)
    assert prompts == [ContextPrompt("name? "), ContextPrompt("secret? ", password=True)]
    assert run.text == "('Äda', 10000)"

    run, _ = await run_with_input(sandbox, context, "input()", None)
    assert run.error.name == "EOFError"


async def test_where_nobody_answers_input_is_at_its_end(sandbox: Sandbox, context: Context) -> None:
    assert (await context.run("input('?')")).error.name == "EOFError"
    with pytest.raises(AgentError) as caught:
        await sandbox.link.call(ContextInput(context.id, "too late"), Done)
    assert caught.value.code == "context.no_input"
    assert (await context.run("1")).text == "1"


async def test_a_run_that_waits_for_input_can_be_interrupted(sandbox: Sandbox, context: Context) -> None:
    async with await sandbox.link.open(ContextRun(context.id, "x = 5\ninput()", None, input=True)) as stream:
        async with asyncio.timeout(30):
            assert isinstance(await stream.receive(), ContextPrompt)
            await context.interrupt()
            assert (await finish(stream)).done.cause == "interrupted"
    run, _ = await run_with_input(sandbox, context, "input() + str(x)", "new")
    assert run.text == "'new5'"


# -- completion and inspection


async def test_names_and_attributes_are_completed(sandbox: Sandbox, context: Context) -> None:
    await context.run("import numpy as np; longname = {'key': 1}")
    for code, match, start in (("longn", "longname", 0), ("2 + np.lins", ".linspace", 6), ("longname['ke", "key", 10)):
        found = await sandbox.link.call(ContextComplete(context.id, code, len(code)), ContextCompletion)
        assert (match in found.matches, found.start, found.end) == (True, start, len(code)), (code, found)
    nothing = await sandbox.link.call(ContextComplete(context.id, "nosuchnameanywhere", 18), ContextCompletion)
    assert nothing.matches == ()


async def test_a_name_is_explained(sandbox: Sandbox, context: Context) -> None:
    await context.run("def area(r: float) -> float:\n    'Of a circle.'\n    return 3 * r")
    found = await sandbox.link.call(ContextInspect(context.id, "area(2)", 2), ContextInspection)
    assert "Of a circle." in found.data["text/plain"]
    assert "r: float" in found.data["text/plain"]
    detailed = await sandbox.link.call(ContextInspect(context.id, "area", 4, detail=True), ContextInspection)
    assert "return 3 * r" in detailed.data["text/plain"]
    assert await sandbox.link.call(
        ContextInspect(context.id, "nothing_here", 3), ContextInspection
    ) == ContextInspection({})


async def test_a_question_that_makes_code_raise_costs_nothing(sandbox: Sandbox, context: Context) -> None:
    await context.run("class Odd:\n    def __dir__(self): raise RuntimeError\nodd = Odd()")
    found = await sandbox.link.call(ContextComplete(context.id, "odd.", 4), ContextCompletion)
    assert "odd" not in found.matches
    assert (await context.run("1")).text == "1"


async def test_an_interrupt_while_a_question_is_answered_does_not_hit_the_run_behind_it(
    sandbox: Sandbox, context: Context
) -> None:
    await context.run(
        "import os, time\n"
        "class Slow:\n"
        "    def __dir__(self):\n"
        "        open('/tmp/asked', 'w').close()\n"
        "        while not os.path.exists('/tmp/go'): time.sleep(0.01)\n"
        "        return ['attribute']\n"
        "slow = Slow()"
    )
    other = await sandbox.open()
    asking = asyncio.ensure_future(sandbox.link.call(ContextComplete(context.id, "slow.", 5), ContextCompletion))
    async with asyncio.timeout(30):
        await other.run("import os, time\nwhile not os.path.exists('/tmp/asked'): time.sleep(0.01)")
        behind = await context.start("'behind'")
        await context.interrupt()
        await other.run("open('/tmp/go', 'w').close()")
        await asking
        run = await finish(behind)
    assert (run.done.cause, run.text) == ("ok", "'behind'")
    await other.close()


# -- new begins


async def test_a_context_is_begun_anew_alive_or_dead(sandbox: Sandbox) -> None:
    context = await sandbox.open(cwd="/tmp")
    await context.run("x = 1")
    await sandbox.link.call(ContextRestart(context.id), ContextState)
    assert (await context.run("x")).error.name == "NameError"
    assert (await context.run("import os; os.getcwd()")).text == "'/tmp'"

    died = await context.run("import os; os._exit(3)")
    assert (died.done.cause, died.done.died_of, died.done.exit_code) == ("died", "exit", 3)
    state = await sandbox.link.call(ContextRestart(context.id), ContextState)
    assert (state.id, state.language) == (context.id, "python")
    assert (await context.run("os.getcwd()")).error.name == "NameError"
    await context.close()

    with pytest.raises(AgentError) as caught:
        await sandbox.link.call(ContextRestart("nobody"), ContextState)
    assert caught.value.code == "context.not_found"


# -- receipts


async def test_a_receipt_tells_what_a_run_cost(context: Context) -> None:
    await context.run("import time, subprocess, sys")
    spin = "end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    program = f"import time\n{spin}"
    own = (await context.run(f"{spin}\nprint('x' * 1000)")).done
    child = (await context.run(f"subprocess.run([sys.executable, '-c', {program!r}])")).done
    big = (await context.run("block = bytearray(200 << 20); del block")).done
    idle = (await context.run("1")).done

    assert 0.2 <= own.cpu_s <= own.wall_s + 0.1
    assert own.output_bytes == 1001
    assert child.cpu_s >= 0.2
    assert big.peak_memory_bytes > 200 << 20
    assert 10 << 20 < idle.peak_memory_bytes < 200 << 20
    assert idle.cpu_s < 0.2
    assert idle.limits_hit == ()
