"""`sandlot doctor`, as far as it needs no engine. `tests/integration/server/test_doctor.py` has the rest."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from controlplane.cli.doctor import examine
from controlplane.runtime.abilities import Abilities, Ability
from controlplane.runtime.driver import EngineInfo
from controlplane.server.doctor import engine, machine
from controlplane.server.doctor.checks import findings
from controlplane.server.doctor.engine import unmet_settings
from controlplane.server.doctor.finding import Finding
from controlplane.settings.sections import (
    EngineSettings,
    PathSettings,
    PoolSettings,
    SandboxSettings,
    ServerSettings,
    Settings,
    StorageSettings,
)
from controlplane.store.store import Store
from tests.support.fakes.driver import FakeDriver
from tests.support.fakes.engine import FEW, MOST, FakeEngine


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def settings(tmp_path: Path, free_port: int) -> Settings:
    """Settings of a machine without an engine, on which no server has run yet."""
    return Settings(
        server=ServerSettings(port=free_port),
        engine=EngineSettings(url=f"unix://{tmp_path}/no-engine.sock"),
        paths=PathSettings(
            state_dir=str(tmp_path / "a" / "state"),
            run_dir=str(tmp_path / "a" / "run"),
            images_dir=str(tmp_path / "images"),
        ),
    )


async def all_findings(settings: Settings) -> dict[str, Finding]:
    return {finding.check: finding async for finding in findings(settings)}


async def test_what_is_well_has_no_cure_and_nothing_is_changed(settings: Settings, tmp_path: Path) -> None:
    """The directories are the server's to make, with its own rights."""
    found = await all_findings(settings)
    assert list(found) == ["address", "directories", "limits", "disk", "engine", "images", "sandbox"]
    for check in ("address", "directories", "limits", "disk"):
        assert found[check].cure == "", found[check]
    assert found["address"].text == f"127.0.0.1:{settings.server.port} is free"
    assert os.listdir(tmp_path) == []


async def test_without_an_engine_what_needs_it_is_not_checked(settings: Settings) -> None:
    """One failure with its cure, not three."""
    lines: list[str] = []
    assert await examine(settings, lines.append) == 1
    (failed,) = [number for number, line in enumerate(lines) if line.startswith("FAIL")]
    assert lines[failed].split()[1] == "engine"
    assert "no-engine.sock" in lines[failed]
    assert "→ `make engine`" in lines[failed + 1]
    assert [line.split() for line in lines if line.startswith("--")] == [
        ["--", "images", "not", "checked:", "needs", "the", "engine"],
        ["--", "sandbox", "not", "checked:", "needs", "the", "engine"],
    ]
    assert lines[-1] == "1 check(s) failed"


async def test_a_port_that_is_taken(settings: Settings) -> None:
    """By somebody else: choose another one."""
    with socket.create_server(("127.0.0.1", settings.server.port)):
        finding = (await all_findings(settings))["address"]
    assert finding.text.startswith(f"127.0.0.1:{settings.server.port}: Address already in use")
    assert "choose another [server] port" in finding.cure


async def test_a_port_that_our_own_server_has(settings: Settings) -> None:
    """Then all is well; when that server has ended, it is not."""
    store = Store(Path(settings.paths.state_dir))
    with socket.create_server(("127.0.0.1", settings.server.port)):
        assert (await all_findings(settings))["address"] == Finding(
            "address", f"127.0.0.1:{settings.server.port} is taken, and a Sandlot server runs"
        )
        store.close()
        assert (await all_findings(settings))["address"].cure != ""


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_that_is_not_ours(host: str, settings: Settings, tmp_path: Path) -> None:
    """Of another machine, or of none."""
    settings = Settings(server=ServerSettings(host=host), engine=settings.engine, paths=settings.paths)
    finding = (await all_findings(settings))["address"]
    assert finding.text.startswith(f"{host}:8194: ")
    assert "or host" in finding.cure


async def test_directories_that_cannot_be_made(settings: Settings, tmp_path: Path) -> None:
    """A file is in the way: which, and which setting to change."""
    (tmp_path / "a").write_text("")
    finding = (await all_findings(settings))["directories"]
    assert finding.text == f"{tmp_path}/a: Not a directory"
    assert finding.cure == f"make it writable for uid {os.geteuid()}, or set [paths] state_dir"


async def test_too_few_files(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server cannot raise by itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(machine, "MIN_OPEN_FILES", hard + 1)
    finding = (await all_findings(settings))["limits"]
    assert finding.text == f"only {hard} open files allowed"
    assert "LimitNOFILE" in finding.cure


async def test_a_full_disk(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """More is needed than there is."""
    monkeypatch.setattr(machine, "MIN_FREE_DISK_BYTES", 1 << 60)
    finding = (await all_findings(settings))["disk"]
    assert "GB free in" in finding.text
    assert "docker system df" in finding.cure


@pytest.mark.attack(
    "host",
    "root of a sandbox leaves a set-user-ID program in a directory of the host that the settings allow",
    "doctor names the directory, unless its file system ignores such programs or other users cannot reach it",
)
async def test_host_paths_that_every_user_can_reach(settings: Settings, ignoring: Path, tmp_path: Path) -> None:
    """Without such directories nothing is said."""
    assert "host paths" not in await all_findings(settings)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for allowed, is_reached in (("/usr", True), (str(closed), False), (str(ignoring), False)):
        storage = StorageSettings(allowed_host_paths=(allowed,))
        finding = (await all_findings(replace(settings, storage=storage)))["host paths"]
        assert bool(finding.cure) is is_reached, finding
        assert ("nosuid" in finding.cure) is is_reached


@pytest.fixture
def ignoring() -> Iterator[Path]:
    """A directory that every user can reach, on a file system that ignores set-user-ID."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with tempfile.TemporaryDirectory(prefix="sandlot-", dir="/tmp") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,mode=755,size=1m", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


MUCH = Settings(
    sandbox=SandboxSettings(runtime="runsc", allow_network=True, allow_user_namespaces=True),
    pools=(PoolSettings(image="a/b", size=1, name="big", runtime="kata"),),
    engine=EngineSettings(pull="missing"),
    storage=StorageSettings(allowed_host_paths=("/srv",), allowed_volumes=("data",)),
)


def test_what_settings_ask_for_and_an_engine_cannot_do() -> None:
    """Each with the setting that asks for it; nothing where the engine can."""
    able = replace(MOST, runtimes=frozenset({"runsc", "kata"}))
    assert list(unmet_settings(MUCH, able)) == []
    assert list(unmet_settings(MUCH, replace(able, runtimes=frozenset({"runsc"})))) == [
        ("run containers by kata", "[[pools]] big: runtime")
    ]
    assert [key for _, key in unmet_settings(MUCH, FEW)] == [
        "[sandbox] runtime",
        "[[pools]] big: runtime",
        "[sandbox] allow_network",
        "[sandbox] allow_user_namespaces",
        "[storage] allowed_host_paths",
        "[storage] allowed_volumes",
        "[engine] pull",
        "[sandbox] disk_limit",
    ]
    for ability in (Ability.DISK_LIMITS, Ability.DISK_USAGE):  # either is enough
        assert "[sandbox] disk_limit" not in dict(map(reversed, unmet_settings(MUCH, replace(FEW, can={ability}))))


@pytest.mark.parametrize(
    ("abilities", "text"),
    [
        (FEW, "the engine ignores limits on memory, swap, cpu, pids"),
        (
            replace(FEW, limits=MOST.limits),
            "the container engine frugal cannot pull images; and cannot hold a container to a limit of its disk",
        ),
        (MOST, ""),
    ],
)
async def test_an_engine_that_can_do_little(
    abilities: Abilities, text: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctor names what is missing, and what to change."""

    @contextlib.asynccontextmanager
    async def own_driver(settings: Settings, volume: str) -> AsyncIterator[FakeDriver]:
        yield Filtering(FakeEngine(abilities=abilities))

    monkeypatch.setattr(engine, "own_driver", own_driver)
    async with contextlib.aclosing(findings(settings)) as made:
        finding = await anext(finding async for finding in made if finding.check == "engine")
    if text:
        assert finding.text == text
        assert finding.cure
    else:
        assert finding.cure == ""
        assert finding.text.startswith("fake 0, ")


class Filtering(FakeDriver):
    """A driver whose engine filters system calls, and is root's."""

    async def describe(self) -> EngineInfo:
        """See `Driver.describe`."""
        return replace(await super().describe(), seccomp=True, rootless=False)
