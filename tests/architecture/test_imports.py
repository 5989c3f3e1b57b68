"""Who may import whom: one dictionary, and the tree is held to it.

A key is a folder or a module; for a module the key that fits best rules. A value names what may be imported beside the
standard library and the folder's own modules: modules and folders of ours, and libraries.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping

import pytest

from tests.architecture.sources import FOLDERS, MODULES, ROOT, imports

ARROWS: dict[str, set[str]] = {
    # execd: in every sandbox, so next to nothing from outside; nothing of the control plane.
    "execd": {"execd"},
    "execd.wire": {"msgspec"},  # shared with the control plane; it knows nothing but itself
    "execd.server": {"execd.config", "execd.dispatch", "execd.wire", "websockets"},
    "execd.dispatch": {"execd.errors", "execd.wire"},
    "execd.process": {"execd.dispatch", "execd.environment", "execd.errors", "execd.wire"},
    "execd.kernel": {"execd.dispatch", "execd.environment", "execd.errors", "execd.process", "execd.wire", "msgspec"},
    "execd.isolation": {
        *("execd.accounts", "execd.environment", "execd.errors", "execd.files", "execd.kernel", "execd.process"),
        *("execd.shell", "execd.wire"),
    },
    "execd.files": {"execd.accounts", "execd.dispatch", "execd.environment", "execd.errors", "execd.wire"},
    # The control plane, from the nouns up to HTTP. A new module beside these starts with no arrows at all.
    "controlplane": set(),
    "controlplane.errors": set(),
    "controlplane.sandbox": {"msgspec"},
    "controlplane.tasks": {"structlog"},
    "controlplane.credentials": {"controlplane.errors"},
    "controlplane.config": {"controlplane.errors", "controlplane.sandbox", "msgspec"},
    "controlplane.reference": {"controlplane.config", "msgspec"},
    "controlplane.logs": {"controlplane.config", "structlog"},
    "controlplane.store": {"controlplane.errors", "controlplane.sandbox", "msgspec"},  # and the only one with sqlite3
    "controlplane.runtime": {
        *("controlplane.errors", "controlplane.sandbox"),
        *("aiodocker", "aiohttp", "msgspec", "structlog"),
    },
    "controlplane.runtime.driver": {"controlplane.sandbox", "msgspec"},  # the Protocol knows no engine
    "controlplane.link": {"controlplane.errors", "controlplane.sandbox", "execd.wire", "msgspec"},
    "controlplane.link.link": {"controlplane.link", "execd.wire", "msgspec", "websockets"},
    "controlplane.link.accept": {"controlplane.link", "controlplane.errors", "execd.wire", "structlog", "websockets"},
    "controlplane.link.websocket": {"execd.wire.errors", "websockets"},
    "controlplane.pool": {"controlplane.errors", "controlplane.tasks", "msgspec", "structlog"},
    "controlplane.pool.plan": {"controlplane.sandbox", "msgspec"},  # decides, does nothing
    "controlplane.provision": {
        *("controlplane.errors", "controlplane.link", "controlplane.pool", "controlplane.runtime.driver"),
        *("controlplane.sandbox", "execd.wire.messages", "msgspec", "structlog"),
    },
    "controlplane.lifecycle": {
        *("controlplane.config", "controlplane.errors", "controlplane.link", "controlplane.pool"),
        *("controlplane.provision", "controlplane.runtime.driver", "controlplane.sandbox", "controlplane.store"),
        *("controlplane.tasks", "execd.wire.messages", "msgspec", "structlog"),
    },
    "controlplane.metrics": {
        *("controlplane.lifecycle", "controlplane.link.directory", "controlplane.pool", "prometheus_client"),
    },
    "controlplane.api": {
        *("controlplane.errors", "controlplane.lifecycle", "controlplane.link", "controlplane.sandbox", "execd.wire"),
        *("msgspec", "prometheus_client", "python_multipart", "starlette", "structlog"),
    },
    "controlplane.api.ports": {
        *("controlplane.api", "controlplane.errors", "controlplane.link", "execd.wire"),
        *("h11", "starlette", "structlog", "websockets"),
    },
    # The composition root and the two commands beside it.
    "controlplane.composition": {"controlplane", "msgspec"},
    "controlplane.server": {"controlplane", "msgspec", "structlog", "uvicorn"},
    "controlplane.doctor": {
        *("controlplane.config", "controlplane.errors", "controlplane.lifecycle", "controlplane.link"),
        *("controlplane.provision", "controlplane.runtime", "controlplane.tasks", "msgspec"),
    },
    "controlplane.imagecheck": {
        *("controlplane.config", "controlplane.doctor", "controlplane.errors", "controlplane.link"),
        *("execd.wire", "msgspec"),
    },
    "controlplane.main": {"controlplane", "uvloop"},
}

# Standard modules that only some may have.
GUARDED = {
    "sqlite3": {"controlplane.store"},
    "ssl": set(),
    "ctypes": {"execd.isolation.namespaces"},
    "argparse": {"controlplane.main"},
}

# Imports inside a function need a reason.
LAZY = {
    ("controlplane.main", "_serve"): "each command loads only what it needs, so that --help and errors are quick",
    ("controlplane.main", "_doctor"): "the same",
    ("controlplane.main", "_images"): "the same",
    ("execd.deputy", "main"): "ctypes, for processes that are not execd",
    ("execd.main", "main"): "the same",
    ("execd.files.disk", "run"): "a thread pool costs memory in every sandbox, and most touch no file",
    ("execd.kernel.manifest", "_read"): "tomllib is large, and read only where a context is opened",
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


def test_no_cycle_by_folder() -> None:
    """Two folders that need each other are one. A module that lies in no folder stands for itself."""

    def unit(name: str) -> str:
        return ".".join(name.split(".")[:2])

    pairs = {
        (unit(name), unit(line.imported))
        for name in MODULES
        for line in imports(name)
        if _is_ours(line.imported) and "." in name and line.imported not in {"controlplane", "execd"}
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
