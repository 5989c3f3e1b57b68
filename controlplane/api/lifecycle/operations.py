"""The operations of the lifecycle contract, and those of ours beside them; what is not served is at the end."""

from __future__ import annotations

from typing import Any

from controlplane.access import audit
from controlplane.access.scopes import Needs
from controlplane.api.activity.operations import ACTIVITY
from controlplane.api.edge.audit import AuditLog
from controlplane.api.edge.operation import (
    COUNT,
    FLAG,
    METHODS,
    SANDBOX_PATH,
    STRING,
    TEXT,
    JsonSchema,
    Operation,
    Parameter,
    Refusal,
)
from controlplane.api.edge.tickets import Tickets, TicketView
from controlplane.api.egress.operations import NO_POLICY_CHANGE
from controlplane.api.egress.policy import Egress, PolicyView
from controlplane.api.execd.code import Codes
from controlplane.api.execd.schema import ContextView, OpenContextRequest
from controlplane.api.lifecycle.diagnostics import DiagnosticContent, Diagnostics
from controlplane.api.lifecycle.execute import Executed, ExecuteRequest, Execution
from controlplane.api.lifecycle.health import Health, HealthView, ReadyView, VersionView
from controlplane.api.lifecycle.keys import (
    ChangeKeyRequest,
    CreatedKeyView,
    CreateKeyRequest,
    KeyAdministration,
    KeyPage,
    KeyView,
)
from controlplane.api.lifecycle.sandboxes import Lifecycle
from controlplane.api.lifecycle.schema import CreateSandboxRequest, EndpointView, Renewal, SandboxPage, SandboxView
from controlplane.api.lifecycle.snapshots import CreateSnapshotRequest, SnapshotPage, Snapshots, SnapshotView

_SNAPSHOT, _KEY = "/snapshots/{snapshot_id}", "/keys/{key_id}"

_STATES: JsonSchema = {"type": "array", "items": STRING}
_PAGES = (
    Parameter("page", {"type": "integer", "minimum": 1}),
    Parameter("pageSize", {"type": "integer", "minimum": 1, "maximum": 200}),
)

_DELETE_SANDBOX = Operation(
    "sandbox.delete", "DELETE", SANDBOX_PATH, Lifecycle.delete, Needs.USE, status=204, errors=(404, 409)
)

_SANDBOXES = (
    Operation(
        *("sandbox.create", "POST", "/sandboxes", Lifecycle.create, Needs.CREATE),
        status=202,
        answer=SandboxView,
        body=CreateSandboxRequest,
        headers=("Idempotency-Key",),
        errors=(400, 409),
    ),
    Operation(
        *("sandbox.list", "GET", "/sandboxes", Lifecycle.list, Needs.READ),
        is_change=False,
        answer=SandboxPage,
        query=(Parameter("state", _STATES), Parameter("metadata"), *_PAGES),
        errors=(400,),
    ),
    Operation(
        *("sandbox.get", "GET", SANDBOX_PATH, Lifecycle.get, Needs.READ),
        is_change=False,
        answer=SandboxView,
        errors=(404,),
    ),
    _DELETE_SANDBOX,
    _DELETE_SANDBOX.at("POST", f"{SANDBOX_PATH}/stop"),
    Operation(
        *("sandbox.context", "POST", f"{SANDBOX_PATH}/contexts", Codes.create_context, Needs.USE),
        answer=ContextView,
        body=OpenContextRequest,
        errors=(400, 404, 409, 502),
    ),
    Operation(
        *("context.execute", "POST", "/contexts/execute", Execution.execute, Needs.USE),
        answer=Executed,
        body=ExecuteRequest,
        errors=(400, 404, 409, 502),
    ),
    Operation(
        "sandbox.pause", "POST", f"{SANDBOX_PATH}/pause", Lifecycle.pause, Needs.USE, status=202, errors=(404, 409)
    ),
    Operation(
        "sandbox.resume", "POST", f"{SANDBOX_PATH}/resume", Lifecycle.resume, Needs.USE, status=202, errors=(404, 409)
    ),
    Operation(
        *("sandbox.metadata", "PATCH", f"{SANDBOX_PATH}/metadata", Lifecycle.change_metadata, Needs.USE),
        answer=SandboxView,
        body=dict[str, str | None],
        errors=(400, 404, 409),
    ),
    Operation(
        *("sandbox.renew", "POST", f"{SANDBOX_PATH}/renew-expiration", Lifecycle.renew, Needs.USE),
        answer=Renewal,
        body=Renewal,
        errors=(400, 404, 409),
    ),
)
_SNAPSHOTS = (
    Operation(
        *("snapshot.create", "POST", f"{SANDBOX_PATH}/snapshots", Snapshots.create, Needs.USE),
        status=202,
        answer=SnapshotView,
        body=CreateSnapshotRequest,
        is_body_optional=True,
        errors=(400, 404, 409),
    ),
    Operation(
        *("snapshot.list", "GET", "/snapshots", Snapshots.list, Needs.READ),
        is_change=False,
        answer=SnapshotPage,
        query=(Parameter("sandboxId"), Parameter("name"), Parameter("state", _STATES), *_PAGES),
        errors=(400,),
    ),
    Operation(
        *("snapshot.get", "GET", _SNAPSHOT, Snapshots.get, Needs.READ),
        is_change=False,
        answer=SnapshotView,
        errors=(404,),
    ),
    Operation("snapshot.delete", "DELETE", _SNAPSHOT, Snapshots.delete, Needs.USE, status=204, errors=(404, 409)),
)
_OF_A_SANDBOX = (
    Operation(
        *("sandbox.diagnostics", "GET", f"{SANDBOX_PATH}/diagnostics/{{kind}}", Diagnostics.read, Needs.READ),
        is_change=False,
        answer=(DiagnosticContent, TEXT),
        query=(Parameter("scope"), Parameter("cursor", COUNT)),
        errors=(400, 404, 501),
    ),
    Operation(
        # The answer has the sandbox's token, which opens everything in it.
        *("sandbox.endpoint", "GET", f"{SANDBOX_PATH}/endpoints/{{port}}", Lifecycle.endpoint, Needs.USE),
        answer=EndpointView,
        query=(Parameter("use_server_proxy", FLAG), Parameter("expires", COUNT)),
        errors=(400, 404),
    ),
    Operation(
        *("ticket.issue", "POST", f"{SANDBOX_PATH}/stream/tickets", Tickets.issue, Needs.USE),
        takes_token=True,
        status=201,
        answer=TicketView,
        errors=(400, 404, 409),
    ),
    Operation(
        *("policy.get", "GET", f"{SANDBOX_PATH}/networkpolicy", Egress.policy, Needs.READ),
        is_change=False,
        answer=PolicyView,
        errors=(404,),
    ),
)
_ADMINISTRATION = (
    Operation(
        *("metrics.report", "POST", "/metrics/events", Lifecycle.report, Needs.KEY),
        is_change=False,
        status=204,
        body=dict[str, Any],
        errors=(400,),
    ),
    Operation(
        *("key.create", "POST", "/keys", KeyAdministration.create, Needs.ADMIN),
        status=201,
        answer=CreatedKeyView,
        body=CreateKeyRequest,
        errors=(400, 409, 503),
    ),
    Operation(
        *("key.list", "GET", "/keys", KeyAdministration.list, Needs.ADMIN),
        is_change=False,
        answer=KeyPage,
        query=_PAGES,
        errors=(400,),
    ),
    Operation(
        *("key.get", "GET", _KEY, KeyAdministration.get, Needs.ADMIN),
        is_change=False,
        answer=KeyView,
        errors=(404,),
    ),
    Operation(
        *("key.change", "PATCH", _KEY, KeyAdministration.change, Needs.ADMIN),
        answer=KeyView,
        body=ChangeKeyRequest,
        errors=(400, 404, 409, 503),
    ),
    Operation(
        *("key.withdraw", "DELETE", _KEY, KeyAdministration.withdraw, Needs.ADMIN),
        status=204,
        query=(Parameter("endSandboxes", FLAG),),
        errors=(400, 404, 409, 503),
    ),
    Operation(
        *("audit.read", "GET", "/audit", AuditLog.read, Needs.ADMIN),
        is_change=False,
        answer=audit.Page,
        query=(
            Parameter("after", COUNT),
            Parameter("limit", {"type": "integer", "minimum": 1, "maximum": audit.MAX_PAGE}),
            Parameter("key"),
            Parameter("sandbox"),
        ),
        errors=(400, 503),
    ),
)
_SERVER = (
    Operation(
        *("health", "GET", "/health", Health.health, Needs.NOTHING), is_change=False, answer=HealthView, errors=(503,)
    ),
    Operation(
        *("ready", "GET", "/ready", Health.ready, Needs.NOTHING), is_change=False, answer=ReadyView, errors=(503,)
    ),
    Operation("version", "GET", "/version", Health.version, Needs.NOTHING, is_change=False, answer=VersionView),
    Operation(
        *("metrics", "GET", "/metrics", Health.metrics, Needs.WATCH),  # counts of the whole server
        is_change=False,
        answer=TEXT,
        answer_text="Metrics in the text format of Prometheus. With a setting, they need no key.",
    ),
)

# The contract has these and this server has not (yet). The answer is the same for every sandbox, whether there is one
# or not, so any key may ask.
_NO_TEMPLATES = Refusal(501, "templates", "Templates are not supported.", "FSB::API_NOT_SUPPORTED")
_NO_POOLS = Refusal(
    *(501, "pools over the API", "The settings of the server define the pools; the API cannot."),
    code="KUBERNETES::POOL_NOT_SUPPORTED",
)
_TEMPLATES = Operation("template.refuse", METHODS, "/templates", _NO_TEMPLATES, Needs.KEY, is_change=False)
_POOLS = Operation("pool.refuse", METHODS, "/pools", _NO_POOLS, Needs.KEY, is_change=False)
_REFUSED = (
    Operation(
        *("policy.change", "PUT PATCH DELETE", f"{SANDBOX_PATH}/networkpolicy", NO_POLICY_CHANGE, Needs.KEY),
        is_change=False,
        errors=(400,),
    ),
    _TEMPLATES,
    _TEMPLATES.at(METHODS, "/templates/{rest:path}"),
    _POOLS,
    _POOLS.at(METHODS, "/pools/{rest:path}"),
)

LIFECYCLE: tuple[Operation, ...] = (
    *_SANDBOXES,
    *_SNAPSHOTS,
    *_OF_A_SANDBOX,
    *ACTIVITY,
    *_ADMINISTRATION,
    *_SERVER,
    *_REFUSED,
)
