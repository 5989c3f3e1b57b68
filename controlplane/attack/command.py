"""The command `sandlot attack`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from controlplane.attack import battery, catalogue
from controlplane.attack.age import Aged, examine_if_possible
from controlplane.attack.client.api import Api, Unreachable
from controlplane.attack.client.model import Attack, Result
from controlplane.attack.client.target import Refused, Target
from controlplane.attack.report import Report, age_lines, lines, make_report, record
from controlplane.errors import ConfigError


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the command is to do."""

    server: str
    key: str
    image: str
    only: tuple[str, ...] = ()
    as_json: bool = False
    record_in: Path | None = None
    # Of the engine and the images whose age is looked at; None where the server is another machine's.
    engine_url: str | None = None
    images_dir: Path = Path()


def list_attacks(only: Sequence[str], announce: Callable[[str], None]) -> int:
    """Print the attacks without carrying one out; return the exit status."""
    for attack in _chosen(only):
        mark = "" if attack.must_pass else " (advice)"
        announce(f"{attack.id:32}{attack.tries}{mark}\n{'':32}→ {attack.outcome}")
    return 0


async def attack(order: Order, announce: Callable[[str], None]) -> int:
    """Carry attacks out and print the scorecard; return the exit status.

    Raises:
        ConfigError: there is no such attack or server, or the server refuses the key.
    """
    chosen = _chosen(order.only)
    began = datetime.now(UTC)

    def tell(result: Result) -> None:
        if not order.as_json:
            for line in lines(result):
                announce(line)

    async with Api(order.server, order.key) as api:
        await _check(api)
        async with Target(api, order.image) as target:
            try:
                await target.neighbour()
            except (Refused, Unreachable, TimeoutError) as error:
                raise ConfigError(f"the attacks need sandboxes of their own: {error}") from error
            results = await battery.run(chosen, target, tell)
    parts: list[Aged] = []
    if order.engine_url is not None and not order.only:
        parts = await examine_if_possible(order.engine_url, order.images_dir)
    report = make_report(
        results, release=version("sandlot"), server=order.server, image=order.image, began=began, age=parts
    )
    if order.record_in is not None:
        record(report, order.record_in)
    _tell_end(order, report, announce)
    return report.exit_status


def _chosen(only: Sequence[str]) -> list[Attack]:
    try:
        return catalogue.choose(only)
    except KeyError as error:
        raise ConfigError(
            f"--only: there is no attack and no category {error.args[0]!r}; `sandlot attack --list` has them"
        ) from error


async def _check(api: Api) -> None:
    """Raise ConfigError unless the server is there and takes the key."""
    try:
        answer = await api.request("GET", "/v1/sandboxes?pageSize=1")
    except Unreachable as error:
        raise ConfigError(
            f"{api.server} does not answer ({error}); start it, or name another one by --server"
        ) from error
    if answer.status != 200:
        raise ConfigError(f"{api.server} answers {answer.status} to the key; give an admin key by --api-key")


def _tell_end(order: Order, report: Report, announce: Callable[[str], None]) -> None:
    if order.as_json:
        announce(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
        return
    for line in age_lines(report.age):
        announce(line)
    announce(report.summary())
    if order.record_in is not None:
        announce(f"recorded in {order.record_in}")
