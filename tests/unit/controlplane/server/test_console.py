"""The console of a whole server: the line that leads to it, sign-ins that outlive it, and when it is off."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from controlplane.server.serve import FIRST_LINK_S, Server, console_line, control_plane
from controlplane.settings.sections import ConsoleSettings, PathSettings, SandboxSettings, ServerSettings, Settings
from tests.support.fakes.agents import CutDriver
from tests.support.server.console import ASKS, SIGN_IN
from tests.support.server.control_plane import IMAGE, Home


def settings_of(home: Home, **sections: ConsoleSettings | ServerSettings) -> Settings:
    """The settings of a server without a pool, at a free port."""
    return Settings(
        **{"server": ServerSettings(port=0), **sections},  # type: ignore[arg-type]
        sandbox=SandboxSettings(image=IMAGE, pool_size=0),
        paths=PathSettings(state_dir=str(home.path / "state"), run_dir=str(home.path / "run")),
    )


@asynccontextmanager
async def running(home: Home, settings: Settings) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    """Run the server, with a client that asks as the console's pages do."""

    def make_driver(instance: str) -> CutDriver:
        return CutDriver(home.engine, instance=instance)

    async with (
        control_plane(settings, make_driver, verify=lambda *_: True) as server,
        httpx.AsyncClient(base_url=server.address, headers=ASKS) as client,
    ):
        yield server, client


async def test_the_line_of_a_start_signs_in_and_a_restart_does_not_sign_out(home: Home) -> None:
    """The link names localhost, below which the ports of sandboxes have their names."""
    settings = settings_of(home)
    async with running(home, settings) as (server, client):
        line = console_line(settings, server, show_link=True)
        found = re.fullmatch(r"Console: http://localhost:(\d+)/console/#code=(\S+) \(signs in once, .*\)", line)
        assert found is not None
        assert server.address.endswith(f":{found[1]}")
        assert f"{FIRST_LINK_S / 60:.0f} minutes" in line
        assert server.made_key not in line
        answer = await client.post(SIGN_IN, json={"code": found[2]})
        assert (answer.status_code, answer.json()["scopes"]) == (200, ["admin"])
        (cookie,) = answer.cookies.values()
        assert (await client.get("/v1/keys")).status_code == 200
    async with running(home, settings) as (server, client):
        # At another port, because the first was a free one; the cookie's name has it.
        name = f"sandlot-console-{server.address.rpartition(':')[2]}"
        assert (await client.get("/v1/keys", headers={"Cookie": f"{name}={cookie}"})).status_code == 200
    (home.path / "state" / "api-key").write_text("sandlot_another_key_of_the_operator")
    async with running(home, settings) as (server, client):
        name = f"sandlot-console-{server.address.rpartition(':')[2]}"
        assert (await client.get("/v1/keys", headers={"Cookie": f"{name}={cookie}"})).status_code == 401


async def test_who_reads_a_log_gets_no_link(home: Home) -> None:
    settings = settings_of(home)
    async with running(home, settings) as (server, _):
        line = console_line(settings, server, show_link=False)
    assert "code" not in line
    assert "/console/; `sandlot console` prints a link" in line


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"console": ConsoleSettings(enabled=False)}, "[console] enabled = false"),
        ({"server": ServerSettings(port=0, isolate_pages=False)}, "[server] isolate_pages = false"),
    ],
)
@pytest.mark.attack(
    "edge", "the isolation of pages is lifted, and a page of a sandbox asks as the console does", "the console is off"
)
async def test_the_console_is_off(home: Home, sections: dict[str, ConsoleSettings], reason: str) -> None:
    """Pages of sandboxes without an origin of their own would have the console's rights."""
    settings = settings_of(home, **sections)
    async with running(home, settings) as (server, client):
        assert console_line(settings, server, show_link=True).startswith(f"Console: off; {reason}")
        answer = await client.post(SIGN_IN, json={"key": server.made_key})
        assert (answer.status_code, answer.json()["code"]) == (404, "CONSOLE_OFF")
        assert reason in answer.json()["message"]
