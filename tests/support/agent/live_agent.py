"""A real execd in a process of its own on this machine, and the end of the link that is the control plane's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from controlplane.link.link import Link
from tests.support.agent.execd_link import ControlPlaneEnd

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    """Return a port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(ancestor: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [ancestor]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


class LiveAgent:
    """`python -m execd SOCKET KERNELS_DIR VERSIONS_DIR`, dialling `self.end`. Leaving the block ends it."""

    def __init__(
        self,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        prefix: tuple[str, ...] = (),
        declared: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare the start.

        Args:
            prefix: A command that executes the one given behind it.
            declared: What the image declares: `kernels/NAME.toml` or `versions/NAME.toml` → the file's text.
        """
        self._prefix = prefix
        self._declared = declared or {}
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_PORT": str(free_port()), **(env or {})}
        self._cwd = cwd
        self._stack = contextlib.AsyncExitStack()
        self.process: Process
        self.end: ControlPlaneEnd
        self.link: Link

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sandlot-")))
            self.socket_path = folder / "link.sock"
            self.end = await stack.enter_async_context(ControlPlaneEnd(self.socket_path))
            directories = [folder / "kernels", folder / "versions"]
            for directory in directories:
                directory.mkdir()
            for name, text in self._declared.items():
                (folder / name).write_text(text)
            self.process = await asyncio.create_subprocess_exec(
                *(*self._prefix, sys.executable, "-m", "execd", str(self.socket_path), *map(str, directories)),
                env=self._env,
                cwd=self._cwd or folder,
                stderr=PIPE,
            )
            stack.push_async_callback(self._end_process)
            self.link = await self.end.next_link()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _end_process(self) -> None:
        left = descendants(self.process.pid)  # in a container they would end with process 1
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
