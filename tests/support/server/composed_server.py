"""A server started by Docker Compose from `deploy/compose.yaml`, as a project of its own, on the real engine."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from tests.support.server.live_server import ROOT, START_TIMEOUT_S, LiveServer, engine_request

COMPOSE_FILE = ROOT / "deploy" / "compose.yaml"
TIMEOUT_S = 600  # of one command: the first build fetches packages


def compose_program() -> Sequence[str]:
    """Return the command of Docker Compose on this machine, 2 or 1.29; empty if there is none."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return command
    return ()


class ComposedServer(LiveServer):
    """`deploy/compose.yaml` from its own image. Use it in a `with` block, which removes everything it made.

    The state of the server is in the volume of the project; `directory/state` leads there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.project = f"sandlot-test-{secrets.token_hex(4)}"
        self.image = f"sandlot/server:{self.project}"
        self.environment = {
            "BASE": "sandlot/base",
            "BUILD": "",  # `make images` has built them, and other tests use them meanwhile
            "PUBLISH": "127.0.0.1:",  # a free port
            "SANDBOX_POOL_SIZE": "1",
            "SANDLOT_PATHS_RUN_DIR": str(self.directory / "run"),
            "SERVER_IMAGE": self.image,
        }

    @property
    def pid(self) -> int:
        """The server's process id; 0 when it does not run."""
        return int(self.inspect()["State"]["Pid"]) if self.container() else 0

    @property
    def log(self) -> str:
        """What the server has logged since its container was made."""
        return self.compose("logs", "--no-color", "server")

    def compose(self, *words: str) -> str:
        """Run Docker Compose on the project; return what it prints."""
        done = subprocess.run(
            [*compose_program(), "-p", self.project, "-f", COMPOSE_FILE, *words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def container(self) -> str:
        """Return the id of the server's container; "" when there is none."""
        labels = [f"com.docker.compose.project={self.project}", "com.docker.compose.service=server"]
        found = engine_request("GET", f"/containers/json?all=1&filters={json.dumps({'label': labels})}")
        return found[0]["Id"] if found else ""

    def start(self, *, until: str = "") -> None:
        """Bring the project up, building the image if its inputs have changed, and wait until the server is ready."""
        del until
        self.compose("up", "-d", "--build")
        self.up()

    def up(self, *words: str) -> None:
        """Bring the project up from the image as it is, and wait until the server is ready."""
        self.compose("up", "-d", *words)
        (published,) = self.inspect()["NetworkSettings"]["Ports"]["8194/tcp"]
        self.address = f"http://{published['HostIp']}:{published['HostPort']}"
        place = engine_request("GET", f"/volumes/{self.project}_state")["Mountpoint"]
        with contextlib.suppress(FileExistsError):
            (self.directory / "state").symlink_to(place)
        self._wait(self._is_ready)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/ready", timeout=START_TIMEOUT_S):
            return True
        time.sleep(0.1)
        return False

    def inspect(self) -> dict[str, Any]:
        """Return how the engine describes the server's container."""
        found: dict[str, Any] = engine_request("GET", f"/containers/{self.container()}/json")
        return found

    def stop(self) -> int:
        """Stop the server and remove its container; state and sandboxes stay."""
        self.compose("down")
        return 0

    def end(self) -> None:
        """Remove the server, its sandboxes, its volume and its image. The layers stay for the next build."""
        self.compose("stop")
        self._look_for_leaks()
        self._remove_containers()
        self.compose("down", "-v")
        subprocess.run(["docker", "image", "rm", "--no-prune", self.image], capture_output=True, check=False)
