"""The process between execd and a session: it mounts overlays, or enters a session."""

from __future__ import annotations

import os
import stat
from typing import NoReturn

from execd.session import namespaces
from execd.session.bubblewrap import SCRATCH, merged


def enter_overlays(arguments: list[str]) -> NoReturn:
    """Mount overlays of some directories, then execute a program: DIRECTORY… -- PROGRAM ARGUMENT….

    What is written to an overlay takes memory of the sandbox.

    Raises:
        SystemExit: with the reason.
    """
    cut = arguments.index("--")
    directories, program = arguments[:cut], arguments[cut + 1 :]
    try:
        namespaces.unshare(namespaces.NEW_USER | namespaces.NEW_MOUNT)
        namespaces.map_ourselves()
        namespaces.mount("tmpfs", SCRATCH, "tmpfs", options="mode=0755")
        for index, directory in enumerate(directories):
            _overlay(index, directory)
    except OSError as error:
        raise SystemExit(f"an overlay cannot be mounted: {error.strerror}") from error
    os.execv(program[0], program)  # noqa: S606


def _overlay(index: int, directory: str) -> None:
    places = {name: f"{SCRATCH}/{index}/{name}" for name in ("lower", "upper", "work")} | {"merged": merged(index)}
    for place in places.values():
        os.makedirs(place)
    os.chmod(places["upper"], stat.S_IMODE(os.stat(directory).st_mode))
    # The path of a bind mount has none of the characters that have a meaning in the options of a mount.
    namespaces.mount(directory, places["lower"], flags=namespaces.MS_BIND | namespaces.MS_REC)
    options = f"lowerdir={places['lower']},upperdir={places['upper']},workdir={places['work']},userxattr"
    namespaces.mount("overlay", places["merged"], "overlay", options=options)


def go_inside(pid: int) -> int | None:
    """Enter the namespaces of a session's process, as one of its processes and with no more rights than they have.

    Return None in a child that is inside. Outside, return the exit status of that child once it has ended.
    """
    namespaces.join(pid)
    namespaces.give_up_capabilities()
    child = os.fork()
    if not child:
        return None
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF
