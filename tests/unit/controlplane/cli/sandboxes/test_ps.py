"""`sandlot ps` and how sandboxes are named, against the edge over a fake engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from tests.support.agent.live_agent import free_port
from tests.support.server.api_server import API_KEY, Edge, serving
from tests.support.terminal import Terminal

pytestmark = pytest.mark.usefixtures("log_of_the_server_apart")


@pytest.fixture
async def edge(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Edge]:
    """A server with three sandboxes."""
    async with serving() as edge:
        monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", edge.address)
        monkeypatch.setenv("OPEN_SANDBOX_API_KEY", API_KEY)
        async with edge.client() as client:
            for metadata in ({"name": "web"}, {"name": "worker"}, {}):
                body = {"image": {"uri": "sandlot/python"}, "entrypoint": ["x"], "timeout": 90_000}
                answer = await client.post("/sandboxes", json=body | {"metadata": {"team": "a", **metadata}})
        # The server lets no such name in. A record of an earlier release might have one.
        last = edge.registry.get(answer.json()["id"])
        edge.registry.put(replace(last, requested_image="bad\x1b[2J\u202eimage"))
        yield edge


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


async def test_the_table(edge: Edge, terminal: Terminal) -> None:
    """Newest first; what an image is called cannot control the terminal."""
    lines = (await terminal.run("ps")).splitlines()
    assert lines[0].split("  ")[0] == "ID"
    assert [line.split()[:3] for line in lines[1:]] == [
        ["0123456789ab", "Running", "bad\\x1b[2J\\u202eimage"],
        ["0123456789ab", "Running", "sandlot/python"],
        ["0123456789ab", "Running", "sandlot/python"],
    ]
    assert lines[3].endswith("team=a name=web")


async def test_filters_and_forms(edge: Edge, terminal: Terminal) -> None:
    ids = ["0123456789abcdf1", "0123456789abcdf0", "0123456789abcdef"]
    assert (await terminal.run("ps", "-q")).split() == ids
    assert (await terminal.run("ps", "-q", "--filter", "metadata=name=web")).split() == ids[2:]
    assert (await terminal.run("ps", "-q", "--filter", "image=sandlot/*")).split() == ids[1:]
    assert (await terminal.run("ps", "-q", "--filter", "state=paused")).split() == []
    assert [each["id"] for each in json.loads(await terminal.run("ps", "--json"))] == ids
    assert "0123456789abcdf1  Running" in await terminal.run("ps", "--no-trunc")
    await terminal.run("ps", "--filter", "state=gone", code=1)
    assert "--filter state=gone: there are Pending, Running" in terminal.error
    await terminal.run("ps", "--filter", "colour=red", code=1)
    assert "--filter colour: there are state=" in terminal.error


async def test_names_of_sandboxes(edge: Edge, terminal: Terminal) -> None:
    """A whole id, a beginning that is unique, a name; and what is said of others."""
    await terminal.run("rm", "0123456789abcd", code=1)
    assert "0123456789abcd can be 0123456789ab, 0123456789ab (worker), 0123456789ab (web)" in terminal.error
    await terminal.run("rm", "wbe", code=1)
    assert "there is no sandbox wbe; did you mean 0123456789ab (web)?" in terminal.error
    await terminal.run("rm", "zzz\x1b[2J", code=1)
    assert "there is no sandbox zzz\\x1b[2J; `sandlot ps --all` lists" in terminal.error
    assert (await terminal.run("rm", "web", "0123456789abcdf1")).split() == ["0123456789abcdef", "0123456789abcdf1"]
    assert (await terminal.run("rm", "0123456789abcdf")).split() == ["0123456789abcdf0"]
    await terminal.run("rm", "web", code=1)
    assert "there are no sandboxes" in terminal.error


async def test_several_are_ended_after_a_question(
    edge: Edge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await terminal.run("rm", "--all", code=1)
    assert "End 3 sandbox(es), 3 of them alive? Nobody can be asked here: say --yes" in terminal.error
    await terminal.run("rm", code=1)
    assert "name sandboxes, or choose them" in terminal.error
    assert len((await terminal.run("rm", "--filter", "image=sandlot/*", "--yes")).split()) == 2
    assert len((await terminal.run("ps", "-q")).split()) == 1


async def test_errors_name_their_cures(edge: Edge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN_SANDBOX_API_KEY", "wrong")
    await terminal.run("ps", code=1)
    assert "answers 401" in terminal.error
    assert "set OPEN_SANDBOX_API_KEY or give --key-file" in terminal.error
    monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", f"127.0.0.1:{free_port()}")
    await terminal.run("ps", code=2)
    assert "start it (`sandlot serve`), or name another one" in terminal.error
    assert len(terminal.error.splitlines()) == 1
