"""Users and groups, read from /etc/passwd and /etc/group.

The modules `pwd` and `grp` would make the C library load the image's NSS modules. Many images have no such files at
all.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

USERS_FILE = "/etc/passwd"
GROUPS_FILE = "/etc/group"

# Far larger than any real file of this kind. Code in the sandbox can write these files. It must not be able to stop
# execd by that.
MAX_FILE_BYTES = 1 << 20


class User(NamedTuple):
    """One line of /etc/passwd."""

    name: str
    uid: int
    gid: int  # of the primary group
    home: str


def find_user(key: str | int, path: str | None = None) -> User | None:
    """Return the first user with this name or number, or None."""
    for fields in _lines(path or USERS_FILE, 7):
        if not (fields[2].isdecimal() and fields[3].isdecimal()):
            continue
        user = User(fields[0], int(fields[2]), int(fields[3]), fields[5])
        if key == (user.uid if isinstance(key, int) else user.name):
            return user
    return None


def supplementary_groups(user_name: str, path: str | None = None) -> list[int]:
    """Return the numbers of all groups that list this user as a member."""
    return [
        int(fields[2])
        for fields in _lines(path or GROUPS_FILE, 4)
        if fields[2].isdecimal() and user_name in fields[3].split(",")
    ]


def read_regular(path: str, owners: frozenset[int] | None = None) -> str:
    """Return the content of a small text file, with undecodable bytes as surrogates.

    The result is "" if the file is missing, unreadable, larger than MAX_FILE_BYTES or not regular (a FIFO would block
    execd). With *owners*, a symlink and a file of any other owner count as missing too.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | (0 if owners is None else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
    except (OSError, ValueError):
        return ""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            return ""
        if owners is not None and status.st_uid not in owners:
            return ""
        return os.read(fd, MAX_FILE_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _lines(path: str, field_count: int) -> list[list[str]]:
    rows = (line.split(":") for line in read_regular(path).split("\n"))
    return [row for row in rows if len(row) >= field_count]
