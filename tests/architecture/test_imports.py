"""Who may import whom: one dictionary, and the tree is held to it.

A key is a folder or a module; for a module the key that fits best rules. A value names what may be imported beside the
standard library and the folder's own modules: modules and folders of ours, and libraries.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping

import pytest

from tests.architecture.sources import FOLDERS, MODULES, ROOT, imports

ARROWS: dict[str, set[str]] = {
    # execd: in every sandbox, so next to nothing from outside; nothing of the control plane.
    "execd": {"execd"},
    "execd.wire": {"msgspec"},  # shared with the control plane; it knows nothing but itself
    "execd.errors": set(),
    "execd.config": set(),
    "execd.tracing": set(),
    "execd.dispatch": {"execd.errors", "execd.wire"},
    "execd.server": {"execd.config", "execd.dispatch", "execd.wire", "websockets"},
    "execd.sockets": {"execd.wire"},
    "execd.metrics": {"execd.dispatch", "execd.sockets", "execd.wire", "msgspec"},
    "execd.launch": {"execd.errors", "execd.metrics", "msgspec"},
    "execd.process": {"execd.dispatch", "execd.errors", "execd.launch", "execd.wire"},
    "execd.files": {"execd.dispatch", "execd.errors", "execd.launch", "execd.wire"},
    "execd.kernel": {"execd.dispatch", "execd.errors", "execd.launch", "execd.process", "execd.wire", "msgspec"},
    "execd.kernel.runner": {
        *("execd.errors", "execd.launch", "execd.metrics", "execd.process", "execd.wire", "msgspec"),
    },
    "execd.session": {
        *("execd.dispatch", "execd.errors", "execd.files", "execd.kernel", "execd.launch", "execd.process"),
        "execd.wire",
    },
    "execd.terminal": {"execd.dispatch", "execd.errors", "execd.launch", "execd.process", "execd.wire"},
    "execd.recording": {"execd.dispatch", "execd.errors", "execd.wire"},
    "execd.activity": {
        *("execd.dispatch", "execd.errors", "execd.launch", "execd.recording", "execd.wire", "msgspec"),
    },
    "execd.port": {"execd.dispatch", "execd.errors", "execd.wire", "msgspec"},
    # The control plane, from the nouns up to HTTP. A new module beside these starts with no arrows at all.
    "controlplane": set(),
    "controlplane.errors": set(),
    "controlplane.sandbox": {"execd.wire.discreet", "msgspec"},
    "controlplane.tasks": {"structlog"},
    "controlplane.turns": set(),
    "controlplane.logs": {"controlplane.settings", "msgspec", "structlog"},
    "controlplane.settings": {
        *("controlplane.errors", "controlplane.images.names", "controlplane.sandbox", "execd.wire.discreet"),
        "msgspec",
    },
    "controlplane.access": {"controlplane.errors", "controlplane.sandbox", "msgspec", "structlog"},
    "controlplane.store": {
        *("controlplane.access.key", "controlplane.errors", "controlplane.sandbox", "msgspec", "structlog"),
    },
    # The seam knows no engine, and an engine nothing above the seam.
    "controlplane.runtime": {"controlplane.errors", "controlplane.sandbox", "msgspec"},
    "controlplane.runtime.docker": {
        *("controlplane.errors", "controlplane.runtime", "controlplane.sandbox"),
        *("aiodocker", "aiohttp", "msgspec", "structlog"),
    },
    # What the server counts: nouns for all above, which report to them.
    "controlplane.telemetry": {
        *("controlplane.errors", "controlplane.runtime", "controlplane.sandbox", "prometheus_client", "structlog"),
    },
    "controlplane.telemetry.otlp": {
        "controlplane.errors",
        "controlplane.telemetry.tracing",
        "opentelemetry",
        "structlog",
    },
    "controlplane.images": {
        "controlplane.console.files",
        "controlplane.errors",
        "controlplane.runtime.docker",
        "controlplane.sandbox",
        "aiodocker",
        "aiohttp",
    },
    "controlplane.images.names": set(),
    "controlplane.link": {
        *(
            "controlplane.errors",
            "controlplane.sandbox",
            "controlplane.telemetry.tracing",
            "controlplane.turns",
            "execd.wire",
        ),
        *("msgspec", "structlog", "websockets"),
    },
    "controlplane.pool": {
        *("controlplane.errors", "controlplane.link", "controlplane.runtime.driver", "controlplane.sandbox"),
        *("controlplane.tasks", "controlplane.telemetry", "execd.wire.messages", "msgspec", "structlog"),
    },
    "controlplane.pool.plan": {"controlplane.sandbox", "msgspec"},  # decides, does nothing
    "controlplane.lifecycle": {
        *("controlplane.access", "controlplane.errors", "controlplane.images.names", "controlplane.link"),
        *("controlplane.pool", "controlplane.runtime", "controlplane.sandbox", "controlplane.settings"),
        *("controlplane.store", "controlplane.tasks", "controlplane.telemetry", "execd.wire.messages"),
        *("msgspec", "structlog"),
    },
    "controlplane.lifecycle.events": {
        *("controlplane.access", "controlplane.errors", "controlplane.pool", "controlplane.sandbox"),
        *("controlplane.tasks", "controlplane.turns", "execd.wire.discreet", "msgspec"),
    },
    "controlplane.lifecycle.records": {
        *("controlplane.errors", "controlplane.sandbox", "controlplane.store", "msgspec", "structlog"),
    },
    "controlplane.lifecycle.room": {
        *("controlplane.access", "controlplane.errors", "controlplane.runtime", "controlplane.sandbox"),
        *("controlplane.settings", "msgspec", "structlog"),
    },
    "controlplane.activity": {
        *("controlplane.errors", "controlplane.link", "controlplane.sandbox", "controlplane.tasks"),
        *("execd.wire.messages",),
        *("msgspec", "structlog"),
    },
    # The listener knows ASGI and nothing of what it serves.
    "controlplane.listener": {"httptools", "msgspec", "structlog", "uvicorn", "websockets"},
    # The console's pages as files; `controlplane.api.console` serves them.
    "controlplane.console": {"msgspec"},
    # The edge over HTTP: app → contracts → runs → edge.
    "controlplane.api": {
        *("controlplane.access", "controlplane.activity", "controlplane.console", "controlplane.errors"),
        *("controlplane.lifecycle", "controlplane.link", "controlplane.logs", "controlplane.runtime.driver"),
        *("controlplane.sandbox", "controlplane.settings", "controlplane.telemetry"),
        *("execd.wire.discreet", "msgspec", "prometheus_client", "starlette"),
        "structlog",
    },
    "controlplane.api.edge": {
        *("controlplane.access", "controlplane.errors", "controlplane.lifecycle", "controlplane.link"),
        *("controlplane.listener.extensions", "controlplane.sandbox", "controlplane.telemetry.metrics"),
        *("controlplane.turns", "execd.wire", "msgspec", "starlette", "structlog"),
    },
    "controlplane.api.activity": {
        *("controlplane.access.scopes", "controlplane.activity", "controlplane.api.edge", "controlplane.api.runs"),
        *("controlplane.errors", "controlplane.lifecycle", "controlplane.sandbox", "execd.wire"),
        *("msgspec", "starlette"),
    },
    "controlplane.api.runs": {
        *("controlplane.api.edge", "controlplane.errors", "controlplane.link", "controlplane.telemetry"),
        *("controlplane.turns", "execd.wire", "msgspec", "starlette"),
    },
    "controlplane.api.execd": {
        *("controlplane.access.scopes", "controlplane.api.edge", "controlplane.api.runs", "controlplane.errors"),
        *("controlplane.lifecycle", "controlplane.link", "controlplane.sandbox", "controlplane.turns", "execd.wire"),
        *("msgspec", "python_multipart", "starlette", "structlog"),
    },
    "controlplane.api.lifecycle": {
        *("controlplane.access", "controlplane.api.edge", "controlplane.api.egress", "controlplane.api.execd"),
        *("controlplane.api.activity",),
        *(
            "controlplane.api.runs",
            "controlplane.errors",
            "controlplane.lifecycle",
            "controlplane.link",
            "controlplane.sandbox",
        ),
        *("controlplane.turns", "execd.wire", "msgspec", "prometheus_client", "starlette"),
    },
    "controlplane.api.stream": {
        *("controlplane.access.scopes", "controlplane.api.edge", "controlplane.api.execd", "controlplane.api.runs"),
        *("controlplane.activity", "controlplane.api.activity"),
        *("controlplane.errors", "controlplane.link", "controlplane.listener.extensions", "controlplane.sandbox"),
        *("controlplane.telemetry.tracing", "controlplane.turns", "execd.wire", "msgspec", "starlette", "structlog"),
    },
    "controlplane.api.console": {
        *("controlplane.access", "controlplane.api.edge", "controlplane.console", "controlplane.errors"),
        *("msgspec", "starlette"),
    },
    "controlplane.api.server": {
        *("controlplane.access.scopes", "controlplane.api.edge", "controlplane.api.lifecycle", "controlplane.api.runs"),
        *("controlplane.errors", "controlplane.images", "controlplane.lifecycle", "controlplane.logs"),
        *("controlplane.runtime.driver", "controlplane.sandbox"),
        *("controlplane.settings", "controlplane.tasks", "controlplane.turns", "msgspec", "starlette", "structlog"),
    },
    "controlplane.api.egress": {
        *("controlplane.access.scopes", "controlplane.api.edge", "controlplane.lifecycle", "controlplane.sandbox"),
        "starlette",
    },
    "controlplane.api.ports": {
        *("controlplane.access", "controlplane.api.edge", "controlplane.errors", "controlplane.link"),
        *("controlplane.listener.extensions", "controlplane.telemetry.metrics", "controlplane.turns", "execd.wire"),
        *("h11", "starlette", "structlog", "websockets"),
    },
    # The battery is a client: it knows the server by HTTP alone.
    "controlplane.attack": {
        *("controlplane.errors", "controlplane.images", "controlplane.runtime.docker", "msgspec"),
    },
    "controlplane.attack.attacks": {"controlplane.attack.client", "msgspec"},
    "controlplane.attack.client": {"aiohttp", "msgspec", "yarl"},
    # The composition root, and the commands.
    "controlplane.server": {"controlplane", "execd.wire.discreet", "msgspec", "prometheus_client", "structlog"},
    # A client of any server: it knows the server by HTTP and the native stream alone.
    "controlplane.client": {"controlplane.errors", "msgspec", "websockets"},
    "controlplane.cli": {"controlplane", "execd.wire", "msgspec", "structlog", "uvloop"},
    "controlplane.cli.sandboxes": {"controlplane.cli", "controlplane.client", "controlplane.errors"},
}

# Standard modules that only some may have.
GUARDED = {
    "sqlite3": {"controlplane.store.store"},
    "ssl": set(),
    "ctypes": {"execd.session.namespaces"},
    "argparse": {
        *(
            "controlplane.cli.commands",
            "controlplane.cli.completion",
            "controlplane.cli.keys",
            "controlplane.cli.main",
            "controlplane.cli.parsing",
        ),
        *("controlplane.cli.sandboxes.exec", "controlplane.cli.sandboxes.run"),
    },
}

# Imports inside a function need a reason.
LAZY = {
    ("controlplane.cli.commands", "__call__"): "the metadata of packages is slow to read",
    ("controlplane.cli.main", "_run_command"): "the same",
    ("controlplane.cli.main", "_settings"): "the same",
    ("controlplane.cli.main", "_run"): "the same",
    ("controlplane.cli.main", "_serve"): "each command loads only what it needs, so that --help and errors are quick",
    ("controlplane.cli.main", "_doctor"): "the same",
    ("controlplane.cli.main", "_attack"): "the same",
    ("controlplane.cli.main", "_images"): "the same",
    ("controlplane.cli.main", "_keys"): "the same",
    ("controlplane.server.traces", "tracing"): "the libraries for traces are an extra",
    ("execd.deputy", "main"): "ctypes, for processes that are not execd",
    ("execd.main", "main"): "the same",
    ("execd.files.disk", "run"): "a thread pool costs memory in every sandbox, and most touch no file",
    ("execd.launch.declared", "read"): "tomllib is large, and most images declare nothing",
}

BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager", "service", "handler"}

# The multiplexer itself: no I/O, no clock, no task.
SANS_IO = {name for name in MODULES if name.startswith("execd.wire.")} - {"execd.wire.aio"}


def _library(imported: str) -> str:
    return imported.partition(".")[0]


def _is_ours(imported: str) -> bool:
    return _library(imported) in {"controlplane", "execd"}


def _key_of(name: str) -> str | None:
    parts = name.split(".")
    ways = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((way for way in ways if way in ARROWS), None)


def _within(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_its_arrows_allow(name: str) -> None:
    """Whoever adds an arrow writes it down here, where others see what hangs on what."""
    key = _key_of(name)
    assert key is not None
    for line in imports(name):
        library = _library(line.imported)
        if _is_ours(line.imported):
            inside = "." in key and _within(line.imported, {key})
            allowed = inside or _within(line.imported, ARROWS[key])
            # An empty package is no dependency; its modules are.
            assert allowed or line.imported in FOLDERS, f"{name} may not import {line.imported}"
        elif library in sys.stdlib_module_names:
            assert name in GUARDED.get(library, {name}), f"{name} may not import {library}"
        else:
            assert library in ARROWS[key], f"{name} may not import {library}"


def test_every_arrow_is_used() -> None:
    """An arrow that nobody needs any more is an invitation."""
    used: dict[str, set[str]] = {key: set() for key in ARROWS}
    for name in MODULES:
        if (key := _key_of(name)) is not None:
            used[key] |= {line.imported for line in imports(name)}
    idle = [
        f"{key} → {target}"
        for key, targets in ARROWS.items()
        for target in targets
        if target not in {"execd", "controlplane"} and not any(_within(each, {target}) for each in used[key])
    ]
    assert not idle, f"nobody uses {', '.join(sorted(idle))}"
    assert [key for key in ARROWS if key not in MODULES] == []


def test_the_documentation_has_the_folders_in_the_order_of_the_arrows() -> None:
    """docs/architecture.md: a folder imports only from rows above its own row."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("The control plane, `controlplane/`:")[2].partition("The agent, ")[0]
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    places = {
        "controlplane." + name.removeprefix("controlplane/").removesuffix(".py").replace("/", "."): place
        for place, row in enumerate(rows)
        for name in re.findall(r"`([\w/.]+)`", row)
    }

    def place_of(name: str) -> int | None:
        parts = name.split(".")
        ways = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
        return next((places[way] for way in ways if way in places), None)

    readers = {"controlplane.logs", "controlplane.settings"}  # which also read a noun of later rows, as the page says
    wrong = [
        f"{key} before {target}"
        for key, targets in ARROWS.items()
        if (own := place_of(key)) is not None and key not in readers
        for target in targets
        if (other := place_of(target)) is not None and other > own
    ]
    assert len(places) > 25
    assert wrong == []


def test_the_control_plane_knows_of_execd_only_the_wire() -> None:
    """And execd knows nothing of the control plane: it outlives its upgrades."""
    for name in MODULES:
        for line in imports(name):
            if name.startswith("controlplane"):
                assert not line.imported.startswith("execd") or _within(line.imported, {"execd.wire"}), line
            else:
                assert not line.imported.startswith("controlplane"), line


def _cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return one cycle of a graph, or nothing."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if cycle := walk(target, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := walk(node, []))), [])


def test_the_search_for_cycles_finds_one() -> None:
    """The two tests below would pass on anything else."""
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_cycle_by_module() -> None:
    """Imports for annotations count too."""
    graph = {name: {line.imported for line in imports(name) if line.imported in MODULES} for name in MODULES}
    assert _cycle(graph) == []


@pytest.mark.parametrize("depth", range(2, 1 + max(name.count(".") for name in MODULES)))
def test_no_cycle_by_folder(depth: int) -> None:
    """Two folders that need each other are one, at any depth. A module that lies higher stands for itself."""

    def unit(name: str) -> str:
        return ".".join(name.split(".")[:depth])

    pairs = {
        (unit(name), unit(line.imported))
        for name in MODULES
        for line in imports(name)
        if line.imported in MODULES and line.imported not in FOLDERS
    }
    graph = {
        source: {target for _, target in group if target != source}
        for source, group in itertools.groupby(sorted(pairs), key=lambda pair: pair[0])
    }
    assert _cycle(graph) == []


def test_the_core_of_the_wire_does_no_io() -> None:
    """No coroutine, no clock, no socket: any interleaving can be tested, and both ends share it."""
    for name in sorted(SANS_IO):
        source = (ROOT / f"{name.replace('.', '/')}.py").read_text() if name not in FOLDERS else ""
        for word in ("async ", "await "):
            assert word not in source, f"{name} contains {word}"
        libraries = {_library(line.imported) for line in imports(name)}
        assert libraries <= {"__future__", "collections", "enum", "execd", "msgspec", "struct", "typing"}, name


def test_imports_inside_functions_have_a_reason() -> None:
    """The list stays short, and true."""
    lazy = {(line.importer, line.function) for name in MODULES for line in imports(name) if line.function}
    assert lazy == set(LAZY)


def test_no_module_is_named_for_nothing() -> None:
    """A module is named for its idea."""
    assert [name for name in MODULES if name.rpartition(".")[2] in BANNED_NAMES] == []


_IMPORT_ALL = """
import socket, sys, threading
names = sys.argv[1:]
import asyncio, subprocess

def forbidden(*args, **kwargs):
    raise AssertionError(f"importing {name} does something")

socket.socket.bind = socket.socket.connect = socket.socket.listen = forbidden
threading.Thread.start = forbidden
subprocess.Popen.__init__ = forbidden
asyncio.new_event_loop = forbidden
import importlib
for name in names:
    importlib.import_module(name)
assert threading.active_count() == 1
try:
    asyncio.get_running_loop()
except RuntimeError:
    print("quiet")
"""


def test_importing_any_module_does_nothing() -> None:
    """No socket, no thread, no process, no loop: only `main` starts things."""
    names = [name for name in MODULES if not name.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, *names],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "quiet\n"), done.stderr
