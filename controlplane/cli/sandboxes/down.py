"""`sandlot down`: the end of all sandboxes, and of the server of this machine with its warm pool."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

from controlplane.cli.parsing import Options, Parser, Say, add_place, seconds
from controlplane.cli.sandboxes.rm import end
from controlplane.cli.sandboxes.target import ENDED, confirm, place
from controlplane.client.answers import NoAnswer
from controlplane.client.names import listed
from controlplane.client.server import Json, Server
from controlplane.errors import InvalidRequest, SandlotError

DESCRIPTION = """End all sandboxes that the key may end. If the server is the one of this machine (neither --server nor
OPEN_SANDBOX_DOMAIN names another), stop the server too, which removes its warm pool. Snapshots, volumes, images, keys
and the state directory stay: the next `sandlot serve` has them."""
EXAMPLES = """examples:
  sandlot down
  sandlot down --yes --keep-server
  sandlot down --server https://sandboxes.example --key-file key
"""
STEP_S = 0.05


def add(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("--keep-server", action="store_true", help="end the sandboxes only; the warm pool stays")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--wait", metavar="TIME", default="60s", help="for the server's end [default: 60s]")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """End the sandboxes and the server."""
    patience = seconds(options.wait, "--wait")
    found = place(options)
    server = Server(found.address, found.key)
    process = 0
    if found.settings is not None and not options.keep_server:
        process = _server_process(Path(found.settings.paths.state_dir))
    try:
        sandboxes = listed(server)
    except NoAnswer:
        if not process:
            say(f"nothing to do: no server answers at {found.address}")
            return 0
        sandboxes = []
    alive = [each for each in sandboxes if each["status"]["state"] not in ENDED]
    if not alive and not process:
        say("nothing to do: there are no sandboxes")
        return 0
    confirm(_question(alive, process, found.address), is_given=options.yes)
    failures = end(server, alive)
    say(f"ended {len(alive) - failures} sandbox(es)")
    if process:
        _stop(process, Path(found.settings.paths.state_dir) if found.settings else Path(), patience)
        say("stopped the server; its warm pool is gone, and snapshots, volumes, images and keys stay")
    else:
        say(f"the server at {found.address} goes on, with its warm pool")
    return int(failures > 0)


def _question(alive: list[Json], process: int, address: str) -> str:
    what = f"End {len(alive)} sandbox(es) of {address}"
    return f"{what} and stop the server (process {process})?" if process else f"{what}?"


def _server_process(state_dir: Path) -> int:
    """Return the process that holds the lock of a state directory; 0 if none does, or it cannot be found."""
    try:
        with (state_dir / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                inode = os.fstat(lock.fileno()).st_ino
            else:
                return 0
        for line in Path("/proc/locks").read_text().splitlines():
            row = line.split()
            if len(row) > 5 and row[1] == "FLOCK" and row[5].rpartition(":")[2] == str(inode):
                return int(row[4])
    except (OSError, ValueError):
        return 0
    return 0


def _stop(process: int, state_dir: Path, patience: float) -> None:
    """Stop the server, and wait until it has left its state directory. Raises SandlotError."""
    try:
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise InvalidRequest(
            f"process {process} belongs to the user who runs the server: `sudo sandlot down`, or stop its service"
        ) from None
    deadline = time.monotonic() + patience
    while (now := _server_process(state_dir)) == process:
        if time.monotonic() > deadline:
            raise SandlotError(f"process {process} still runs after {patience:.0f} s")
        time.sleep(STEP_S)
    if now:
        sys.stderr.write(f"sandlot: something has started the server anew (process {now}); stop its service instead\n")
