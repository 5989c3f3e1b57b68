"""Sessions and bash contexts over HTTP, in a real bash."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agent.live_agent import LiveAgent

Events = list[dict[str, Any]]


@pytest.fixture
async def agent() -> AsyncIterator[LiveAgent]:
    """An execd whose environment has a variable of the test's."""
    async with LiveAgent(env={"GREETING": "hello"}) as agent:
        yield agent


class Session:
    """A session, and what one does with it."""

    def __init__(self, client: httpx.AsyncClient, session_id: str) -> None:
        self.client = client
        self.path = f"/session/{session_id}"

    async def run(self, command: str, **more: Any) -> Events:
        """Run to the end, return the events."""
        response = await self.client.post(f"{self.path}/run", json={"command": command, **more})
        assert response.status_code == 200, response.text
        return parse(response.text)

    async def out(self, command: str, **more: Any) -> str:
        """Run to the end, return what came on stdout."""
        return "\n".join(texts(await self.run(command, **more)))

    async def code(self, command: str, **more: Any) -> str:
        """Run to the end, return the exit code."""
        return exit_code(await self.run(command, **more))


def parse(text: str) -> Events:
    """Take a stream of events apart."""
    return [json.loads(frame) for frame in text.split("\n\n")[:-1]]


def texts(events: Events, kind: str = "stdout") -> list[str]:
    """The texts of one kind of events."""
    return [event["text"] for event in events if event["type"] == kind]


def exit_code(events: Events) -> str:
    """As clients read it."""
    return "0" if events[-1]["type"] == "execution_complete" else str(events[-1]["error"]["evalue"])


async def create(client: httpx.AsyncClient, **body: Any) -> Session:
    """Open a session; without a body when there is nothing to say."""
    response = await client.post("/session", json=body) if body else await client.post("/session")
    assert response.status_code == 200, response.text
    return Session(client, response.json()["session_id"])


async def test_a_session_is_one_live_shell(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Variables that are not exported, functions, aliases, options, the directory, arrays, `$?` and jobs last."""
    session = await create(client, cwd=str(tmp_path))
    assert await session.out("pwd; echo $GREETING") == f"{tmp_path}\nhello"
    await session.run("x=1; export y='a b'; f() { echo \"f $1 $x\"; }; alias hi='echo aliased'")
    assert await session.out('f "$y"; hi') == "f a b 1\naliased"
    await session.run("declare -A map=([k]=v); list=(1 '2 3'); mkdir sub; cd sub; umask 027")
    assert await session.out("echo ${map[k]} ${#list[@]}; pwd; umask") == f"v 2\n{tmp_path}/sub\n0027"
    assert await session.code("(exit 7)") == "7"
    assert await session.out("echo $?") == "7"
    await session.run("sleep 60 & job=$!")
    assert await session.out("jobs -r | wc -l; kill $job; wait $job; echo $?") == "1\n143"
    await session.run("exec 3>three; echo written >&3")
    assert await session.out("echo again >&3; cat three") == "written\nagain"


async def test_both_streams_and_all_characters(client: httpx.AsyncClient) -> None:
    session = await create(client)
    events = await session.run("echo out; echo err >&2")
    assert (texts(events), texts(events, "stderr"), exit_code(events)) == (["out"], ["err"], "0")
    hard = "a'b\"c\\d $HOME `x` \t é ☃ \U0001f600 \\n %s \x01 /"
    assert await session.out(f"cat <<'END'\n{hard}\nEND") == hard
    assert await session.out("printf '%s' " + "x" * 50_000 + " | wc -c") == "50000"


async def test_what_would_disturb_the_shell_itself(client: httpx.AsyncClient) -> None:
    """Options, syntax errors, unset variables, a prompt of one's own: the next run is as good as the first."""
    session = await create(client)
    assert texts(await session.run("set -x; echo traced"), "stderr")[0].endswith("+ echo traced")
    assert len(texts(await session.run("echo traced"), "stderr")[0].splitlines()) == 1
    await session.run("set +x")
    assert await session.code("if then") == "2"
    assert await session.code("echo ${nope:?is missing}") == "1"
    assert await session.code("set -u; echo $nope") == "1"
    await session.run("set +u; PROMPT_COMMAND='echo mine'; IFS=x; set -f")
    assert await session.out("echo *") == "*"
    assert await session.out("cat; read line; echo $?") == "1"  # stdin is at its end
    assert await session.out("echo alive") == "alive"
    assert await session.code("return 3") == "2"


@pytest.mark.parametrize("code", ["sleep 60; echo after", "while true; do :; done; echo after", "f() { sleep 60; }; f"])
async def test_an_interrupted_run_leaves_the_session(client: httpx.AsyncClient, code: str) -> None:
    """By the id of the run, as `commands.interrupt` has it."""
    session = await create(client)
    await session.run("x=kept")
    async with client.stream("POST", f"{session.path}/run", json={"command": f"echo begun; {code}"}) as response:
        text = ""
        async for piece in response.aiter_text():
            text += piece
            if "begun" in piece:
                run_id = parse(text)[0]["text"]
                assert (await client.delete("/command", params={"id": run_id})).status_code == 200
    events = parse(text)
    assert (texts(events), exit_code(events)) == (["begun"], "130")
    assert await session.out("echo $x") == "kept"


@pytest.mark.parametrize("command", ["/bin/true", "(:)", "x=$(echo a)"])
async def test_a_loop_of_short_commands_can_be_interrupted(client: httpx.AsyncClient, command: str) -> None:
    """Half of all signals come when bash forgets them: between the fork of a command and its exec, or at its end.

    A subshell that is struck right after its fork must not take the place of the shell.
    """
    session = await create(client)
    shell = await session.out("echo $BASHPID")
    for _ in range(3):
        code = f"echo begun; while :; do {command}; done"
        async with client.stream("POST", f"{session.path}/run", json={"command": code}) as response:
            text = ""
            async for piece in response.aiter_text():
                text += piece
                if "begun" in piece:
                    run_id = parse(text)[0]["text"]
                    assert (await client.delete("/command", params={"id": run_id})).status_code == 200
        assert exit_code(parse(text)) == "130"
        assert await session.out("echo $BASHPID") == shell


async def test_a_shell_without_its_process_id_goes_on(client: httpx.AsyncClient) -> None:
    """Code may unset BASHPID, by which the runner knows the shell from a subshell."""
    session = await create(client)
    assert await session.out("x=kept; unset BASHPID; echo $$") != ""
    assert await session.out("echo $x") == "kept"


async def test_a_program_that_takes_its_time_is_interrupted_once(client: httpx.AsyncClient) -> None:
    session = await create(client)
    code = """python3 -c 'if True:
        import signal, time
        signal.signal(signal.SIGINT, lambda *_: print("struck", flush=True))
        print("begun", flush=True)
        time.sleep(1.5)'"""
    async with client.stream("POST", f"{session.path}/run", json={"command": code}) as response:
        text = ""
        async for piece in response.aiter_text():
            text += piece
            if "begun" in piece:
                assert (await client.delete("/command", params={"id": parse(text)[0]["text"]})).status_code == 200
    assert texts(parse(text)) == ["begun", "struck"]


async def test_a_time_limit_leaves_the_session(client: httpx.AsyncClient) -> None:
    session = await create(client)
    events = await session.run("x=kept; echo begun; sleep 60", timeout=1000)
    assert (texts(events), exit_code(events)) == (["begun"], "124")
    assert events[-1]["error"]["traceback"] == ["timed out after 1 s"]
    assert await session.out("echo $x") == "kept"


async def test_the_directory_of_a_run(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """It is gone to, as if by cd; a code that could not be run there is not run."""
    (tmp_path / "it's").mkdir()
    session = await create(client)
    assert await session.out("pwd", cwd=f"{tmp_path}/it's") == f"{tmp_path}/it's"
    await session.out("cd() { echo mine; }; eval() { echo mine; }")
    assert await session.out("pwd", cwd=f"{tmp_path}/it's") == f"{tmp_path}/it's"
    await session.out("unset -f cd eval")
    assert await session.out("pwd") == f"{tmp_path}/it's"
    events = await session.run("echo ran", cwd="/nowhere")
    assert (texts(events), exit_code(events)) == ([], "1")
    assert "/nowhere" in texts(events, "stderr")[0]


async def test_exit_ends_the_run_and_not_the_session(client: httpx.AsyncClient) -> None:
    """The same with `set -e`: all that the shell knows stays."""
    session = await create(client)
    await session.run("x=kept; cd /usr")
    for code in ("exit 3", "set -e; (exit 3); echo no"):
        events = await session.run(f"echo bye; {code}")
        assert (texts(events), texts(events, "stderr"), exit_code(events)) == (["bye"], [], "3")
        assert await session.out("echo $x; pwd") == "kept\n/usr"


async def test_after_its_shell_was_killed_the_session_goes_on_in_a_new_one(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    session = await create(client, cwd=str(tmp_path))
    for code, status in (("kill -9 $$", "137"), ("exec sh -c 'exit 5'", "5")):
        await session.run("x=gone; cd /")
        events = await session.run(code)
        assert exit_code(events) == status
        assert "the shell has ended" in events[-1]["error"]["traceback"][0]
        first, second = await session.run("echo [$x]; pwd"), await session.run("true")
        assert texts(first) == ["[]", str(tmp_path)]
        notice = first[-1]["receipt"]["notice"]
        assert notice.startswith(f"{session.path.replace('/', ' ')[1:]} has begun anew, without what it held: ")
        assert "notice" not in second[-1]["receipt"]


async def test_runs_wait_for_one_another_and_sessions_do_not(client: httpx.AsyncClient, tmp_path: Path) -> None:
    one, other = await create(client), await create(client)
    gate = tmp_path / "gate"
    slow = asyncio.ensure_future(one.out(f"until [ -e {gate} ]; do sleep 0.01; done; echo first"))
    behind = asyncio.ensure_future(one.out("echo second"))
    assert await other.out(f"touch {gate}; echo other") == "other"
    assert (await slow, await behind) == ("first", "second")


async def test_a_deleted_session_is_gone_with_all_it_runs(client: httpx.AsyncClient) -> None:
    session = await create(client)
    pid = await session.out("sleep 60 & echo $!")
    assert (await client.delete(session.path)).status_code == 200
    again = await client.delete(session.path)
    run = await client.post(f"{session.path}/run", json={"command": "true"})
    assert (again.status_code, again.json()["code"]) == (404, "SESSION_NOT_FOUND")
    assert (run.status_code, run.json()["code"]) == (404, "SESSION_NOT_FOUND")
    is_alive = f"[ -e /proc/{pid} ] && ! grep -q '^State:.Z' /proc/{pid}/status"
    await client.post("/command", json={"command": f"while {is_alive}; do sleep 0.01; done", "timeout": 10_000})
    check = await client.post("/command", json={"command": is_alive})
    assert '"evalue":"1"' in check.text


async def test_what_is_refused(client: httpx.AsyncClient) -> None:
    session = await create(client)
    for path, body in (
        (f"{session.path}/run", {"command": ""}),
        (f"{session.path}/run", {"command": "a\0b"}),
        (f"{session.path}/run", {"command": "true", "timeout": -1}),
        (f"{session.path}/run", {}),
        ("/session", {"cwd": "a\0"}),
        ("/session", {"cwd": 1}),
    ):
        response = await client.post(path, json=body)
        assert response.status_code == 400, body
    nowhere = await client.post("/session", json={"cwd": "/nowhere"})
    assert nowhere.status_code == 400
    assert "the working directory /nowhere does not exist" in nowhere.json()["message"]


async def test_bash_is_a_language_of_contexts(client: httpx.AsyncClient) -> None:
    """In every image that has bash, with the state of its own; a failed run says its exit code."""

    async def run(code: str) -> Events:
        response = await client.post("/code", json={"code": code, "context": {"language": "bash"}})
        assert response.status_code == 200, response.text
        return parse(response.text)

    await run("x=1; f() { echo f$x; }")
    assert texts(await run("f")) == ["f1"]
    failed = await run("(exit 5)")
    error = next(event["error"] for event in failed if event["type"] == "error")
    assert (error["ename"], error["evalue"]) == ("CommandExecError", "5")
    assert failed[-1]["receipt"]["exit_code"] == 5
    contexts = (await client.get("/code/contexts")).json()
    assert [context["language"] for context in contexts] == ["bash"]  # sessions are none
