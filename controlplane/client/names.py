"""Sandboxes by a beginning of their id that no other one has, or by the name in their metadata."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from controlplane.client.answers import Refused
from controlplane.client.server import Json, Server, sandbox_path
from controlplane.client.text import safe
from controlplane.errors import NotFound

SHORT = 12  # characters of an id in tables
NAME_KEY = "name"  # of the metadata
NEAR = 3  # suggestions
# A whole id: it is asked for by itself, not searched for in the list.
_WHOLE = re.compile(r"[0-9a-f]{16,}|[0-9a-f-]{36}")


def name_of(sandbox: Json) -> str:
    """Return the name in a sandbox's metadata, or ""."""
    return str((sandbox.get("metadata") or {}).get(NAME_KEY, ""))


def listed(server: Server, states: Sequence[str] = (), metadata: Sequence[tuple[str, str]] = ()) -> list[Json]:
    """Return the sandboxes that the key sees: in any of the states, and with all of the metadata."""
    query = [("state", each) for each in states]
    if metadata:
        query.append(("metadata", urlencode(metadata, quote_via=quote)))
    found = server.pages(f"/v1/sandboxes?{urlencode(query)}" if query else "/v1/sandboxes")
    # A sandbox that begins or ends between two pages may be on both.
    return list({str(each["id"]): each for each in found}.values())


def find(server: Server, text: str) -> Json:
    """Return the sandbox that a text of the command line means.

    Raises:
        NotFound: there is none or more than one; the message has those that might be meant.
    """
    if _WHOLE.fullmatch(text):
        try:
            found: Json = server.ask("GET", sandbox_path(text))
        except Refused as refused:
            if refused.status != 404:
                raise
        else:
            return found
    sandboxes = listed(server)
    exact = [each for each in sandboxes if each["id"] == text] or [each for each in sandboxes if name_of(each) == text]
    matches = exact or [each for each in sandboxes if text and str(each["id"]).startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(_shown(each) for each in matches[:NEAR])
        more = f" and {len(matches) - NEAR} more" if len(matches) > NEAR else ""
        raise NotFound(f"{safe(text)} can be {shown}{more}; write more of the id")
    raise NotFound(f"there is no sandbox {safe(text[:80])}{_near(text, sandboxes)}")


def _shown(sandbox: Json) -> str:
    name = name_of(sandbox)
    return str(sandbox["id"])[:SHORT] + (f" ({safe(name)})" if name else "")


def _near(text: str, sandboxes: Sequence[Json]) -> str:
    if not sandboxes:
        return "; there are no sandboxes (`sandlot run IMAGE` makes one)"
    known = {str(each["id"])[: max(SHORT, len(text))]: each for each in sandboxes}
    known |= {name_of(each): each for each in sandboxes if name_of(each)}
    near = difflib.get_close_matches(text, known, n=NEAR, cutoff=0.5)
    shown = dict.fromkeys(_shown(known[each]) for each in near)
    return f"; did you mean {' or '.join(shown)}?" if shown else "; `sandlot ps --all` lists those that there are"
