"""`/sandboxes`: the lifecycle contract."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.addresses import EGRESS_PORT, EXECD_PORT, MAX_EXPIRES, base36, signed_label
from controlplane.api.edge.auth import EGRESS_TOKEN_HEADER, EXECD_TOKEN_HEADER, PORT_TOKEN_HEADER, Checks
from controlplane.api.edge.bodies import MAX_JSON_BYTES, decode, json_answer, read_body, read_json, utc_moment
from controlplane.api.edge.guard import caller_of
from controlplane.api.edge.notes import note
from controlplane.api.edge.parameters import flag, port_number, sandbox_id_of, whole_number
from controlplane.api.lifecycle.admission import MAX_ENTRIES, admit, check_metadata
from controlplane.api.lifecycle.idempotency import HEADER as IDEMPOTENCY_HEADER
from controlplane.api.lifecycle.idempotency import Idempotency
from controlplane.api.lifecycle.pagination import chosen_states, paginate, select
from controlplane.api.lifecycle.schema import CreateSandboxRequest, EndpointView, Renewal, SandboxPage, view
from controlplane.errors import InvalidRequest, SandboxEnded
from controlplane.sandbox import Limits, Sandbox, State, has_ended, how_it_ended

if TYPE_CHECKING:
    from controlplane.lifecycle.pauses import Pauses
    from controlplane.lifecycle.sandboxes import Sandboxes

EndpointTokens = Literal["auto", "header", "path"]

MAX_EVENT_BYTES = 64 * 1024
# A state of the contract's Kubernetes runtime: a warm container that is being handed over. Here that has no moment.
FOREIGN_STATES = frozenset({"Allocated"})

_INVALID = "request.invalid"
_TOKEN_HEADERS = {EXECD_PORT: EXECD_TOKEN_HEADER, EGRESS_PORT: EGRESS_TOKEN_HEADER}
# Clients that ignore an endpoint's headers. Python: up to 0.1.4, and the first two code interpreters with any 0.1.
# Kotlin: 1.0.0, the only version that its registry has.
_IGNORES_HEADERS = re.compile(r"OpenSandbox-(?:Python-SDK/0\.1\.|Kotlin-SDK/(?:0|1\.0)\.)")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?", re.ASCII)


class Lifecycle:
    """The endpoints. For *public_address*, *port_domain* and *endpoint_tokens* see `ApiSettings`."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        pauses: Pauses,
        credentials: Checks,
        *,
        limits: Limits,
        public_address: str,
        port_domain: str,
        endpoint_tokens: EndpointTokens = "auto",
    ) -> None:
        self._sandboxes = sandboxes
        self._pauses = pauses
        self._credentials = credentials
        self._limits = limits
        self._public_address = public_address
        self._port_domain = port_domain
        self._endpoint_tokens = endpoint_tokens
        self._made: Idempotency[Sandbox] = Idempotency()

    async def create(self, request: Request) -> Response:
        """Create a sandbox, which runs when the answer arrives. The same Idempotency-Key returns the same sandbox."""
        body = await read_body(request, MAX_JSON_BYTES, code=_INVALID)
        asked = admit(decode(body, CreateSandboxRequest, code=_INVALID), self._limits)
        caller = caller_of(request.scope)
        key = request.headers.get(IDEMPOTENCY_HEADER)
        sandbox = await self._made.once(key, body, lambda: self._sandboxes.create(asked, by=caller), owner=caller.owner)
        note(request.scope, sandbox=sandbox.id)
        location = f"/v1/sandboxes/{sandbox.id}"
        return json_answer(view(sandbox, with_image=False), 202, {"Location": location})

    async def list(self, request: Request) -> Response:
        """List the sandboxes in any of the states, and with all of the metadata."""
        states = chosen_states(request, State, FOREIGN_STATES)
        metadata = _metadata_filter(request.query_params.get("metadata", ""))
        caller = caller_of(request.scope)
        chosen = await select(
            self._sandboxes.list(),
            lambda sandbox: (
                caller.sees(sandbox.owner, sandbox.id)
                and (states is None or sandbox.state in states)
                and metadata.items() <= sandbox.spec.metadata.items()
            ),
        )
        items, pagination = paginate(request, chosen)
        return json_answer(SandboxPage([view(sandbox) for sandbox in items], pagination))

    async def get(self, request: Request) -> Response:
        """Return a sandbox."""
        return json_answer(view(self._find(request)))

    async def delete(self, request: Request) -> Response:
        """End a sandbox."""
        await self._sandboxes.delete(sandbox_id_of(request))
        return Response(status_code=204)

    async def change_metadata(self, request: Request) -> Response:
        """Change the metadata by a JSON merge patch: null removes a key."""
        changes = await read_json(request, dict[str, str | None], code=_INVALID)
        check_metadata(changes)
        sandbox = self._sandboxes.change_metadata(sandbox_id_of(request), changes, most=MAX_ENTRIES)
        return json_answer(view(sandbox))

    async def pause(self, request: Request) -> Response:
        """Pause a sandbox, which is paused when the answer arrives."""
        await self._pauses.pause(sandbox_id_of(request))
        return Response(status_code=202)

    async def resume(self, request: Request) -> Response:
        """Resume a sandbox, which runs when the answer arrives."""
        await self._pauses.resume(sandbox_id_of(request))
        return Response(status_code=202)

    async def renew(self, request: Request) -> Response:
        """Set the time at which a sandbox expires."""
        body = await read_json(request, Renewal, code=_INVALID)
        moment = utc_moment(body.expires_at, "expiresAt", code="sandbox.invalid_expiration")
        sandbox = self._sandboxes.renew(sandbox_id_of(request), moment)
        return json_answer(Renewal(sandbox.expires_at or moment))

    async def endpoint(self, request: Request) -> Response:
        """Return the address of a port, which is always at this server.

        The address is a host name if the server has a domain for ports, unless `use_server_proxy` asks for a path. With
        `expires` (Unix time, s), the address is signed: it needs no header, and is valid until that time. Clients that
        cannot send headers get a signed path that is valid as long as the sandbox. For a sandbox with `secureAccess`,
        the headers of every port also have the token under that name.
        """
        sandbox = self._find(request)
        if has_ended(sandbox):  # said here, a client hears why before it waits for an agent that is gone
            text = f"sandbox {sandbox.id} is {sandbox.state.value}{how_it_ended(sandbox)}"
            raise SandboxEnded(text, code="endpoint.gone")
        port = port_number(request.path_params["port"])
        by_path = flag(request, "use_server_proxy", code=_INVALID)
        if request.query_params.get("expires"):
            if by_path:
                raise InvalidRequest("expires: not together with use_server_proxy")
            return json_answer(EndpointView(self._signed(request, sandbox.id, port)))
        token = self._credentials.sandbox_token(sandbox.id)
        headers = {_TOKEN_HEADERS.get(port, PORT_TOKEN_HEADER): token}
        if sandbox.spec.secure_access:
            headers[PORT_TOKEN_HEADER] = token
        if self._needs_token_in_path(request):
            expires, signature = self._signature(sandbox.id, port, MAX_EXPIRES)
            path = f"signed/{port}/{expires}/{signature}"
        elif self._port_domain and not by_path and port not in _TOKEN_HEADERS:
            return json_answer(EndpointView(f"{port}-{sandbox.id}.{self._port_domain}", headers))
        else:
            path = f"proxy/{port}"
        return json_answer(EndpointView(f"{self._address(request)}/v1/sandboxes/{sandbox.id}/{path}", headers))

    async def report(self, request: Request) -> Response:
        """Accept the measurements of an SDK, and ignore them."""
        await read_body(request, MAX_EVENT_BYTES, code=_INVALID)
        return Response(status_code=204)

    # -- inside

    def _find(self, request: Request) -> Sandbox:
        return self._sandboxes.get(sandbox_id_of(request))

    def _signed(self, request: Request, sandbox_id: str, port: int) -> str:
        moment = whole_number(request.query_params["expires"]) or 0
        if not time.time() < moment <= MAX_EXPIRES:
            raise InvalidRequest(f"expires: must be Unix time in seconds, in the future, and at most {MAX_EXPIRES}")
        expires, signature = self._signature(sandbox_id, port, moment)
        if self._port_domain:
            return f"{signed_label(sandbox_id, port, expires, signature)}.{self._port_domain}"
        return f"{self._address(request)}/v1/sandboxes/{sandbox_id}/signed/{port}/{expires}/{signature}"

    def _signature(self, sandbox_id: str, port: int, moment: int) -> tuple[str, str]:
        """Return the time as an address writes it, and the signature."""
        expires = base36(moment)
        return expires, self._credentials.sign(sandbox_id, str(port), expires)

    def _needs_token_in_path(self, request: Request) -> bool:
        if self._endpoint_tokens != "auto":
            return self._endpoint_tokens == "path"
        return _IGNORES_HEADERS.match(request.headers.get("user-agent", "")) is not None

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
