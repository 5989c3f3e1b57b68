"""Checks of the machine that need no container engine."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import socket
import stat
import tempfile
from pathlib import Path

from controlplane.server.doctor.finding import Trouble
from controlplane.server.doctor.trial import existing
from controlplane.settings.sections import Settings

MIN_FREE_DISK_BYTES = 5 << 30  # images and their stages take 4 GB, and sandboxes write to the same disk
MIN_OPEN_FILES = 4096  # a sandbox costs the server four, a request two


def check_address(settings: Settings) -> str:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _server_runs(settings):
            return f"{host}:{port} is taken, and a Sandlot server runs"
        raise Trouble(f"{host}:{port}: {error.strerror}", "choose another [server] port (--port) or host") from error
    return f"{host}:{port} is free"


def _server_runs(settings: Settings) -> bool:
    """Return whether a server uses the state directory of these settings."""
    try:
        with open(Path(settings.paths.state_dir) / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # no server has ever used the directory
    return False


def check_directories(settings: Settings) -> str:
    for key in ("state_dir", "run_dir"):
        path = Path(getattr(settings.paths, key))
        here = existing(path)
        try:
            # The server itself creates the directories, for its own user only.
            with tempfile.TemporaryFile(dir=here):
                pass
        except OSError as error:
            raise Trouble(
                f"{here}: {error.strerror}", f"make it writable for uid {os.geteuid()}, or set [paths] {key}"
            ) from error
    return f"{settings.paths.state_dir} and {settings.paths.run_dir} can be written"


def check_limits(settings: Settings) -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # the server raises its limit to this one
    if hard < MIN_OPEN_FILES:
        raise Trouble(f"only {hard} open files allowed", "`ulimit -Hn 65536` as root, or LimitNOFILE=65536 in systemd")
    return f"{hard} open files"


def check_disk(settings: Settings) -> str:
    place = existing(Path(settings.paths.state_dir))
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_DISK_BYTES:
        raise Trouble(
            f"{free / 1e9:.1f} GB free in {place}", "free some space; `docker system df` shows what images take"
        )
    return f"{free / 1e9:.0f} GB free in {place}"


def check_host_paths(settings: Settings) -> str:
    """Check that users of this machine cannot run set-user-ID programs that a sandbox leaves in a host path."""
    for path in settings.storage.allowed_host_paths:
        place = Path(path)
        is_harmless = os.statvfs(place).f_flag & os.ST_NOSUID
        if not is_harmless and all(above.stat().st_mode & stat.S_IXOTH for above in (place, *place.parents)):
            raise Trouble(
                f"sandboxes can leave set-user-ID programs in {path}, and every user of this machine can run them",
                f"mount the file system of {path} with nosuid,nodev, or close it to others: `chmod o-x {path}`",
            )
    return "no user of this machine can run set-user-ID programs that sandboxes leave there"
