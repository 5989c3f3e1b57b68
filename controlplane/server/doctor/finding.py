"""The result of a check, and how a check fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from controlplane.errors import SandlotError


class Finding(msgspec.Struct, frozen=True):
    """The result of one check. `cure` is empty if the check passed or was skipped.

    Advice is no failure: the problem may have been fixed already, which the check cannot see.
    """

    check: str
    text: str
    cure: str = ""
    skipped: bool = False
    is_advice: bool = False


class Trouble(Exception):
    """A failed check, with the problem and the cure."""

    def __init__(self, text: str, cure: str) -> None:
        super().__init__(text)
        self.text = text
        self.cure = cure


@contextlib.contextmanager
def explained(name: str) -> Iterator[list[Finding]]:
    """Yield a list for the findings of a check, and add the failure of the check to it."""
    found: list[Finding] = []
    try:
        yield found
    except Trouble as trouble:
        found.append(Finding(name, trouble.text, trouble.cure))
    except SandlotError as error:
        found.append(Finding(name, error.message, "`make engine`, `make images`, then `sandlot doctor` again"))
    except OSError as error:
        found.append(Finding(name, str(error), "fix this error of the system, then run `sandlot doctor` again"))
