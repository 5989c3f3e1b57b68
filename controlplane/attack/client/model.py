"""What an attack is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from controlplane.attack.client.outcome import Outcome
from controlplane.attack.client.target import Target

Act = Callable[[Target], Awaitable[Outcome]]

ATTACK_TIMEOUT_S = 60.0  # of an attack that names none; whatever an attack starts ends with it


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """One attack: either a *program* for a sandbox's root, or an *act* of a client.

    `program` is Python for the agent's own interpreter; see `program.py` for what it may use.
    """

    id: str  # category.name
    tries: str
    outcome: str  # the required outcome
    cure: str
    program: str = ""
    uid: int | None = None  # of the program; None: the sandbox's own user
    act: Act | None = None
    must_pass: bool = True
    known: str = ""  # why it is broken in this release, where that is known
    waits: bool = False  # it mostly waits for a time limit of the server, so it runs beside the others
    timeout_s: float = ATTACK_TIMEOUT_S

    @property
    def category(self) -> str:
        """The category, which is the first part of the id."""
        return self.id.partition(".")[0]


class Result(msgspec.Struct, frozen=True):
    """What came of one attack, and how long it took."""

    attack: Attack
    outcome: Outcome
    seconds: float
