"""The options of bubblewrap, and the search for its program."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from execd.wire.messages import Isolation

# No fresh /proc: the kernel refuses it if the engine has hidden parts of the present one.
NAMESPACES = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
    *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
)
OVERLAYS = "--overlays"  # the flag with which execd becomes `stage.enter_overlays`
SCRATCH = "/run/sandlot"  # a directory of every sandbox, whose content a session must not see
OWN_TMP = "/tmp"  # noqa: S108  # each session has its own
JOBS = f"{SCRATCH}/jobs"  # in a session: the output of its background jobs

# The variables without which shells and programs hardly work.
BASIC = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TERM", "TZ")


def find() -> str | None:
    """Return the path of bubblewrap: the one that came with execd, else the image's."""
    ours = os.path.join(os.path.dirname(sys.executable), "bwrap")
    places = [ours, *(os.path.join(directory, "bwrap") for directory in os.get_exec_path())]
    return next((path for path in places if os.access(path, os.X_OK)), None)


def merged(index: int) -> str:
    """Return where an overlay is mounted before bubblewrap binds it to its place."""
    return f"{SCRATCH}/{index}/merged"


def overlaid(isolation: Isolation) -> list[str]:
    """Return the directories of which `stage.enter_overlays` makes overlays, in the order of their numbers."""
    return [mount.path for mount in isolation.mounts if mount.mode == "overlay"]


def options(isolation: Isolation, env: Mapping[str, str], jobs: str) -> list[str]:
    """Return the options for a session.

    Args:
        env: All variables of its shell.
        jobs: The directory that the session sees as JOBS.
    """
    chosen = list(NAMESPACES)
    if not isolation.network:
        chosen.append("--unshare-net")
    if isolation.only_called:
        for name, number in (("--uid", isolation.uid), ("--gid", isolation.gid)):
            chosen += [] if number is None else [name, str(number)]
    places = _places(isolation)
    chosen += places.pop("/", ["--ro-bind", "/"])
    chosen += ["/", "--dev", "/dev", "--bind", "/proc", "/proc", "--tmpfs", OWN_TMP]
    for target in sorted(places, key=lambda path: path.count("/")):  # deeper places are mounted later
        chosen += [*places[target], target]
    chosen += ["--tmpfs", SCRATCH, "--bind", jobs, JOBS]
    chosen += ["--chdir", isolation.mounts[0].path, "--clearenv"]
    for key, value in env.items():
        chosen += ["--setenv", key, value]
    return chosen


def environment(isolation: Isolation, env: Mapping[str, str]) -> dict[str, str]:
    """Return those of the sandbox's variables that a session gets."""
    only = isolation.env_only
    return {
        key: value
        for key, value in env.items()
        if key not in isolation.env_without and (only is None or key in only or key in BASIC or key.startswith("LC_"))
    }


def _places(isolation: Isolation) -> dict[str, list[str]]:
    """Return, by path, the option that mounts something there, without the path itself."""
    overlays = {path: merged(index) for index, path in enumerate(overlaid(isolation))}
    places = {}
    for mount in isolation.mounts:
        option = "--ro-bind" if mount.mode == "ro" else "--bind"
        places[mount.path] = [option, overlays.get(mount.path, mount.path)]
    for bind in isolation.binds:
        places[bind.target] = ["--ro-bind" if bind.read_only else "--bind", bind.source]
    return places
