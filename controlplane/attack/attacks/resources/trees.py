"""Attacks by trees of files, and by what is no file."""

from __future__ import annotations

import contextlib

from controlplane.attack.attacks.resources.survival import attack, is_left_alone
from controlplane.attack.client.api import Unreachable, Watch
from controlplane.attack.client.outcome import Outcome, broken, held, unclear
from controlplane.attack.client.program import given
from controlplane.attack.client.target import LEAST_MEMORY, Target

FILES = 20_000  # in one directory

_DEEP = """
os.makedirs("/tmp/attack", exist_ok=True)
os.chdir("/tmp/attack")  # noqa: S108 - inside the sandbox
try:
    for _ in range(3000):
        os.mkdir("d" * 20)
        os.chdir("d" * 20)
except OSError:
    pass
print("made")
"""

_WIDE = """
os.makedirs("/tmp/wide", exist_ok=True)
for number in range(files):
    os.close(os.open("/tmp/wide/%d" % number, os.O_CREAT | os.O_WRONLY))
print("made")
"""

_SPECIAL = """
os.makedirs("/tmp/special", exist_ok=True)
os.mkfifo("/tmp/special/fifo")
socket.socket(socket.AF_UNIX).bind("/tmp/special/socket")
os.symlink("/dev/zero", "/tmp/special/zero")
os.symlink("/proc/self/mem", "/tmp/special/memory")
os.symlink("loop", "/tmp/special/loop")
print("made")
"""


async def _tree(target: Target, source: str, where: str) -> Outcome:
    """Make a tree, then have the API list, search and delete it."""
    async with target.sandbox(memory="256Mi", cpu="1") as box:
        if "made" not in await box.output_of(source):
            return unclear("the tree was not made")
        async with Watch(target.api) as watch:
            for method, path in (
                ("GET", f"/directories/list?path={where}&depth=100"),
                ("GET", f"/files/search?path={where}&pattern=*"),
                ("DELETE", f"/directories?path={where}"),
            ):
                with contextlib.suppress(Unreachable):
                    answer = await target.api.request(method, box.agent + path, timeout_s=20)
                    if answer.status >= 500:
                        return broken(f"{method} {path}: {answer.status}")
        outcome = await is_left_alone(target, box, held())
    return broken(watch.complaint) if watch.complaint else outcome


async def _deep(target: Target) -> Outcome:
    return await _tree(target, _DEEP, "/tmp/attack")  # noqa: S108 - inside the sandbox


async def _wide(target: Target) -> Outcome:
    return await _tree(target, given(_WIDE, files=FILES), "/tmp/wide")  # noqa: S108


async def _special_files(target: Target) -> Outcome:
    """Download what is no file; each is refused, or ends with the client."""
    async with target.sandbox(memory=LEAST_MEMORY, cpu="1") as box:
        if "made" not in await box.output_of(_SPECIAL):
            return unclear("the files were not made")
        for name in ("fifo", "socket", "loop", "memory"):
            try:
                answer = await target.api.request(
                    "GET", f"{box.agent}/files/download?path=/tmp/special/{name}", timeout_s=10
                )
            except Unreachable:
                return broken(f"the download of a {name} has no end")
            if answer.status >= 500 and answer.json() is None:
                return broken(f"the download of a {name}: {answer.status} {answer.text[:100]}")
        with contextlib.suppress(Unreachable):
            await target.api.request("GET", f"{box.agent}/files/download?path=/tmp/special/zero", timeout_s=3)
        return await is_left_alone(target, box, held())


ATTACKS = (
    attack(
        "deep-tree",
        "Have the API list and delete a tree of 3,000 nested directories",
        "Each request is answered without an error of the server, and others are answered meanwhile",
        _deep,
        "report it: file operations must be bounded in depth and time",
    ),
    attack(
        "wide-tree",
        "Have the API list, search and delete a directory of 20,000 files",
        "Each request is answered without an error of the server, and others are answered meanwhile",
        _wide,
        "report it: file operations must be bounded in number and time",
    ),
    attack(
        "special-files",
        "Have the API download a FIFO, a socket, a loop of links, /proc/self/mem and /dev/zero",
        "Each is refused or ends with its client; the agent goes on",
        _special_files,
        "report it: only regular files may be opened without a time limit",
    ),
)
