"""`sandlot attack` against real servers. `test_weakened.py` and `test_open_doors.py` show that each could fail."""

from __future__ import annotations

import asyncio
import json
import urllib.error
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version

import pytest

from controlplane.attack import battery, catalogue
from controlplane.attack.client.api import Api
from controlplane.attack.client.model import Attack, Result
from controlplane.attack.client.outcome import Verdict
from controlplane.attack.client.target import Target
from controlplane.attack.report import make_report, record
from tests.support.server.live_server import LiveServer

IMAGE = "sandlot/code-interpreter"
# What a server that listens on the loopback, and sandboxes without a network, give an attack no chance for.
NOT_APPLICABLE = {"edge.clear-text"}


def attacked(server: LiveServer, names: list[str]) -> dict[str, Result]:
    """Carry attacks out on a server."""

    async def work() -> list[Result]:
        async with Api(server.address.replace("0.0.0.0", "127.0.0.1"), server.key) as api, Target(api, IMAGE) as target:
            return await battery.run(catalogue.choose(names), target, lambda _: None)

    return {result.attack.id: result for result in asyncio.run(work())}


@pytest.fixture(scope="module")
def ordinary() -> Iterator[dict[str, Result]]:
    """What came of the whole battery on a server with its default settings; it leaves no sandbox and no secret."""
    with LiveServer(["--pool-size", "2"]) as server:
        results = attacked(server, [])
        assert server.request("GET", "/v1/sandboxes")["items"] == []
        assert server.key not in server.log
        yield results


@pytest.fixture(scope="module")
def hardened() -> Iterator[dict[str, Result]]:
    """The same for what a hardened sandbox may do."""
    with LiveServer(["--pool-size", "1", "--hardened", "true"]) as server:
        yield attacked(server, ["host", "agent", "residue"])


@pytest.fixture(scope="module")
def networked() -> Iterator[dict[str, Result]]:
    """The attacks over a network that sandboxes were given, with a server that listens on every address."""
    with LiveServer(["--pool-size", "1", "--allow-network", "true", "--host", "0.0.0.0"]) as server:
        yield attacked(server, ["network"])


def check(results: Mapping[str, Result], attack: Attack, not_applicable: set[str]) -> None:
    outcome = results[attack.id].outcome
    if attack.id in not_applicable:
        assert outcome.verdict is Verdict.NOT_APPLICABLE, outcome
    else:
        assert outcome.verdict is Verdict.HELD, outcome


@pytest.mark.timeout(900)  # of which the first pays for all
@pytest.mark.parametrize("attack", catalogue.ATTACKS, ids=lambda attack: attack.id)
def test_a_server_as_it_comes_holds(ordinary: dict[str, Result], attack: Attack) -> None:
    """An attack that does not run is a failure of the test, not a success of the server."""
    check(ordinary, attack, NOT_APPLICABLE)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("attack", catalogue.choose(["host", "agent", "residue"]), ids=lambda attack: attack.id)
def test_the_hardened_profile_holds(hardened: dict[str, Result], attack: Attack) -> None:
    """Nobody in it is root, so that no set-uid root program can be made."""
    check(hardened, attack, {"host.set-uid"})


_NOT_WITH_A_NETWORK = {"network.interfaces", "network.udp", "network.ping"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("attack", catalogue.choose(["network"]), ids=lambda attack: attack.id)
def test_with_a_network_only_what_is_known_is_broken(networked: dict[str, Result], attack: Attack) -> None:
    """What the page on security does not promise is shown as broken, and as known."""
    outcome = networked[attack.id].outcome
    if attack.known:
        assert outcome.verdict is not Verdict.UNCLEAR, outcome
    else:
        check(networked, attack, _NOT_WITH_A_NETWORK)


def test_the_network_attacks_see_an_open_network(networked: dict[str, Result]) -> None:
    """The host and the server on it are reached: the attacks that are held without a network could fail."""
    for name in ("network.host-services", "network.control-plane"):
        assert networked[name].outcome.verdict is Verdict.BROKEN, networked[name].outcome


def test_a_server_is_ready_only_after_an_attack() -> None:
    """With the setting; /health stays what it is."""
    with LiveServer(["--pool-size", "0", "--ready-needs-attack", "true"]) as server:
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.request("GET", "/ready")
        assert refused.value.code == 503
        assert "run `sandlot attack --record`" in json.load(refused.value)["message"]
        assert server.request("GET", "/health") == {"status": "healthy"}
        held = make_report([], release=version("sandlot"), server="", image="", began=datetime.now(UTC))
        record(held, server.directory / "state")
        assert server.request("GET", "/ready") == {"status": "ready"}
