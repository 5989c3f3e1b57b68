"""`/sandboxes`: the lifecycle contract."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import UTC
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.addresses import base36
from controlplane.api.admission import MAX_ENTRIES, admit, check_metadata
from controlplane.api.auth import EGRESS_TOKEN_HEADER, EXECD_TOKEN_HEADER, PORT_TOKEN_HEADER, Checks
from controlplane.api.idempotency import HEADER as IDEMPOTENCY_HEADER
from controlplane.api.idempotency import Idempotency
from controlplane.api.pages import chosen_states, paginate
from controlplane.api.schema import (
    MAX_JSON_BYTES,
    CreateSandboxRequest,
    EndpointView,
    Renewal,
    SandboxPage,
    decode,
    flag,
    integer,
    json_answer,
    port_number,
    read_body,
    read_json,
    view,
)
from controlplane.errors import InvalidRequest
from controlplane.sandbox import Limits, Sandbox, State

if TYPE_CHECKING:
    from controlplane.lifecycle.pauses import Pauses
    from controlplane.lifecycle.sandboxes import Sandboxes

EXECD_PORT = 44772
EGRESS_PORT = 18080
MAX_EVENT_BYTES = 64 * 1024
LATEST = 1 << 40  # Unix time, s: beyond any calendar

_INVALID = "request.invalid"
_TOKEN_HEADERS = {EXECD_PORT: EXECD_TOKEN_HEADER, EGRESS_PORT: EGRESS_TOKEN_HEADER}
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?", re.ASCII)


class Lifecycle:
    """The endpoints. For *public_address* and *port_domain* see `ApiSettings`."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        pauses: Pauses,
        credentials: Checks,
        *,
        limits: Limits,
        public_address: str,
        port_domain: str,
    ) -> None:
        self._sandboxes = sandboxes
        self._pauses = pauses
        self._credentials = credentials
        self._limits = limits
        self._public_address = public_address
        self._port_domain = port_domain
        self._made: Idempotency[Sandbox] = Idempotency()

    async def create(self, request: Request) -> Response:
        """POST /sandboxes: 202, and it runs already. Repeated with the same Idempotency-Key, it is the same one."""
        body = await read_body(request, MAX_JSON_BYTES, code=_INVALID)
        asked = admit(decode(body, CreateSandboxRequest, code=_INVALID), self._limits)
        key = request.headers.get(IDEMPOTENCY_HEADER)
        sandbox = await self._made.once(key, body, lambda: self._sandboxes.create(asked))
        location = f"/v1/sandboxes/{sandbox.id}"
        return json_answer(view(sandbox, with_image=False), 202, {"Location": location})

    async def list(self, request: Request) -> Response:
        """GET /sandboxes?state=&state=&metadata=&page=&pageSize=: any of the states, all of the metadata."""
        states = chosen_states(request, State)
        metadata = _metadata_filter(request.query_params.get("metadata", ""))
        chosen = [
            sandbox
            for sandbox in self._sandboxes.list()
            if (not states or sandbox.state in states) and metadata.items() <= sandbox.spec.metadata.items()
        ]
        items, pagination = paginate(request, chosen)
        return json_answer(SandboxPage([view(sandbox) for sandbox in items], pagination))

    async def get(self, request: Request) -> Response:
        """GET /sandboxes/{id}."""
        return json_answer(view(self._find(request)))

    async def delete(self, request: Request) -> Response:
        """DELETE /sandboxes/{id}, and POST /sandboxes/{id}/stop."""
        await self._sandboxes.delete(request.path_params["sandbox_id"])
        return Response(status_code=204)

    async def change_metadata(self, request: Request) -> Response:
        """PATCH /sandboxes/{id}/metadata: a JSON merge patch; null drops a key."""
        changes = await read_json(request, dict[str, str | None], code=_INVALID)
        check_metadata(changes)
        sandbox = self._sandboxes.change_metadata(request.path_params["sandbox_id"], changes, most=MAX_ENTRIES)
        return json_answer(view(sandbox))

    async def pause(self, request: Request) -> Response:
        """POST /sandboxes/{id}/pause: 202, and it is paused already."""
        await self._pauses.pause(request.path_params["sandbox_id"])
        return Response(status_code=202)

    async def resume(self, request: Request) -> Response:
        """POST /sandboxes/{id}/resume: 202, and it runs already."""
        await self._pauses.resume(request.path_params["sandbox_id"])
        return Response(status_code=202)

    async def renew(self, request: Request) -> Response:
        """POST /sandboxes/{id}/renew-expiration."""
        body = await read_json(request, Renewal, code=_INVALID)
        moment = body.expires_at
        try:
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except OverflowError:
            raise InvalidRequest("expiresAt: no such moment", code="sandbox.invalid_expiration") from None
        sandbox = self._sandboxes.renew(request.path_params["sandbox_id"], moment)
        return json_answer(Renewal(sandbox.expires_at or moment))

    async def endpoint(self, request: Request) -> Response:
        """GET /sandboxes/{id}/endpoints/{port}: always this server.

        By a host name of its own where there is a domain for that, unless `use_server_proxy` asks for the path. With
        `expires` (Unix time, s) the address is signed: it needs no header, and works until then.
        """
        sandbox = self._find(request)
        port = port_number(request.path_params["port"])
        by_path = flag(request, "use_server_proxy", code=_INVALID)
        if request.query_params.get("expires"):
            if by_path:
                raise InvalidRequest("expires: not together with use_server_proxy")
            return json_answer(EndpointView(self._signed(request, sandbox.id, port)))
        token = self._credentials.sandbox_token(sandbox.id)
        headers = {_TOKEN_HEADERS.get(port, PORT_TOKEN_HEADER): token}
        if self._port_domain and not by_path and port not in _TOKEN_HEADERS:
            return json_answer(EndpointView(f"{port}-{sandbox.id}.{self._port_domain}", headers))
        return json_answer(EndpointView(f"{self._address(request)}/v1/sandboxes/{sandbox.id}/proxy/{port}", headers))

    async def report(self, request: Request) -> Response:
        """POST /metrics/events: what the SDKs measured at their end. Nobody here needs it."""
        await read_body(request, MAX_EVENT_BYTES, code=_INVALID)
        return Response(status_code=204)

    # -- inside

    def _find(self, request: Request) -> Sandbox:
        return self._sandboxes.get(request.path_params["sandbox_id"])

    def _signed(self, request: Request, sandbox_id: str, port: int) -> str:
        moment = integer(request, "expires", least=1, most=LATEST, code=_INVALID) or 0
        if moment <= time.time():
            raise InvalidRequest("expires: must be Unix time in seconds, and in the future")
        expires = base36(moment)
        signature = self._credentials.sign(sandbox_id, str(port), expires)
        if self._port_domain:
            return f"{port}-{sandbox_id}-{expires}-{signature}.{self._port_domain}"
        return f"{self._address(request)}/v1/sandboxes/{sandbox_id}/signed/{port}/{expires}/{signature}"

    def _address(self, request: Request) -> str:
        if self._public_address:
            return self._public_address
        host = request.headers.get("host", "")
        if _HOST.fullmatch(host):
            return host
        name, port = request.scope.get("server") or ("localhost", None)
        return f"{name}:{port}" if port else name


def _metadata_filter(text: str) -> dict[str, str]:
    """Read the filter, a query string of its own inside of the query: encoded twice, decoded once when it gets here."""
    try:
        pairs: Iterable[tuple[str, str]] = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    except ValueError as error:
        raise InvalidRequest(f"metadata: must look like key=value&key=value: {error}") from error
    return dict(pairs)
