"""A sandbox that chooses a version: commands, contexts and receipts, in a real execd."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from execd.wire.aio import Data
from execd.wire.messages import (
    ContextDone,
    ContextLanguage,
    ContextLanguages,
    ContextOpen,
    ContextPrepare,
    ContextRun,
    ContextState,
    Done,
    ProcessExited,
    ProcessStart,
    SandboxClaim,
    SandboxClaimed,
    SessionOpen,
    SessionRun,
)
from tests.support.agent.live_agent import ROOT, LiveAgent

TOY = str(ROOT / "tests/support/agent/toy_kernel.py")
NOTICE = "TOY_VERSION='3': this image has 2, 1; 2 is used"

KERNEL = f"""
language = "toy"
command = ["{sys.executable}", "{TOY}", "two"]
eager = true
spare = true
"""


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[LiveAgent]:
    """An execd whose image has a language in two versions, and a program `toy` in each."""
    for number in ("1", "2"):
        program = tmp_path / number / "toy"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho program {number}\n")
        program.chmod(0o755)
    versions = f"""
variable = "TOY_VERSION"
languages = ["toy"]
default = "2"
[versions.2]
[versions.1]
path = "{tmp_path}/1"
env = {{ TOY_HOME = "{tmp_path}/1" }}
commands = {{ toy = ["{sys.executable}", "{TOY}", "one"] }}
"""
    declared = {"kernels/toy.toml": KERNEL, "versions/toy.toml": versions}
    env = {"PATH": f"{tmp_path}/2:/usr/bin:/bin", "TOY_HOME": f"{tmp_path}/2"}
    async with LiveAgent(env=env, declared=declared) as live:
        yield live


async def claim(agent: LiveAgent, **env: str) -> None:
    stream = await agent.link.open(SandboxClaim("s", env=env))
    await stream.expect(SandboxClaimed)


async def command(agent: LiveAgent, shell: str) -> tuple[str, ProcessExited]:
    printed = b""
    async with await agent.link.open(ProcessStart(id=shell, shell=shell)) as stream:
        stream.end()
        while (said := await stream.receive()) is not None:
            match said:
                case Data(data=data):
                    printed += data
                case ProcessExited():
                    exited = said
    return printed.decode(), exited


async def run(agent: LiveAgent, code: str) -> tuple[str, ContextDone]:
    printed = b""
    state = await agent.link.call(ContextOpen(id=code, language="toy"), ContextState)
    async with await agent.link.open(ContextRun(state.id, code)) as stream:
        stream.end()
        while (said := await stream.receive()) is not None:
            match said:
                case Data(data=data):
                    printed += data
                case ContextDone():
                    done = said
    return printed.decode(), done


async def children(agent: LiveAgent) -> list[str]:
    pid = agent.process.pid
    return (await asyncio.to_thread(Path(f"/proc/{pid}/task/{pid}/children").read_text)).split()


async def prepared(agent: LiveAgent) -> None:
    async with asyncio.timeout(30):
        await agent.link.call(ContextPrepare(), Done)


@pytest.mark.parametrize(("asked", "argument", "number"), [({}, "two", "2"), ({"TOY_VERSION": "1"}, "one", "1")])
async def test_commands_and_contexts_have_the_chosen_version(
    agent: LiveAgent, asked: dict[str, str], argument: str, number: str
) -> None:
    """Also where the default was made ready before the claim, as in a pool."""
    await prepared(agent)
    await claim(agent, **asked)
    printed, exited = await command(agent, "toy; basename $TOY_HOME")
    assert (printed, exited.notice) == (f"program {number}\n{number}\n", "")
    printed, done = await run(agent, "print(sys.argv[1], os.path.basename(os.environ['TOY_HOME']))")
    assert (printed, done.notice) == (f"{argument} {number}\n", "")


async def test_a_claim_that_names_none_keeps_what_was_made_ready(agent: LiveAgent) -> None:
    """A warm start is as quick as if there were only one version: the spare that waited is used."""
    await prepared(agent)
    spares = await children(agent)
    await claim(agent)
    printed, _ = await run(agent, "print(os.getpid())")
    assert printed.strip() in spares


async def test_what_is_not_there_is_told_in_the_first_receipt_of_a_run(agent: LiveAgent) -> None:
    await claim(agent, TOY_VERSION="3")
    printed, done = await run(agent, "print(sys.argv[1])")
    assert (printed, done.notice) == ("two\n", NOTICE)
    assert (await run(agent, "1"))[1].notice == ""
    assert (await command(agent, "true"))[1].notice == ""


async def test_what_is_not_there_is_told_in_the_first_receipt_of_a_command(agent: LiveAgent) -> None:
    await claim(agent, TOY_VERSION="3")
    printed, exited = await command(agent, "toy")
    assert (printed, exited.notice) == ("program 2\n", NOTICE)
    assert (await run(agent, "1"))[1].notice == ""


async def test_what_is_not_there_is_told_in_the_first_receipt_of_a_session(agent: LiveAgent) -> None:
    await claim(agent, TOY_VERSION="3")
    await agent.link.call(SessionOpen("s"), Done)
    assert [await notice_of(agent, SessionRun("s", "true")) for _ in range(2)] == [NOTICE, ""]


async def notice_of(agent: LiveAgent, request: SessionRun) -> str:
    async with await agent.link.open(request) as stream:
        stream.end()
        await stream.expect(Done)
        return (await stream.expect(ContextDone)).notice


async def test_what_is_not_there_is_told_in_the_log(agent: LiveAgent) -> None:
    await claim(agent, TOY_VERSION="3")
    agent.process.terminate()
    _, log = await agent.process.communicate()
    assert f"execd: WARNING: {NOTICE}\n" in log.decode()


async def test_languages_are_listed_with_their_versions(agent: LiveAgent) -> None:
    await claim(agent, TOY_VERSION="1")
    found = {}
    async with await agent.link.open(ContextLanguages()) as stream:
        stream.end()
        while isinstance(said := await stream.receive(), ContextLanguage):
            found[said.language] = said
    toy, bash = found["toy"], found["bash"]
    assert (toy.variable, toy.version, toy.versions) == ("TOY_VERSION", "1", ("2", "1"))
    assert (bash.variable, bash.version, bash.versions) == ("", "", ())
