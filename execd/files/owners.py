"""The names of users and groups: tables of all of them, for listings of many files."""

from __future__ import annotations

import os

from execd.errors import ExecdError
from execd.files.paths import text
from execd.launch.accounts import GROUPS_FILE, USERS_FILE, read_regular
from execd.launch.environment import MAX_ID

_Signature = tuple[int, int, int]


class _Table:
    """The names and numbers of one file. The file is read again only if it has changed."""

    def __init__(self, path: str, kind: str) -> None:
        self._path = path
        self._kind = kind
        self._signature: _Signature | None = None
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}

    def refresh(self) -> None:
        try:
            found = os.stat(self._path)
            signature = (found.st_mtime_ns, found.st_size, found.st_ino)
            if signature == self._signature:
                return
        except OSError:
            signature = (0, 0, 0)  # images without accounts exist; numbers are sufficient
        self._signature = signature
        self._names, self._numbers = {}, {}
        for line in text(read_regular(self._path)).split("\n"):
            fields = line.split(":", 3)
            if len(fields) > 2 and fields[0] and (number := _number(fields[2])) is not None:
                self._names.setdefault(number, fields[0])
                self._numbers.setdefault(fields[0], number)

    def name(self, number: int) -> str:
        return self._names.get(number) or str(number)

    def number(self, name: str) -> int:
        self.refresh()
        if (number := self._numbers.get(name)) is not None:
            return number
        if (number := _number(name)) is not None:
            return number
        raise ExecdError("request.invalid", f"the sandbox has no {self._kind} {name!r}")


def _number(digits: str) -> int | None:
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 10):
        return None
    number = int(digits)
    return number if number <= MAX_ID else None


class Owners:
    """The users and groups of the sandbox: number to name, and name to number."""

    def __init__(self, users: str = USERS_FILE, groups: str = GROUPS_FILE) -> None:
        self._users = _Table(users, "user")
        self._groups = _Table(groups, "group")

    def refresh(self) -> None:
        """Read the files again if they have changed. Call this once for each request, before the first name."""
        self._users.refresh()
        self._groups.refresh()

    def user(self, uid: int) -> str:
        """Return the name of a user, or the number as text."""
        return self._users.name(uid)

    def group(self, gid: int) -> str:
        """Return the name of a group, or the number as text."""
        return self._groups.name(gid)

    def uid(self, name: str) -> int | None:
        """Return the number of a user that is given by name or number; None for "".

        Raises:
            ExecdError: `request.invalid`: no such user exists.
        """
        return self._users.number(name) if name else None

    def gid(self, name: str) -> int | None:
        """Return the number of a group that is given by name or number; None for "".

        Raises:
            ExecdError: `request.invalid`: no such group exists.
        """
        return self._groups.number(name) if name else None
