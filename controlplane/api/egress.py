"""The egress contract (port 18080): what a sandbox may reach. Today that is everything or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.schema import Wire, json_answer

if TYPE_CHECKING:
    from controlplane.lifecycle.sandboxes import Sandboxes


class EgressRules(Wire, frozen=True):
    """`policy`."""

    default_action: Literal["allow", "deny"]
    egress: tuple[dict[str, str], ...]


class PolicyView(Wire, frozen=True):
    """What a sandbox may reach."""

    status: str
    mode: Literal["allow_all", "deny_all"]
    reason: str
    policy: EgressRules


class Egress:
    """The endpoint."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def policy(self, request: Request) -> Response:
        """GET /policy at port 18080, and GET /sandboxes/{id}/networkpolicy."""
        has_network = self._sandboxes.get(request.path_params["sandbox_id"]).spec.network
        return json_answer(
            PolicyView(
                status="ok",
                mode="allow_all" if has_network else "deny_all",
                reason="the sandbox has a network" if has_network else "no interface but loopback",
                policy=EgressRules("allow" if has_network else "deny", ()),
            )
        )
