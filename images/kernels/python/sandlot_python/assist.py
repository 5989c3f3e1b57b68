"""The questions of an editor about code: what may stand at the cursor, and what the name there is."""

from __future__ import annotations

from typing import Any

from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.utils.tokenutil import token_at_cursor

from sandlot_python.plain import bundle_of, count_of, text_of
from sandlot_python.shell import ContextShell

MAX_MATCHES = 1000


def complete(shell: ContextShell, code: str, cursor: int) -> dict[str, Any]:
    """Return `matches`, and the characters from `start` to `end` that each of them may replace."""
    with provisionalcompleter():
        found = list(rectify_completions(code, shell.Completer.completions(code, cursor)))[:MAX_MATCHES]
    start, end = (found[0].start, found[0].end) if found else (cursor, cursor)
    matches = list(dict.fromkeys(text_of(one.text) for one in found))
    return {"matches": matches, "start": count_of(start), "end": count_of(end)}


def inspect(shell: ContextShell, code: str, cursor: int, *, detail: bool) -> dict[str, str]:
    """Return signature and documentation of the name at the cursor, by MIME type; {} if the name is unknown."""
    name = token_at_cursor(code, cursor)
    try:
        found = shell.object_inspect_mime(name, detail_level=int(detail))
    except KeyError:
        return {}
    return bundle_of({mime: text for mime, text in found.items() if isinstance(text, str)})
