"""The WebSockets of the API as AsyncAPI documents, for `specs.generate.api`."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable
from typing import Any

import msgspec

from controlplane.api.edge.operation import BYTES, COUNT, FLAG, STRING, WEBSOCKET, Endpoint, Operation
from controlplane.api.execd import terminals
from controlplane.api.routes import OPERATIONS
from controlplane.api.server import messages as server_messages
from controlplane.api.server.events import Events
from controlplane.api.stream import messages as stream_messages
from controlplane.api.stream.socket import Streams
from specs.generate.link import summary_of


def stream_asyncapi() -> dict[str, Any]:
    """Return the document of the native stream."""
    socket = _socket(Streams.serve)
    ours, theirs = typing.get_args(stream_messages.FromServer), typing.get_args(stream_messages.FromClient)
    operations = typing.get_args(stream_messages.AnyOperation)
    _, components = msgspec.json.schema_components(
        [*ours, *theirs, *operations], ref_template="#/components/schemas/{name}"
    )
    return _asyncapi(
        "stream",
        "Sandlot's native stream",
        inspect.cleandoc(stream_messages.__doc__ or "") + "\ndocs/stream.md explains the stream.",
        {
            "address": f"/v1{socket.full_path}",
            "parameters": {"sandbox_id": {"description": "the sandbox"}},
            "description": "Subprotocols sandlot.json.v1 (text frames) and sandlot.msgpack.v1 (binary frames)."
            + _refusals(socket),
            "bindings": _query(ticket=STRING),
        },
        _messages(ours, components),
        _messages(theirs, components),
        components,
    )


TERMINAL_DESCRIPTION = """The server first sends `connected`, then a replay of the kept output from the offset `since`
(default 0) on, and then new output. A terminal has one client: the server refuses another client with 409, or with
`takeover=1` replaces the present one. With `pty=0`, a program that has not started yet gets pipes instead of a PTY. The
server closes the WebSocket with"""


def terminal_asyncapi() -> dict[str, Any]:
    """Return the document of terminals."""
    socket = _socket(terminals.Terminals.attach)
    ours, theirs = typing.get_args(terminals.ServerFrame), typing.get_args(terminals.ClientFrame)
    _, components = msgspec.json.schema_components([*ours, *theirs], ref_template="#/components/schemas/{name}")
    closes = {
        1000: "after `exit`: the program has ended",
        terminals.TAKEN_OVER: "after another client has taken over",
        terminals.UNREACHABLE: "after `error`: the server cannot reach the sandbox, where the terminal may continue",
    }
    return _asyncapi(
        "terminal",
        "Sandlot: terminals of a sandbox",
        inspect.cleandoc(terminals.__doc__ or "") + "\nPOST /pty of specs/execd.openapi.yaml creates a terminal.",
        {
            "address": f"/v1{socket.full_path}",
            "parameters": {"sandbox_id": {"description": "the sandbox"}, "pty_id": {"description": "the terminal"}},
            "description": TERMINAL_DESCRIPTION
            + "".join(f"\n{code} {why}" for code, why in closes.items())
            + _refusals(socket),
            "bindings": _query(since=COUNT, takeover=FLAG, pty={"type": "string", "enum": ["0", "1"]}),
        },
        {
            "StdoutFrame": _binary(terminals.STDOUT, "output of the program"),
            "StderrFrame": _binary(terminals.STDERR, "output of the program on stderr; only with pipes"),
            "ReplayFrame": _binary(
                terminals.REPLAY, "the offset of the output in 8 bytes, big-endian, then earlier output"
            ),
            **_messages(ours, components),
        },
        {"StdinFrame": _binary(terminals.STDIN, "input of the program"), **_messages(theirs, components)},
        components,
    )


def events_asyncapi() -> dict[str, Any]:
    """Return the document of the events of the server."""
    socket = _socket(Events.serve)
    ours = typing.get_args(server_messages.FromServer)
    _, components = msgspec.json.schema_components(ours, ref_template="#/components/schemas/{name}")
    return _asyncapi(
        "events",
        "Sandlot: events of the server",
        inspect.cleandoc(server_messages.__doc__ or "") + "\ndocs/events.md explains the events.",
        {
            "address": f"/v1{socket.full_path}",
            "description": "Text frames, each a message in JSON. A client sends none.\n"
            "GET of the same address has the same messages as server-sent events." + _refusals(socket),
            "bindings": _query(after=STRING, ticket=STRING),
        },
        _messages(ours, components),
        {},
        components,
    )


def asyncapis() -> dict[str, dict[str, Any]]:
    """Return the AsyncAPI documents by name."""
    return {"stream": stream_asyncapi(), "terminal": terminal_asyncapi(), "events": events_asyncapi()}


def _asyncapi(
    name: str,
    title: str,
    description: str,
    channel: dict[str, Any],
    ours: dict[str, Any],
    theirs: dict[str, Any],
    components: dict[str, Any],
) -> dict[str, Any]:
    """Return a document of one channel, on which a client receives *ours* and sends *theirs*."""

    def operation(action: str, messages: dict[str, Any]) -> dict[str, Any]:
        references = [{"$ref": f"#/channels/{name}/messages/{each}"} for each in messages]
        return {"action": action, "channel": {"$ref": f"#/channels/{name}"}, "messages": references}

    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": "1", "description": description},
        "servers": {"here": {"host": "localhost:8194", "protocol": "ws"}},
        "channels": {name: {**channel, "messages": {**ours, **theirs}}},
        "operations": {
            **({"say": operation("send", theirs)} if theirs else {}),
            "hear": operation("receive", ours),
        },
        "components": {"schemas": components},
    }


def _socket(endpoint: Endpoint) -> Operation:
    """Return the operation of a WebSocket that an endpoint serves."""
    (operation,) = (each for each in OPERATIONS if each.endpoint == endpoint and each.method == WEBSOCKET)
    return operation


def _refusals(operation: Operation) -> str:
    statuses = _list(operation.documented_with_proxy)
    return f"\nThe server refuses a handshake with status {statuses} and a flat error in JSON."


def _list(statuses: Iterable[int]) -> str:
    *most, last = map(str, sorted(statuses))
    return f"{', '.join(most)} or {last}"


def _query(**parameters: dict[str, Any]) -> dict[str, Any]:
    return {"ws": {"query": {"type": "object", "properties": parameters}, "bindingVersion": "0.1.0"}}


def _messages(kinds: tuple[Any, ...], components: dict[str, Any]) -> dict[str, Any]:
    return {
        kind.__name__: {
            "name": kind.__struct_config__.tag,
            "summary": summary_of(components[kind.__name__]),
            "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        }
        for kind in kinds
    }


def _binary(first: bytes, what: str) -> dict[str, Any]:
    return {
        "name": f"0x{first.hex()}",
        "contentType": BYTES,
        "summary": f"A binary frame: 0x{first.hex()}, then {what}.",
        "payload": {"type": "string", "format": "binary"},
    }
