"""The events of runs, as `controlplane/api/sse.py` writes them: JSON schemas, for the specifications.

Events are written by hand there, for they come by the thousand; so they have no Structs, and stand here once. Keys that
are not listed may be added to any of them: clients skip what they do not know.
"""

from __future__ import annotations

from typing import Any

STRING: dict[str, Any] = {"type": "string"}
RECEIPT = {"$ref": "#/components/schemas/Receipt"}
RAISED: dict[str, Any] = {
    "type": "object",
    "required": ["ename", "evalue", "traceback"],
    "properties": {
        "ename": STRING,
        "evalue": STRING,
        "traceback": {"type": "array", "items": STRING},
        "frames": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/CodeFrameView"},
            "description": "The calls that led to it, the innermost last; not of every language.",
        },
    },
}
TIMESTAMP = {"type": "integer", "description": "Unix time in ms"}

# type → what it says, the keys that it always has beside `type` and `timestamp`, and those that it may have.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "init": (
        "First of all: the id by which the run can be interrupted, asked about and resumed.",
        {"text": STRING},
        {},
    ),
    "stdout": ("A line, or several that came together, without the last newline.", {"text": STRING}, {}),
    "stderr": ("As stdout.", {"text": STRING}, {}),
    "execution_count": (
        "The how-manieth run of its context this is.",
        {"execution_count": {"type": "integer", "minimum": 1}},
        {},
    ),
    "result": (
        "A value, by MIME type; plain text is under `text`. Binary types are in base64.",
        {"results": {"type": "object", "additionalProperties": STRING}},
        {
            "display_id": STRING,
            "update": {"type": "boolean", "description": "It takes the place of what was shown under that id."},
        },
    ),
    "input_request": (
        "The run waits for a line of text, by POST /code/input.",
        {"prompt": STRING, "password": {"type": "boolean"}},
        {},
    ),
    "error": (
        "It has failed. A command's is CommandExecError, with its exit code as the value, and ends its events.",
        {"error": RAISED},
        {"receipt": RECEIPT},
    ),
    "execution_complete": (
        "It has ended; a command, and well.",
        {"execution_time": {"type": "integer", "minimum": 0, "description": "ms"}},
        {"receipt": RECEIPT},
    ),
    "ping": ("Nothing has happened for a while.", {"text": {"const": "pong"}}, {}),
}


def name_of(kind: str) -> str:
    """Return the name of an event's schema: `execution_count` → `ExecutionCountEvent`."""
    return "".join(part.capitalize() for part in kind.split("_")) + "Event"


def event_schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas by name: one an event, `RunEvent` for any of them, and `RunEvents` for their stream."""
    schemas: dict[str, dict[str, Any]] = {
        name_of(kind): {
            "type": "object",
            "description": summary,
            "required": ["type", *always, "timestamp"],
            "properties": {"type": {"const": kind}, **always, **sometimes, "timestamp": TIMESTAMP},
        }
        for kind, (summary, always, sometimes) in KINDS.items()
    }
    schemas["RunEvent"] = {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in schemas]}
    schemas["RunEvents"] = stream_of("RunEvent")
    return schemas


def stream_of(name: str) -> dict[str, Any]:
    """Return the schema of each event of a text/event-stream whose data are of the schema of that name."""
    return {
        "type": "object",
        "description": "One event of the stream. It has an id when the run is kept (Sandlot-Keep).",
        "required": ["data"],
        "properties": {
            "id": STRING,
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": f"#/components/schemas/{name}"},
            },
        },
    }
