"""All checks, in their order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from controlplane.server.doctor.engine import check_engine, check_images, check_sandbox, look_at_age
from controlplane.server.doctor.finding import Finding, explained
from controlplane.server.doctor.machine import (
    check_address,
    check_directories,
    check_disk,
    check_host_paths,
    check_limits,
)
from controlplane.settings.sections import Settings


async def findings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield the finding of each check; later checks depend on earlier ones.

    The checks change nothing on this machine, except that they start a container and remove it again.
    """
    for name, check in (
        ("address", check_address),
        ("directories", check_directories),
        ("limits", check_limits),
        ("disk", check_disk),
        *((("host paths", check_host_paths),) if settings.storage.allowed_host_paths else ()),
    ):
        with explained(name) as found:
            found.append(Finding(name, check(settings)))
        yield found[0]
    engine_checks: tuple[tuple[str, Callable[[Settings], Awaitable[str]]], ...] = (
        ("engine", check_engine),
        ("images", check_images),
        ("sandbox", check_sandbox),
    )
    for name, wait_for in engine_checks:
        with explained(name) as found:
            found.append(Finding(name, await wait_for(settings)))
        yield found[0]
        if name == "engine" and found[0].cure:
            for other, _ in engine_checks[1:]:
                yield Finding(other, "not checked: needs the engine", skipped=True)
            return
    with explained("age") as found:
        found.extend(await look_at_age(settings))
    for finding in found:
        yield finding
