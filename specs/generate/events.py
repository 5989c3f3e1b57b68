"""The JSON schemas of the events of runs, which `controlplane/api/runs/sse.py` writes.

`sse.py` has no Structs for events, because it writes them by the thousand. Every event may get keys that the schemas do
not list: clients ignore unknown keys.
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
            "description": "The calls that led to the error, the innermost last; not for every language.",
        },
    },
}
TIMESTAMP = {"type": "integer", "description": "Unix time in ms"}

# type → description, mandatory keys beside `type` and `timestamp`, and optional keys.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "init": (
        "The first event, with the id of the command, or for a run of code the id of its context.",
        {"text": STRING},
        {
            "run_id": {
                "type": "string",
                "description": "The id of a run of code, by which to interrupt or resume this run only.",
            }
        },
    ),
    "stdout": ("One or more lines of stdout, without the last newline.", {"text": STRING}, {}),
    "stderr": ("One or more lines of stderr, without the last newline.", {"text": STRING}, {}),
    "execution_count": (
        "The context's execution count.",
        {"execution_count": {"type": "integer", "minimum": 1}},
        {},
    ),
    "result": (
        "A displayed value, by MIME type. Plain text has the key `text`; binary types are in base64.",
        {"results": {"type": "object", "additionalProperties": STRING}},
        {
            "display_id": STRING,
            "update": {
                "type": "boolean",
                "description": "Replace the value with the same `display_id`.",
            },
        },
    ),
    "input_request": (
        "The run waits for a line of text by POST /code/input.",
        {"prompt": STRING, "password": {"type": "boolean"}},
        {},
    ),
    "error": (
        "The error of a run. The last event of a failed command is CommandExecError with the exit code as value.",
        {"error": RAISED},
        {"receipt": RECEIPT},
    ),
    "execution_complete": (
        "The end of a run of code, or of a command that succeeded.",
        {"execution_time": {"type": "integer", "minimum": 0, "description": "in ms"}},
        {"receipt": RECEIPT},
    ),
    "ping": ("A sign of life while the run is silent.", {"text": {"const": "pong"}}, {}),
}


def name_of(kind: str) -> str:
    """Return the name of an event's schema: `execution_count` → `ExecutionCountEvent`."""
    return "".join(part.capitalize() for part in kind.split("_")) + "Event"


def event_schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas by name: one for each event, `RunEvent` for any of them, `RunEvents` for their stream.

    `RecordedRunEvents` is the stream of a recorded run.
    """
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
    schemas["RunEvents"] = {
        "description": "Each event is a line of JSON and a blank line; with Sandlot-Keep, see RecordedRunEvents.",
        "anyOf": [{"$ref": "#/components/schemas/RunEvent"}, {"$ref": "#/components/schemas/RecordedRunEvents"}],
    }
    schemas["RecordedRunEvents"] = {
        "type": "object",
        "description": "Each event is a line `id: ID` (not for pings), a line `data: JSON` and a blank line.",
        "required": ["data"],
        "properties": {
            "id": STRING,
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": "#/components/schemas/RunEvent"},
            },
        },
    }
    return schemas


def activity_events() -> dict[str, dict[str, Any]]:
    """Return the schema of the stream of an activity."""
    entry = {"$ref": "#/components/schemas/ActivityView/properties/entries/items"}
    return {
        "ActivityEvents": {
            "type": "object",
            "description": "Each event is a line `id: SEQ`, a line `data: JSON` and a blank line; pings are comments.",
            "required": ["id", "data"],
            "properties": {
                "id": STRING,
                "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": entry},
            },
        }
    }
