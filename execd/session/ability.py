"""The trial that tells whether this container can isolate sessions. It uses all that a session needs."""

from __future__ import annotations

import asyncio
import os
import re

from execd.errors import ExecdError
from execd.launch.accounts import read_regular
from execd.launch.environment import Launch
from execd.process.reap import Reaper
from execd.process.spawn import MERGED, spawn
from execd.session import bubblewrap
from execd.wire.messages import IsolationState

TRY_S = 10.0
MAX_MESSAGE = 500

_CAPABILITIES = re.compile(r"^CapBnd:\s*([0-9a-f]+)$", re.MULTILINE)
_FILTERED = re.compile(r"^Seccomp:\s*2$", re.MULTILINE)
_VERSION = re.compile(r"bubblewrap (\S+)")

# The trial ends before bubblewrap executes anything, because an image need not have a single program.
_TRIAL = (*bubblewrap.NAMESPACES, "--ro-bind", "/", "/", "--dev", "/dev", "--bind", "/proc", "/proc")


async def isolation_state(reaper: Reaper) -> IsolationState:
    """Return whether sessions can be isolated, after a trial of some 10 ms."""
    status = read_regular("/proc/self/status")
    every = (2 << int(read_regular("/proc/sys/kernel/cap_last_cap") or "0")) - 1
    found = _CAPABILITIES.search(status)
    path = bubblewrap.find()
    problem, version = "this image has no bubblewrap", ""
    if path is not None:
        version = (_VERSION.search(await _said(reaper, path, "--version")) or ["", ""])[1]
        problem = (await _said(reaper, path, *_TRIAL, "--", path, "--version")).strip()
        if _VERSION.fullmatch(problem):
            problem = ""
    return IsolationState(
        available=not problem,
        message=problem,
        version=version,
        is_init=os.getpid() == 1,
        seccomp=_FILTERED.search(status) is not None,
        capped=found is not None and int(found[1], 16) != every,
    )


async def _said(reaper: Reaper, *argv: str) -> str:
    """Run a program. Return what it printed, or why it did not run."""
    try:
        child = spawn(argv, Launch({}, "/", None), stderr=MERGED)
    except ExecdError as error:
        return error.message
    ended = reaper.wait(child.pid)
    try:
        await asyncio.wait_for(ended, TRY_S)
        return os.read(child.stdout, MAX_MESSAGE).decode(errors="replace") or "it printed nothing"
    except (TimeoutError, BlockingIOError):
        return f"{argv[0]} did not answer"
    finally:
        os.close(child.stdout)
