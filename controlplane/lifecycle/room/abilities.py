"""Whether the engine can make what was asked for."""

from __future__ import annotations

from controlplane.errors import InvalidRequest, Unsupported
from controlplane.runtime.abilities import Wanted
from controlplane.runtime.driver import Driver


async def check_abilities(driver: Driver, wanted: Wanted) -> None:
    """Refuse what the engine cannot make.

    An engine that cannot is asked once more: an operator may have taught it since the start.

    Raises:
        InvalidRequest: the message names the engine.
        RuntimeFailure: the engine does not answer.
    """
    try:
        driver.abilities.check(wanted)
    except Unsupported:
        await driver.describe()
        try:
            driver.abilities.check(wanted)
        except Unsupported as error:
            raise InvalidRequest(error.message, code="sandbox.unsupported") from error
