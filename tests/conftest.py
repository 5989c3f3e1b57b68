"""For all tests."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import structlog
from httpx._config import DEFAULT_TIMEOUT_CONFIG

from tests.support.schedule import order, scheduler

if TYPE_CHECKING:
    from xdist.remote import Producer

    from controlplane.link.link import Link
    from controlplane.server.composition import ControlPlane
    from tests.contract.worlds import DockerWorld
    from tests.support.agent.execd_link import ControlPlaneEnd
    from tests.support.server.control_plane import Home

pytest_plugins = ("tests.support.browser",)

# Whoever starts this may ignore SIGINT, as shells do for `… &`. What we start would inherit that, and never be
# interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# A client that says nothing else waits for 5 s, which is too short on a machine that is loaded.
for _phase in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, _phase, 60.0)


@pytest.fixture(autouse=True)
def logs_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a test sets up for logs: `capture_logs` of a later test would miss lines, or find none."""
    configure, uncached = structlog.configure, {"cache_logger_on_first_use": False}
    monkeypatch.setattr(structlog, "configure", lambda **options: configure(**options | uncached))
    yield
    structlog.reset_defaults()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> object:
    """Share the tests out among the workers of `pytest -n`."""
    return scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests of such a worker."""
    if hasattr(config, "workerinput"):
        order(items)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Shorten the names of such a worker's directories: tests put Unix sockets into them."""
    if hasattr(config, "workerinput") and config.option.basetemp:
        config.option.basetemp = config.option.basetemp.replace("popen-gw", "")


@pytest.fixture
async def link(end: ControlPlaneEnd) -> Link:
    """A link that is ready, from the execd that dials the *end* of the test's module."""
    return await end.next_link()


@pytest.fixture
async def plane(home: Home) -> AsyncIterator[ControlPlane]:
    """A control plane in the *home* of the test's module or folder, with a full pool."""
    async with home.run() as plane:
        yield plane


@pytest.fixture
async def world() -> AsyncIterator[DockerWorld]:
    """The real container engine, from which all that a test makes is removed."""
    from tests.contract.worlds import docker_world

    async with docker_world() as world:
        yield world
