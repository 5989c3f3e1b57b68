"""Access control for tests, with fixed keys."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.access.attempts import Attempts
from controlplane.access.audit import Audit
from controlplane.access.connections import KeyConnections
from controlplane.access.control import AccessControl
from controlplane.access.keys import Keys
from controlplane.access.sign_ins import Links, SignIns


def fixed_access(keys: Mapping[str, str]) -> AccessControl:
    """Return the access control of a server with these administrators' keys, by name, without a store and a log."""
    connections, known = KeyConnections(), Keys(keys)
    return AccessControl(
        keys=known,
        sign_ins=SignIns(known, on_ended=connections.end_others),
        links=Links(known),
        connections=connections,
        attempts=Attempts(0),
        audit=Audit(None, "off"),
    )
