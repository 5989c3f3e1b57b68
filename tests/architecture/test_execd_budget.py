"""What execd may load: it lives in every sandbox, so each module is paid for hundreds of times."""

from __future__ import annotations

import subprocess
import sys
import sysconfig

from tests.architecture.sources import ROOT

# Beside what websockets, msgspec and asyncio load anyway. gc costs nothing: it is built in. `_ctypes` without its
# package is 64 KiB, and the only way to prctl(2), which keeps user code out of execd.
OURS = {"gc", "_ctypes"}

# Whole worlds that none of execd's imports may bring. `_ssl` and `_hashlib` would load the sandbox image's libraries,
# pwd and grp its name services.
NEVER = {
    *("_ssl", "_sqlite3", "_decimal", "_bz2", "_lzma", "_pickle", "_queue", "pwd", "grp"),
    *("argparse", "ast", "bz2", "ctypes", "dis", "email", "glob", "html", "http.client", "http.server", "json"),
    *("lzma", "multiprocessing", "pathlib", "pickle", "queue", "shutil", "sqlite3", "statistics", "tarfile"),
    *("tempfile", "tomllib", "unittest", "xml", "zipfile", "concurrent.futures.thread", "importlib.metadata._meta"),
    *("aiohttp", "aiodocker", "prometheus_client", "starlette", "structlog", "uvicorn", "uvloop"),
}


def _modules_after(code: str) -> set[str]:
    """Return the modules that a bare interpreter has loaded after running some code."""
    paths = [str(ROOT), str(ROOT / "images" / "execd"), sysconfig.get_path("purelib")]
    program = f"import sys; sys.path[:0] = {paths!r}\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


def test_execd_adds_nothing_to_what_its_libraries_load() -> None:
    """What it needs seldom it imports when it needs it."""
    libraries = _modules_after("import asyncio, msgspec, websockets.asyncio.client")
    everything = _modules_after("import asyncio, msgspec, websockets.asyncio.client, execd.main")
    extra = {name for name in everything - libraries if not name.startswith("execd")}
    assert extra <= OURS


def test_execd_as_it_starts_in_a_sandbox_loads_no_heavy_module() -> None:
    """With boot.py's stand-ins, which spare what websockets would bring."""
    loaded = _modules_after("import boot; boot.install_stand_ins(); import execd.main")
    assert "execd.main" in loaded
    assert loaded & NEVER == set()


def test_the_wire_alone_loads_no_carrier() -> None:
    """The control plane and the tests use it without websockets."""
    loaded = _modules_after("import execd.wire.connection, execd.wire.aio")
    assert not any(name.startswith("websockets") for name in loaded)
