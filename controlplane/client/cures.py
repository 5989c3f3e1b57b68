"""What a person can do about an error of a command, in the one line that names the error."""

from __future__ import annotations

from controlplane.client.answers import NoAnswer, Refused
from controlplane.client.text import safe
from controlplane.errors import SandlotError


def cure(error: SandlotError) -> str:
    """Return the message of an error and its cure, safe for a terminal."""
    if isinstance(error, Refused):
        text = _of_refusal(error)
    elif isinstance(error, NoAnswer):
        text = f"{error.message}; start it (`sandlot serve`), or name another one by --server or OPEN_SANDBOX_DOMAIN"
    else:
        text = error.message
    return safe(text, keep="\n")


def _of_refusal(error: Refused) -> str:
    said = error.message
    if error.status == 401:
        return f"{said}; set OPEN_SANDBOX_API_KEY or give --key-file (on the server's machine, `sandlot key` prints it)"
    if error.status == 403 and error.code == "INSUFFICIENT_SCOPE":
        return f"{said}; use a key with that scope (`sandlot keys list` shows which there are)"
    if "is Paused" in said:
        return f"{error.said}; `sandlot resume` it"
    if error.status in (404, 405) and not error.code:
        return f"{said}; the server may be of an earlier release"
    return said
