"""An operation of the API: one row says all that the server and its specifications need to know of it.

The rows of a contract are in the `operations.py` of its folder, and `controlplane/api/routes.py` has them all. The
routes, the checks of scopes, the audit log, the documented statuses and the specifications are made of these rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.types import ASGIApp, Scope
from starlette.websockets import WebSocket

from controlplane.access.scopes import Needs

WEBSOCKET = "WEBSOCKET"  # in place of a method
ANY_METHOD = "*"  # unknown methods too
METHODS = "GET POST PUT PATCH DELETE"
ON_STREAM = "STREAM"  # in place of a method: the operation has no route, but messages of the native stream

# Every operation may answer with 500; every one that needs a key may refuse its caller: no right key, scopes that are
# not enough, too many attempts.
FAILURE = frozenset({500})
ACCESS = frozenset({401, 403, 429})
# Statuses of the proxy at any endpoint, before it reaches an operation: no such sandbox, not running, not reachable.
PROXY = ACCESS | {404, 409, 500, 502}

SANDBOX_PATH = "/sandboxes/{sandbox_id}"

# -- what a specification says of values ----------------------------------------

JsonSchema = dict[str, Any]
STRING: JsonSchema = {"type": "string"}
FLAG: JsonSchema = {"type": "boolean"}
COUNT: JsonSchema = {"type": "integer", "minimum": 0}

TEXT, BYTES, UPLOAD = "text/plain", "application/octet-stream", "multipart/form-data"


class Parameter(NamedTuple):
    """A parameter of a query."""

    name: str
    schema: JsonSchema = STRING
    is_required: bool = False


class EventStream(NamedTuple):
    """An answer that is a stream of server-sent events."""

    schema: str  # the name of the schema of each event


# -- the row ----------------------------------------


class Refusal(NamedTuple):
    """The answer of an operation that the contract has and this server has not."""

    status: int  # one that the contract's clients expect
    what: str
    summary: str  # for the specification
    code: str = "SANDBOX::API_NOT_SUPPORTED"


# A method of an object that `app.py` makes, or the class of an object that is an ASGI application itself.
Endpoint = (
    Callable[[Any, Request], Awaitable[ASGIApp]] | Callable[[Any, WebSocket], Awaitable[None]] | type[Any] | Refusal
)


class Operation(NamedTuple):
    """One operation. An operation with several addresses has a row for each; `at` and `below` make the others."""

    name: str  # in the audit log and in docs/keys.md
    method: str  # or several with blanks between them, or one of the words above
    path: str
    endpoint: Endpoint | None  # None: on the native stream only
    needs: Needs
    is_change: bool = True  # at the level `changes`, the audit log has what changes or opens something
    is_visit: bool = False  # one visit makes many requests, and the audit log has one entry for it
    takes_token: bool = False  # of its sandbox, in place of a key; at an endpoint, every operation does
    counts_as_use: bool = False  # while the client is connected, where the agent is asked nothing or not all the time
    port: int = 0  # of a sandbox, at whose endpoint the operation is; 0: the server itself
    # For the specification:
    status: int = 200
    answer: Any = None  # a type, a media type, an EventStream or several of them; None: the body is empty
    more: tuple[tuple[int, Any], ...] = ()  # other statuses of success, and their answers
    body: Any = None
    is_body_optional: bool = False
    query: tuple[Parameter, ...] = ()
    headers: tuple[str, ...] = ()  # of the request, beside those of authentication
    answer_header: str = ""  # with a number; every success has it
    answer_text: str = ""  # by default, a text for the status
    errors: tuple[int, ...] = ()  # in addition to FAILURE and ACCESS

    @property
    def is_open(self) -> bool:
        """Whether the operation needs no key."""
        return self.needs is Needs.NOTHING

    @property
    def documented(self) -> frozenset[int]:
        """The statuses of errors that the operation itself may answer with."""
        refusal = (self.endpoint.status,) if isinstance(self.endpoint, Refusal) else ()
        return FAILURE.union(self.errors, refusal, () if self.is_open else ACCESS)

    @property
    def documented_with_proxy(self) -> frozenset[int]:
        """These, and at an endpoint those of the proxy."""
        return self.documented | PROXY if self.port else self.documented

    @property
    def full_path(self) -> str:
        """The path from the root of the API."""
        return (endpoint_path(self.port) if self.port else "") + self.path

    def at(self, method: str, path: str) -> Operation:
        """Return the same operation at another address."""
        return self._replace(method=method, path=path)


def below(prefix: str, operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Return the same operations with a prefix before their paths."""
    return tuple(each.at(each.method, prefix + each.path) for each in operations)


def at_port(port: int, operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Return operations as those of a port of every sandbox."""
    return tuple(each._replace(port=port) for each in operations)


def endpoint_path(port: int | str) -> str:
    """Return the path of a port of a sandbox."""
    return f"{SANDBOX_PATH}/proxy/{port}"


# -- of a request ----------------------------------------

_KEY = "sandlot.operation"


def set_operation(scope: Scope, operation: Operation) -> None:
    """Write down which operation a request is for."""
    scope[_KEY] = operation


def operation_of(scope: Scope) -> Operation | None:
    """Return the operation that a request is for; None if it has reached none."""
    return scope.get(_KEY)
