"""What the code says about the link, as data: `python -m specs.generate.link` writes it to specs/.

Two files: `link-generation-<n>.json` is what a generation means, frozen; `link.asyncapi.yaml` is for people, its head
written by hand and everything below the marker written from here.
"""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Iterator
from typing import Any

import msgspec

from execd.wire import messages
from execd.wire.connection import MAX_MESSAGE_BYTES, MAX_STREAMS
from execd.wire.flow import INITIAL_WINDOW_BYTES
from execd.wire.frames import HEADER, MAX_PAYLOAD_BYTES, MAX_RESET_BYTES, MORE, Channel, Kind
from tests.architecture.sources import ROOT

SPECS = ROOT / "specs"
FROZEN = SPECS / f"link-generation-{messages.GENERATION}.json"
ASYNCAPI = SPECS / "link.asyncapi.yaml"
MARKER = "# -- Below: generated from execd/wire by `python -m specs.generate.link`. Do not edit. --"

REQUESTS = typing.get_args(messages.Request)
REPLIES = typing.get_args(messages.Reply)
EVERY = (messages.Hello, messages.Problem, *REQUESTS, *REPLIES)


def tag_of(cls: type[msgspec.Struct]) -> str:
    """Return a message's name on the wire."""
    return str(cls.__struct_config__.tag)


def schemas(ref_template: str) -> dict[str, dict[str, Any]]:
    """Return JSON schema by class name, each position of an array named for its field."""
    _, components = msgspec.json.schema_components(EVERY, ref_template=ref_template)
    for name, schema in components.items():
        items = schema["prefixItems"]
        fields = msgspec.structs.fields(getattr(messages, name))
        has_tag = len(items) > len(fields)
        for item, field in zip(items[has_tag:], fields, strict=True):
            item["title"] = field.name
    return components


def frozen() -> dict[str, Any]:
    """Return what a peer of this generation relies on, without prose."""
    components = schemas("#/messages/{name}")
    for schema in components.values():
        schema.pop("description", None)
    return {
        "generation": messages.GENERATION,
        "frame": {
            "header": HEADER.format,
            "kinds": {kind.name: int(kind) for kind in Kind},
            "channels": {channel.name: int(channel) for channel in Channel},
            "more": MORE,
            "max_payload_bytes": MAX_PAYLOAD_BYTES,
            "max_reset_bytes": MAX_RESET_BYTES,
        },
        "limits": {
            "window_bytes": INITIAL_WINDOW_BYTES,
            "max_message_bytes": MAX_MESSAGE_BYTES,
            "max_streams": MAX_STREAMS,
        },
        "requests": sorted(tag_of(cls) for cls in REQUESTS),
        "replies": sorted(tag_of(cls) for cls in REPLIES),
        "messages": components,
    }


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what an *old* peer would not understand of *new*."""
    found = [f"{key} changed" for key in ("generation", "frame", "limits") if old[key] != new[key]]
    # An agent breaks its link over a request that it does not know. A reply that is new meets no older control plane:
    # agents come from the server that they talk to, or from an earlier one.
    found += [f"{tag} is new in requests" for tag in new["requests"] if tag not in old["requests"]]
    for key in ("requests", "replies"):
        found += [f"{tag} is gone from {key}" for tag in old[key] if tag not in new[key]]
    for name, before in old["messages"].items():
        after = new["messages"].get(name)
        if after is None:
            found.append(f"{name} is gone")
            continue
        known = len(before["prefixItems"])
        added = after["prefixItems"][known:]
        if {**after, "prefixItems": after["prefixItems"][:known]} != before:
            found.append(f"{name} changed what it had")
        if not all("default" in item for item in added):
            found.append(f"{name} has a new field without a default")
    return found


def exchanges() -> dict[str, list[str]]:
    """Return request → its replies, as the table at the head of messages.py says."""
    replies = {tag_of(cls) for cls in REPLIES}
    table = {}
    for line in (messages.__doc__ or "").splitlines():
        if line.startswith("    ") and (words := line.replace(",", " ").replace("*", " ").split())[0] != "request":
            said = [word.strip("();:|") for word in words[1:]]
            table[words[0]] = sorted(replies) if "any" in said else [word for word in said if word in replies]
    return table


def asyncapi() -> str:
    """Return the generated half of `link.asyncapi.yaml`."""
    components = schemas("#/components/schemas/{name}")
    by_tag = {tag_of(cls): cls.__name__ for cls in EVERY}
    messages_ = {
        name: {
            "name": tag,
            "contentType": "application/msgpack",
            "summary": summary_of(components[name]),
            "payload": {"$ref": f"#/components/schemas/{name}"},
        }
        for tag, name in by_tag.items()
    }
    operations = {
        tag: {
            "action": "send",
            "channel": {"$ref": "#/channels/stream"},
            "messages": [{"$ref": f"#/channels/stream/messages/{by_tag[tag]}"}],
            "reply": {
                "channel": {"$ref": "#/channels/stream"},
                "messages": [
                    {"$ref": f"#/channels/stream/messages/{name}"} for name in [*map(by_tag.get, answers), "Problem"]
                ],
            },
        }
        for tag, answers in exchanges().items()
    }
    channels = {
        "link": {
            "address": "/link",
            "description": "The WebSocket itself. HELLO is the first frame each way.",
            "messages": {"Hello": {"$ref": "#/components/messages/Hello"}},
        },
        "stream": {
            "address": None,
            "description": "One stream of the link: a request in OPEN, its replies in MESSAGE, a Problem in RESET.",
            "messages": {
                **{name: {"$ref": f"#/components/messages/{name}"} for name in by_tag.values() if name != "Hello"},
                "Data": {"$ref": "#/components/messages/Data"},
            },
        },
    }
    messages_["Data"] = {
        "name": "data",
        "contentType": "application/octet-stream",
        "summary": "A DATA frame's payload; the frame's flags name the channel (0 input, 1 stdout, 2 stderr).",
        "payload": {"type": "string", "format": "binary"},
    }
    document = {
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages_, "schemas": components},
    }
    return "".join(f"{line}\n" for line in yaml_lines(document, 0))


def summary_of(schema: dict[str, Any]) -> str:
    """Return the first line of a message's docstring."""
    return str(schema["description"]).split("\n", 1)[0]


def yaml_lines(value: Any, depth: int) -> Iterator[str]:
    """Yield lines of block YAML; scalars are written as JSON, which YAML takes."""
    pad = "  " * depth
    for name, item in value.items():
        key = json.dumps(name) if name.isdigit() else name
        if isinstance(item, dict) and item and "$ref" not in item:
            yield f"{pad}{key}:"
            yield from yaml_lines(item, depth + 1)
        elif isinstance(item, list) and item and all(isinstance(each, dict) for each in item):
            yield f"{pad}{key}:"
            for each in item:
                yield f"{pad}  - {json.dumps(each, ensure_ascii=False)}"
        elif isinstance(item, str) and "\n" in item:
            yield f"{pad}{key}: |-"
            for line in item.splitlines():
                yield f"{pad}  {line.strip()}".rstrip()
        else:
            yield f"{pad}{key}: {json.dumps(item, ensure_ascii=False)}"


def main() -> None:
    """Write both files."""
    FROZEN.write_text(json.dumps(frozen(), indent=1, ensure_ascii=False) + "\n")
    head = ASYNCAPI.read_text().partition(MARKER)[0]
    ASYNCAPI.write_text(f"{head}{MARKER}\n\n{asyncapi()}")
    sys.stdout.write(f"wrote {FROZEN.relative_to(ROOT)} and {ASYNCAPI.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
