"""The server that a command is for, and the sandboxes that it names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase

from controlplane.cli.parsing import Options, pairs
from controlplane.cli.place import Place, place_of
from controlplane.client.names import find, listed
from controlplane.client.server import Json, Server
from controlplane.errors import InvalidRequest

# Ended, or about to be: what `ps` shows only with --all.
ENDED = frozenset({"Stopping", "Terminated", "Failed"})
STATES = ("Pending", "Running", "Pausing", "Paused", "Resuming", *sorted(ENDED))
FILTERS = "state=STATE[,STATE], metadata=KEY=VALUE, image=PATTERN; repeatable"


def place(options: Options) -> Place:
    """Return the server that the options name, with its settings if it is this machine's. Raises ConfigError."""
    return place_of(options.server, options.api_key, options.key_file, options.config)


def server_of(options: Options) -> Server:
    """Return the server that the options name. Raises ConfigError."""
    found = place(options)
    return Server(found.address, found.key)


def sandbox_of(options: Options) -> tuple[Server, str]:
    """Return the server, and the id of the sandbox that the options name. Raises SandlotError."""
    server = server_of(options)
    return server, str(find(server, options.sandbox)["id"])


def chosen(server: Server, filters: Sequence[str]) -> list[Json]:
    """Return the sandboxes that pass all filters, newest first. Raises InvalidRequest."""
    states: list[str] = []
    metadata: list[tuple[str, str]] = []
    images: list[str] = []
    for kind, value in pairs(filters, "--filter"):
        if kind == "state":
            states += [_state(each) for each in value.split(",")]
        elif kind == "metadata":
            metadata += pairs([value], "--filter metadata")
        elif kind == "image":
            images.append(value)
        else:
            raise InvalidRequest(f"--filter {kind}: there are {FILTERS}")
    return [each for each in listed(server, states, metadata) if not images or _matches(image_of(each), images)]


def image_of(sandbox: Json) -> str:
    """Return the image of a sandbox, or the snapshot that it was made of."""
    image = (sandbox.get("image") or {}).get("uri", "")
    return str(image) or (f"snapshot {sandbox['snapshotId']}" if sandbox.get("snapshotId") else "")


def confirm(question: str, *, is_given: bool) -> None:
    """Ask before something is destroyed. Raises InvalidRequest without a yes."""
    if is_given:
        return
    if not sys.stdin.isatty():
        raise InvalidRequest(f"{question} Nobody can be asked here: say --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidRequest("nothing was done")


def _state(text: str) -> str:
    known = {state.lower(): state for state in STATES}
    if text.lower() not in known:
        raise InvalidRequest(f"--filter state={text}: there are {', '.join(STATES)}")
    return known[text.lower()]


def _matches(image: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(image, pattern) for pattern in patterns)
