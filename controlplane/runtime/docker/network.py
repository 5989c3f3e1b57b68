"""The bridge of all sandboxes that have a network."""

from __future__ import annotations

from typing import Any

import aiodocker
from aiodocker import DockerError

from controlplane.errors import RuntimeFailure
from controlplane.runtime.docker import hardening
from controlplane.runtime.docker.engine import our_errors

NETWORK = "sandlot"

_EXISTS = (403, 409)  # its bridge, its name


class Bridge:
    """A network of the engine, made when it is first needed.

    Args:
        name: Also the interface's name on the host, so at most 15 characters.
    """

    def __init__(self, docker: aiodocker.Docker, name: str) -> None:
        self._docker = docker
        self.name = name

    async def ensure(self) -> None:
        """Make the network if it is not there; safe against others who do the same now.

        Raises:
            RuntimeFailure: the engine failed, or has a network of that name that keeps nobody apart.
        """
        with our_errors(f"make the network {self.name}"):
            network = await self._find()
            if network is None:
                try:
                    await self._docker.networks.create(hardening.network_config(self.name))
                except DockerError as error:
                    if error.status not in _EXISTS:
                        raise
                if (network := await self._find()) is None:
                    raise RuntimeFailure(f"the network {self.name} vanished while it was made")
        if not hardening.is_confined(network):
            raise RuntimeFailure(
                f"the engine's network {self.name} is not ours: it lets containers talk to each other. "
                f"Remove it (`docker network rm {self.name}`); the next sandbox makes it anew"
            )

    async def _find(self) -> dict[str, Any] | None:
        found = await self._docker.networks.list(filters={"name": self.name})
        return next((network for network in found if network["Name"] == self.name), None)
