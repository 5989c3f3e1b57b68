"""A machine for one test: a container with systemd and an engine of its own, on which nothing of ours runs yet."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from typing import Any

from tests.support.server.live_server import ROOT

TIMEOUT_S = 600  # of one command: the first build fetches packages
DOCKERFILE = ROOT / "tests" / "deploy" / "machine" / "Dockerfile"
# All that the engine outside can give, which is less than --privileged asks for on some machines.
RIGHTS = (
    *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--device-cgroup-rule", "a *:* rwm", "--cgroupns", "private"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--security-opt", "systempaths=unconfined", "--tmpfs", "/run", "--tmpfs", "/tmp", "-v", "/var/lib/docker"),
    *("-e", "container=docker"),
)


class OwnMachine:
    """Use it in a `with` block, which removes everything it made. The layers of images stay for the next build."""

    def __init__(self) -> None:
        self.name = f"sandlot-test-{secrets.token_hex(4)}"
        self._server_image = f"sandlot/server:{self.name}"

    def __enter__(self) -> OwnMachine:
        try:
            self._build("deploy/image/Dockerfile", self._server_image, "BASE=sandlot/base")
            self._build(str(DOCKERFILE), self.name, f"SERVER_IMAGE={self._server_image}")
            docker("run", "-d", "--name", self.name, "--hostname", "machine", *RIGHTS, self.name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for words in (("rm", "-f", "-v", self.name), ("image", "rm", "--no-prune", self.name, self._server_image)):
            subprocess.run(["docker", *words], capture_output=True, check=False)

    def _build(self, dockerfile: str, tag: str, argument: str) -> None:
        docker("build", "-q", "-t", tag, "--build-arg", argument, "-f", dockerfile, ".")

    def wait_booted(self) -> None:
        """Wait until systemd has started everything. What has failed, the test will find out."""
        self.run("until [[ $(systemctl is-system-running --wait 2>&1) =~ ^(running|degraded)$ ]]; do sleep 0.1; done")

    def run(self, script: str, *, is_checked: bool = True) -> str:
        """Run a script in the machine; return what it prints. Unless *is_checked*, it may fail."""
        done = subprocess.run(
            ["docker", "exec", self.name, "bash", "-euo", "pipefail", "-c", script],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0 or not is_checked, f"{script}\n{done.stdout}\n{done.stderr}\n{self.journal()}"
        return done.stdout

    def journal(self) -> str:
        """Return the end of the machine's log."""
        words = ("exec", self.name, "journalctl", "--no-pager", "-n", "40")
        return subprocess.run(["docker", *words], capture_output=True, text=True, check=False).stdout

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        command = ["docker", "exec", "-i", self.name, "sh", "-c", f"cat > {path}"]
        subprocess.run(command, input=text, text=True, check=True)

    def load(self, *images: str) -> None:
        """Copy images from the engine outside to the one inside."""
        load = "curl -sS --fail --unix-socket /run/docker.sock -T - -X POST 'http://engine/images/load?quiet=1'"
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saving:
            inside = ["docker", "exec", "-i", self.name, "sh", "-c", load]
            subprocess.run(inside, stdin=saving.stdout, capture_output=True, timeout=TIMEOUT_S, check=True)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to the server in the machine; return its JSON answer, or its text if that is none."""
        data = "" if body is None else f"-d '{json.dumps(body)}'"
        said = self.run(
            f"curl -sS --fail-with-body -X {method} -H 'Content-Type: application/json' {data} "
            f'-H "OPEN-SANDBOX-API-KEY: $(cat /var/lib/sandlot/api-key)" http://127.0.0.1:8194{path}'
        )
        try:
            return json.loads(said)
        except ValueError:
            return said


def docker(*words: str) -> None:
    """Run a command of Docker's client."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(
        ["docker", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
