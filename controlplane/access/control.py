"""The guards of the server together: keys, sign-ins, their connections, failed attempts, and the audit log."""

from __future__ import annotations

import msgspec

from controlplane.access.attempts import Attempts
from controlplane.access.audit import Audit
from controlplane.access.connections import KeyConnections
from controlplane.access.keys import Keys
from controlplane.access.sign_ins import Links, SignIns


class AccessControl(msgspec.Struct, frozen=True, kw_only=True):
    """The objects by which the edge decides about callers, and records their operations."""

    keys: Keys
    sign_ins: SignIns
    links: Links
    connections: KeyConnections
    attempts: Attempts
    audit: Audit
