"""`/sandboxes/{id}/diagnostics`: what its entrypoint said, and what happened to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import Wire, json_answer
from controlplane.api.edge.parameters import integer, sandbox_id_of
from controlplane.errors import InvalidRequest, NotFound, SandlotError
from controlplane.lifecycle.records.journal import KEPT
from controlplane.link.link import read_output
from controlplane.sandbox import Network, State, status_of
from execd.wire.messages import ENTRYPOINT_ID
from execd.wire.utf8 import continued

if TYPE_CHECKING:
    from controlplane.lifecycle.records.registry import Registry
    from controlplane.link.relay import Relay

MAX_LINES = 100
MAX_BYTES = 64 << 10
TEXT = "text/plain; charset=utf-8"


class DiagnosticContent(Wire, frozen=True, kw_only=True):
    """One kind of diagnostics in one scope."""

    sandbox_id: str
    kind: str
    scope: str
    delivery: str
    content_type: str
    truncated: bool
    content: str
    content_length: int
    cursor: int | UnsetType = UNSET
    warnings: tuple[str, ...] = ()


class Diagnostics:
    """The endpoints."""

    def __init__(self, registry: Registry, relay: Relay) -> None:
        self._registry = registry
        self._relay = relay

    async def read(self, request: Request) -> Response:
        """Return diagnostics of a sandbox.

        `logs` has the scope `container`: the last output of the entrypoint. `events` has the scope `runtime`: changes
        of state, renewals and messages of the engine. The scope `all` is the same. Without a scope, the answer is text.

        With `cursor`, a number of bytes, `logs` has all that was printed after them and is still kept; the answer names
        the next cursor. To read diagnostics is not a use of the sandbox.
        """
        sandbox_id, kind = sandbox_id_of(request), request.path_params["kind"]
        self._registry.get(sandbox_id)
        scope, cursor = request.query_params.get("scope", ""), integer(request, "cursor")
        if kind in ("summary", "inspect"):
            return Response(await self._summary(sandbox_id), media_type=TEXT)
        if kind not in ("logs", "events"):
            raise NotFound(f"diagnostics: there is no {kind[:64]!r}; there are logs, events, summary and inspect")
        only = "container" if kind == "logs" else "runtime"
        if scope not in ("", only, "all"):
            raise InvalidRequest(f"scope: must be {only} or all, not {scope[:64]!r}", code="diagnostics.scope")
        if cursor is not None and not (kind == "logs" and scope):
            raise InvalidRequest("cursor: needs logs, and a scope", code="request.query")
        end: int | UnsetType = UNSET
        if cursor is not None:
            content, end, warnings = await self._logs_after(sandbox_id, cursor)
            truncated = False
        elif kind == "logs":
            content, truncated, warnings = await self._logs(sandbox_id)
        else:
            content, truncated, warnings = self._events(sandbox_id)
        if not scope:
            return Response(content, media_type=TEXT, headers={"Deprecation": "true"})
        return json_answer(
            DiagnosticContent(
                sandbox_id=sandbox_id,
                kind=kind,
                scope=scope,
                delivery="inline",
                content_type=TEXT,
                truncated=truncated,
                content=content,
                content_length=len(content.encode()),
                cursor=end,
                warnings=warnings,
            )
        )

    async def _logs(self, sandbox_id: str) -> tuple[str, bool, tuple[str, ...]]:
        try:
            output, _ = await self._output(sandbox_id)
        except SandlotError as error:
            return "", False, (_unreadable(error),)
        text, is_cut = last_lines(output)
        return text, is_cut, ()

    async def _logs_after(self, sandbox_id: str, cursor: int) -> tuple[str, int, tuple[str, ...]]:
        """Return the output of an entrypoint from a byte on, the next cursor, and warnings."""
        try:
            output, end = await self._output(sandbox_id, cursor)
        except SandlotError as error:
            return "", cursor, (_unreadable(error),)
        return output.decode(errors="replace"), max(cursor, end), ()

    async def _output(self, sandbox_id: str, cursor: int = 0) -> tuple[bytes, int]:
        """Return the output of an entrypoint from a byte on, and its end. Raises SandlotError."""
        kept = self._registry.journal.output(sandbox_id)
        if kept is None:
            return await read_output(await self._relay.link(sandbox_id), ENTRYPOINT_ID, cursor)
        output, end = kept
        return output[max(0, len(output) - max(0, end - cursor)) :], end

    def _events(self, sandbox_id: str) -> tuple[str, bool, tuple[str, ...]]:
        journal = self._registry.journal
        lines = [f"{entry.at:%Y-%m-%dT%H:%M:%S.%fZ} {entry.kind} {entry.text}" for entry in journal.entries(sandbox_id)]
        is_full = journal.is_full(sandbox_id)
        warnings = (f"only the last {KEPT} are kept",) if is_full else ()
        return "".join(f"{line.rstrip()}\n" for line in lines), is_full, warnings

    async def _summary(self, sandbox_id: str) -> str:
        sandbox = self._registry.get(sandbox_id)
        limits = sandbox.spec.limits
        facts = {
            "id": sandbox.id,
            "state": sandbox.state.value,
            "reason": "{} {}".format(*status_of(sandbox)),
            "image": sandbox.requested_image or f"snapshot {sandbox.snapshot_id}",
            "entrypoint": " ".join(sandbox.spec.entrypoint),
            "created": sandbox.created_at.isoformat(),
            "expires": sandbox.expires_at.isoformat() if sandbox.expires_at else "never",
            "limits": f"{limits.cpus:g} cores, {limits.memory_bytes >> 20} MiB, {limits.pids} processes",
            "network": "no" if sandbox.spec.network is Network.NONE else "yes",
            "asked": datetime.now(UTC).isoformat(),
        }
        logs, _, warnings = await self._logs(sandbox_id) if sandbox.state is not State.PAUSED else ("", False, ())
        events, _, _ = self._events(sandbox_id)
        head = "".join(f"{name + ':':<12}{value}\n" for name, value in facts.items())
        return f"{head}\nevents\n{events}\nlogs\n{logs or ' '.join(warnings)}\n"


def _unreadable(error: SandlotError) -> str:
    return f"the output of the entrypoint cannot be read now: {error.public}"


def last_lines(output: bytes) -> tuple[str, bool]:
    """Return the last MAX_LINES lines of an output, at most MAX_BYTES, and whether that is not all.

    They begin with a whole line or, where a line is longer than that, with a whole character.
    """
    tail = output[-MAX_BYTES:]
    if len(tail) < len(output):
        tail = tail[tail.find(b"\n") + 1 :] or tail
        tail = tail[continued(tail) :]
    lines = tail.decode(errors="replace").splitlines(keepends=True)
    return "".join(lines[-MAX_LINES:]), len(tail) < len(output) or len(lines) > MAX_LINES
