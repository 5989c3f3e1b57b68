"""The operations of the egress contract. Most of them are refused."""

from __future__ import annotations

from controlplane.access.scopes import Needs
from controlplane.api.edge.addresses import EGRESS_PORT
from controlplane.api.edge.operation import METHODS, Operation, Refusal, at_port
from controlplane.api.egress.policy import Egress, PolicyView

NO_POLICY_CHANGE = Refusal(400, "changing the egress policy", "The egress policy cannot be changed.")
_VAULT, _NO_VAULT = "the credential vault", "There is no credential vault."

_REFUSED_VAULT = Operation(
    *("vault.refuse", "GET PATCH DELETE", "/credential-vault", Refusal(404, _VAULT, _NO_VAULT), Needs.KEY),
    is_change=False,
)

EGRESS: tuple[Operation, ...] = at_port(
    EGRESS_PORT,
    (
        Operation(
            *("egress.policy", "GET", "/policy", Egress.policy, Needs.READ),
            is_change=False,
            counts_as_use=True,
            answer=PolicyView,
        ),
        Operation(
            *("egress.change", "POST PUT PATCH DELETE", "/policy", NO_POLICY_CHANGE, Needs.KEY),
            is_change=False,
        ),
        _REFUSED_VAULT,
        Operation(
            *("vault.create", "POST", "/credential-vault", Refusal(400, _VAULT, _NO_VAULT), Needs.KEY),
            is_change=False,
        ),
        _REFUSED_VAULT.at(METHODS, "/credential-vault/{rest:path}"),
    ),
)
