"""The tokens of all sandboxes, recognised wherever they come: one that has come to the wrong place stays a secret."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection

from controlplane.api.edge.auth import Checks

_FORM = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


class SandboxTokens:
    """Tells whether a text is the token of a sandbox. A token is derived, so that none is written down anywhere."""

    def __init__(self, credentials: Checks, ids: Callable[[], Collection[str]]) -> None:
        """Look at the tokens of all sandboxes, whose ids *ids* returns."""
        self._credentials = credentials
        self._ids = ids
        self._digests: dict[str, bytes] = {}  # of the tokens, by the sandbox's id
        self._known: set[bytes] = set()

    def holds(self, text: str) -> bool:
        """Return whether *text* is the token of any sandbox."""
        if not _FORM.fullmatch(text):
            return False
        self._catch_up()
        return _digest(text) in self._known

    def _catch_up(self) -> None:
        ids = set(self._ids())
        for sandbox_id in ids - self._digests.keys():
            digest = self._digests[sandbox_id] = _digest(self._credentials.sandbox_token(sandbox_id))
            self._known.add(digest)
        for sandbox_id in self._digests.keys() - ids:
            self._known.discard(self._digests.pop(sandbox_id))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
