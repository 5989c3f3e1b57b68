"""Python contexts without a container: execd's table in this process, the real runner in an environment of its own.

`SANDLOT_TEST_PYTHON` names another interpreter that has the runner's packages, to try another version of Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from controlplane.errors import AgentError
from controlplane.link.link import Link
from controlplane.link.stream import Stream
from execd.kernel.serve import Contexts
from execd.launch.environment import Environment
from execd.process.reap import Reaper
from execd.wire.aio import Data
from execd.wire.frames import Channel
from execd.wire.messages import (
    ContextClose,
    ContextDone,
    ContextError,
    ContextOpen,
    ContextResult,
    ContextRun,
    ContextState,
    Done,
)
from tests.support.agent.execd_link import control_plane_of, note
from tests.support.server.live_server import ROOT, python_with

RUNNER = ROOT / "images" / "kernels" / "python" / "start.py"
REQUIREMENTS = ROOT / "images" / "python" / "requirements.txt"
PATIENCE_S = 120  # on a machine that is busy with other things


class Finished(NamedTuple):
    """What one run gave, in order."""

    items: list[Data | ContextResult | ContextError]
    done: ContextDone

    def printed(self, channel: Channel = Channel.STDOUT) -> str:
        """Return what came on stdout or stderr."""
        return b"".join(i.data for i in self.items if isinstance(i, Data) and i.channel == channel).decode()

    @property
    def stderr(self) -> str:
        """What came on stderr."""
        return self.printed(Channel.STDERR)

    @property
    def results(self) -> list[ContextResult]:
        """Results and displays."""
        return [item for item in self.items if isinstance(item, ContextResult)]

    @property
    def text(self) -> str:
        """The value of the last expression, as text."""
        assert self.error is None, self.error
        (result,) = [item for item in self.results if item.kind == "result"]
        return result.data["text/plain"]

    @property
    def error(self) -> ContextError | None:
        """The one error that was told, if any."""
        errors = [item for item in self.items if isinstance(item, ContextError)]
        assert len(errors) < 2, errors
        return errors[0] if errors else None


class PythonContext:
    """One context."""

    def __init__(self, link: Link, state: ContextState) -> None:
        self.link = link
        self.id = state.id
        self.pid = state.pid

    async def start(self, code: str, timeout_s: float | None = None) -> Stream:
        """Begin a run."""
        return await self.link.open(ContextRun(self.id, code, timeout_s))

    async def run(self, code: str, timeout_s: float | None = None) -> Finished:
        """Run code to its end."""
        async with asyncio.timeout(PATIENCE_S), await self.start(code, timeout_s) as stream:
            items: list[Data | ContextResult | ContextError] = []
            item = None
            try:
                while (item := await stream.receive()) is not None:
                    if isinstance(item, ContextDone):
                        return Finished(items, item)
                    assert isinstance(item, Data | ContextResult | ContextError)
                    items.append(item)
            finally:
                note(item, items)
        raise AssertionError("the stream ended without context.done")

    async def close(self) -> None:
        """End it, if it has not ended."""
        with contextlib.suppress(AgentError):
            await self.link.call(ContextClose(self.id), Done)


class PythonSandbox:
    """A link to execd's contexts."""

    def __init__(self, contexts: Contexts, link: Link) -> None:
        self.contexts = contexts
        self.link = link
        self._opened = 0

    async def open(self) -> PythonContext:
        """Open a context."""
        self._opened += 1
        async with asyncio.timeout(PATIENCE_S):
            return PythonContext(
                self.link, await self.link.call(ContextOpen(f"c{self._opened}", "python"), ContextState)
            )


def interpreter() -> str:
    """Return the interpreter for the runner."""
    if chosen := os.environ.get("SANDLOT_TEST_PYTHON"):
        return chosen
    return str(python_with("python-runner", REQUIREMENTS.read_text().split()))


@contextlib.asynccontextmanager
async def python_sandbox(directory: Path, preload: list[str]) -> AsyncIterator[PythonSandbox]:
    """Serve Python contexts whose working directory is *directory*."""
    kernels = directory / "kernels"
    kernels.mkdir()
    words = ", ".join(f'"{name}"' for name in preload)
    (kernels / "python.toml").write_text(
        f'language = "python"\ncommand = ["{interpreter()}", "{RUNNER}"]\nzygote = true\neager = true\nspare = true\n'
        f"preload = [{words}]\nfork = true\n"
    )
    reaper = Reaper()
    contexts = Contexts(reaper, Environment(dict(os.environ), str(directory)), str(kernels))
    async with control_plane_of(contexts.handlers()) as end:
        yield PythonSandbox(contexts, await end.next_link())
        await contexts.table.shutdown()
    reaper.close()
