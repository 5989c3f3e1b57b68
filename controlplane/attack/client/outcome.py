"""What came of an attack."""

from __future__ import annotations

import enum

import msgspec


class Verdict(enum.StrEnum):
    """What came of an attack. An attack that did not run is never `held`."""

    HELD = "held"
    BROKEN = "broken"
    NOT_APPLICABLE = "not applicable"  # the deployment or the image has not what this attack needs
    UNCLEAR = "unclear"  # the attack did not run to its end


class Outcome(msgspec.Struct, frozen=True):
    """A verdict, and what was seen."""

    verdict: Verdict
    text: str = ""


def held(text: str = "") -> Outcome:
    """Return the outcome of an attack against which the deployment holds."""
    return Outcome(Verdict.HELD, text)


def broken(text: str) -> Outcome:
    """Return the outcome of an attack that succeeded; *text* tells what it reached."""
    return Outcome(Verdict.BROKEN, text)


def not_applicable(reason: str) -> Outcome:
    """Return the outcome of an attack that means nothing here."""
    return Outcome(Verdict.NOT_APPLICABLE, reason)


def unclear(reason: str) -> Outcome:
    """Return the outcome of an attack that did not run to its end."""
    return Outcome(Verdict.UNCLEAR, reason)
