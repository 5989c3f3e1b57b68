"""`sandlot keys`, against a server and against the store of one that does not run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from controlplane.access.keys import Keys
from controlplane.cli.main import main
from controlplane.store.store import Store
from tests.support.agent.live_agent import free_port
from tests.support.server.api_server import API_KEY, serving
from tests.support.terminal import Terminal


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings file, a state directory of the test's own, and a port at which nobody listens."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SANDLOT_PATHS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SANDLOT_SERVER_PORT", str(free_port()))
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys, "keys")


async def go_through_the_life_of_a_key(terminal: Terminal, where: list[str]) -> None:
    """Make, list, show, change and withdraw one."""
    made = await terminal.run(
        *("create", "agents", "--scope", "create", "--quota", "sandboxes=10", "--quota", "memory=8Gi"),
        *("--quota", "creates=30", "--quota", "cpus=2.5", "--expires", "90d", *where),
    )
    assert "scopes:     create\n" in made
    assert "quotas:     sandboxes=10 cpus=2.5 memory=8192Mi creates=30\n" in made
    assert "\nkey:        sandlot_" in made
    second = await terminal.json("create", "reader", "--scope", "read", "--owner", "agents", *where)
    keys = {key["name"]: key for key in await terminal.json("list", *where)}
    assert keys["agents"]["owner"] == keys["agents"]["id"] == keys["reader"]["owner"] != second["id"]
    assert "key" not in keys["reader"]
    lines = (await terminal.run("list", *where)).splitlines()
    assert lines[0].split() == ["NAME", "ID", "SCOPES", "OWNER", "QUOTAS", "LAST", "USED", "EXPIRES"]
    assert [line.split()[0] for line in lines[1:]][-2:] == ["agents", "reader"]
    changed = await terminal.run(
        *("change", "agents", "--scope", "read", "--quota", "cpus=none", "--rename", "robots", *where)
    )
    assert "name:       robots\n" in changed
    assert "scopes:     read\n" in changed
    assert "quotas:     sandboxes=10 memory=8192Mi creates=30\n" in changed
    assert await terminal.run("show", keys["agents"]["id"], *where) == changed
    assert await terminal.run("withdraw", "robots", *where) == "withdrawn: robots\n"
    assert await terminal.run("show", "robots", *where, code=1) == ""
    assert "there is no key robots" in terminal.error


async def test_with_a_server(terminal: Terminal) -> None:
    """Named by its URL."""
    async with serving() as edge:
        await go_through_the_life_of_a_key(terminal, ["--server", edge.url, "--api-key", API_KEY])


async def test_with_the_server_of_this_machine(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the settings; its key is in the state directory, or among the settings."""
    async with serving() as edge:
        monkeypatch.setenv("SANDLOT_SERVER_PORT", edge.address.rpartition(":")[2])
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "api-key").write_text(API_KEY)
        assert [key["name"] for key in await terminal.json("list")] == ["key-1"]
        monkeypatch.setenv("SANDLOT_SERVER_API_KEYS", "a-key-that-is-another-one")
        await terminal.run("list", code=1)
        assert "answers 401: the API key or token is wrong" in terminal.error


async def test_without_a_server(terminal: Terminal, tmp_path: Path) -> None:
    """The store itself is changed: the next start finds it so."""
    await go_through_the_life_of_a_key(terminal, [])
    text = (await terminal.json("create", "last", "--scope", "create"))["key"]
    store = Store(tmp_path / "state")
    caller = Keys({}, store).caller(text)
    store.close()
    assert caller is not None
    assert caller.name == "last"
    await terminal.run("withdraw", "last", "--end-sandboxes", code=2)
    assert "--end-sandboxes needs the running server" in terminal.error


async def test_a_store_that_another_server_uses(terminal: Terminal, tmp_path: Path) -> None:
    """It listens somewhere else: which, only its operator knows."""
    store = Store(tmp_path / "state")
    await terminal.run("list", code=2)
    store.close()
    assert "no server answers at http://127.0.0.1:" in terminal.error
    assert "another Sandlot server uses" in terminal.error
    assert "--server URL" in terminal.error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "a b", "--scope", "create"], 1, "name"),
        (["create", "a", "--scope", "root"], 1, "is not a scope"),
        (["create", "a", "--scope", "read", "--quota", "speed=1"], 1, "--quota speed=1: expected name=amount"),
        (["create", "a", "--scope", "read", "--quota", "cpus=lots"], 1, "expected a number"),
        (["create", "a", "--scope", "read", "--quota", "memory=lots"], 1, "quotas.memory"),
        (["create", "a", "--scope", "read", "--expires", "soon"], 1, "--expires soon: expected 30m"),
        (["create", "a", "--scope", "read", "--expires", "2001-01-01"], 1, "in the future"),
        (["create", "a", "--scope", "read", "--owner", "nobody"], 1, "nobody"),
        (["list", "--server", "ftp://here", "--api-key", "x"], 2, "expected http://host:port"),
        (["list", "--server", "http://127.0.0.1.example"], 2, "give --api-key too"),
        (["list", "--server", "http://localhost:80@there.example"], 2, "give --api-key too"),
        (["list", "--server", "http://[127.0.0.1", "--api-key", "x"], 2, "expected http://host:port"),
        (["list", "--server", "http://", "--api-key", "x"], 2, "expected http://host:port"),
        (["list", "--server", "http://a b", "--api-key", "x"], 2, "expected http://host:port"),
        (["list", "--server", "http://127.0.0.1:99999", "--api-key", "x"], 2, "expected http://host:port"),
        (["list", "--server", "http://127.0.0.1:1", "--api-key", "x\ny"], 2, "--api-key: a key has visible ASCII"),
        (["list", "--server", "http://127.0.0.1:1", "--api-key", "schlüssel"], 2, "--api-key: a key has visible ASCII"),
        (["list", "--server", ""], 1, "--server: is empty"),
        (["create", "a", "--scope", "read", "--expires", ""], 1, "--expires: is empty"),
        (["create", "a", "--scope", "read", "--owner", ""], 1, "--owner: is empty"),
        (["create", "a", "--scope", "read", "--quota", "cpus=nan"], 1, "expected a number"),
        (["create", "a", "--scope", "read", "--quota", "memory=nan"], 1, "quotas.memory"),
        (["create", "a", "--scope", "read", "--quota", "sandboxes=inf"], 1, "expected a number"),
        (["create", "a", "--scope", "read", "--quota", "sandboxes=-1"], 1, "quotas.sandboxes"),
        (["create", "a", "--scope", "read", "--expires", "0001-01-01"], 1, "--expires 0001-01-01: expected 30m"),
        (["create", "a", "--scope", "read", "--expires", "9999-12-31T23:59-23:59"], 1, "expected 30m"),
        (["create", "a\n", "--scope", "read"], 1, "name"),
        (["create", "token", "--scope", "read"], 1, "name"),
        (["show", "a?b#c é"], 1, "there is no key"),
        (["list", "--server", "http://127.0.0.1:1", "--api-key", "x"], 2, "does not answer as a Sandlot server does"),
    ],
)
async def test_what_is_wrong_is_one_line(arguments: list[str], code: int, words: str, terminal: Terminal) -> None:
    """With or without a server, and no traceback."""
    await terminal.run(*arguments, code=code)
    assert terminal.error.startswith("sandlot: ")
    assert words in terminal.error
    if "--server" not in arguments:
        async with serving() as edge:
            await terminal.run(*arguments, "--server", edge.url, "--api-key", API_KEY, code=code)
        assert words in terminal.error


@pytest.mark.parametrize("arguments", [[], ["create", "a"], ["create", "--scope", "read"], ["fly"]])
def test_wrong_usage(arguments: list[str]) -> None:
    """Code 2."""
    with pytest.raises(SystemExit) as stop:
        main(["keys", *arguments])
    assert stop.value.code == 2


@pytest.mark.attack(
    "secrets", "the command is pointed at another machine's server, by address or by a redirect", "no key is sent there"
)
@pytest.mark.parametrize("command", ["keys list", "attack"])
async def test_the_key_of_this_machine_stays_here(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without a state directory: the key is not even read."""
    arguments = [*command.split(), "--server", "http://there.example:8080"]
    assert await asyncio.to_thread(main, arguments) == 2
    assert "give --api-key too" in capsys.readouterr().err


async def test_what_speaks_no_http_is_no_server(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line; where the server of this machine should be, its store is used."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await terminal.run("list", "--server", f"http://127.0.0.1:{port}", "--api-key", "x", code=2)
        assert "does not answer as a Sandlot server does" in terminal.error
        monkeypatch.setenv("SANDLOT_SERVER_PORT", str(port))
        assert [key["name"] for key in await terminal.json("list")] == ["api-key"]


@pytest.mark.parametrize("server", ["http://[::1", "there", "http://", "http://127.0.0.1:99999"])
async def test_an_attack_needs_an_address(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, no traceback."""
    assert await asyncio.to_thread(main, ["attack", "--server", server, "--api-key", "x"]) == 2
    assert "expected http://host:port" in capsys.readouterr().err


async def test_redirects_are_not_followed(terminal: Terminal) -> None:
    """The key would go with them."""
    async with serving() as edge:
        where = f"HTTP/1.1 302 Found\r\nLocation: {edge.url}/v1/keys\r\nContent-Length: 0\r\n\r\n".encode()

        async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(where)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(redirect, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await terminal.run("list", "--server", f"http://127.0.0.1:{port}", "--api-key", API_KEY, code=1)
    assert "answers 302" in terminal.error
