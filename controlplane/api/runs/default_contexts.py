"""The default contexts, in which code runs that names no context; and which contexts are known to exist."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from controlplane.errors import AgentError, InvalidRequest
from execd.wire.messages import ContextList, ContextOpen, ContextState

if TYPE_CHECKING:
    from controlplane.link.relay import Relay

DEFAULT_LANGUAGE = "python"
MAX_KNOWN_CONTEXTS = 10_000


class Contexts:
    """The contexts that are known to exist, so that a run needs no question before it."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()  # with their languages
        self._opening: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def add(self, sandbox_id: str, context_id: str, language: str) -> None:
        """Note that a context of a language exists."""
        self._known[sandbox_id, context_id] = language
        self._known.move_to_end((sandbox_id, context_id))
        if len(self._known) > MAX_KNOWN_CONTEXTS:
            self._known.popitem(last=False)

    def discard(self, sandbox_id: str, context_id: str) -> None:
        """Note that a context has gone, or may have."""
        self._known.pop((sandbox_id, context_id), None)

    def language(self, sandbox_id: str, context_id: str) -> str:
        """Return the language of a context that is known to exist; "" of any other."""
        return self._known.get((sandbox_id, context_id), "")

    async def ensure(self, sandbox_id: str, context_id: str, language: str) -> None:
        """Return when the context exists. A default context has a language, and is made where it does not exist.

        Raises:
            AgentError: the context does not exist, or cannot be made.
            NotFound, Conflict, LinkLost: as `Relay.open`.
        """
        key = (sandbox_id, context_id)
        if key in self._known:
            return
        if not language:
            state = await self._relay.call(sandbox_id, ContextList(id=context_id), ContextState)
            self.add(*key, state.language)
            return
        lock = self._opening.setdefault(key, asyncio.Lock())
        async with lock:
            if key in self._known:
                return
            try:
                await self._relay.call(sandbox_id, ContextOpen(id=context_id, language=language), ContextState)
            except AgentError as error:
                # A control plane before this one has made the context.
                if error.code != "context.duplicate":
                    raise
            self.add(*key, language)


def default_context_id(language: str) -> str:
    """Return the id of the context in which code runs that names none."""
    return f"default-{language}"


def language_of(name: str | None) -> str:
    """Return the language that a client means; without a name, the default one. Raises InvalidRequest."""
    language = (name or DEFAULT_LANGUAGE).strip().lower()
    if not language.isascii() or not language.replace("-", "").isalnum() or len(language) > 32:
        raise InvalidRequest(f"language: {language[:64]!r} is not a language", code="request.body")
    return language
