"""The egress contract (port 18080): the network policy of a sandbox, which allows everything or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import Wire, json_answer
from controlplane.api.edge.parameters import sandbox_id_of
from controlplane.sandbox import Network

if TYPE_CHECKING:
    from controlplane.lifecycle.sandboxes import Sandboxes


class EgressRules(Wire, frozen=True):
    """The rules of an egress policy."""

    default_action: Literal["allow", "deny"]
    egress: tuple[dict[str, str], ...]


class PolicyView(Wire, frozen=True):
    """The egress policy of a sandbox."""

    status: str
    mode: Literal["allow_all", "deny_all"]
    reason: str
    policy: EgressRules


class Egress:
    """The endpoint."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def policy(self, request: Request) -> Response:
        """Return the egress policy of a sandbox."""
        has_network = self._sandboxes.get(sandbox_id_of(request)).spec.network is not Network.NONE
        return json_answer(
            PolicyView(
                status="ok",
                mode="allow_all" if has_network else "deny_all",
                reason="the sandbox has a network" if has_network else "no interface but loopback",
                policy=EgressRules("allow" if has_network else "deny", ()),
            )
        )
