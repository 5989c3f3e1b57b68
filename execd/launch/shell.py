"""Text for shells: quotes and assignments."""

from __future__ import annotations

import re
from collections.abc import Mapping

from execd.errors import ExecdError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def quoted(text: str) -> str:
    """Return *text* as one word of a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def exports(env: Mapping[str, str]) -> str:
    """Return the lines that export variables into a bash, whatever functions that bash has defined; "" for none.

    Raises:
        ExecdError: `request.invalid`: a name is not one that shells accept, or a value contains a NUL byte.
    """
    for name, value in env.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise ExecdError("request.invalid", f"{name[:80]!r} cannot be a variable of a shell")
    return "".join(f"\\builtin export {name}={quoted(value)}\n" for name, value in env.items())
