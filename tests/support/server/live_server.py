"""A real server in a process of its own, on the real engine, with state of its own. For e2e tests and benchmarks."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.leaks import LEAKS, find_leaks

ROOT = Path(__file__).parents[3]
SANDLOT = Path(sys.executable).with_name("sandlot")
START_TIMEOUT_S = 120.0
# The unmodified official clients, as people install them. Not in pyproject.toml: they must not share our environment.
SDK_PACKAGES = ("opensandbox==1.1.1", "opensandbox-code-interpreter==1.1.1")


def sdk_python() -> Path:
    """Return the interpreter of a virtual environment that holds the official SDKs and nothing of ours."""
    return python_with("sdk", SDK_PACKAGES)


def python_with(name: str, packages: Sequence[str]) -> Path:
    """Return the interpreter of a virtual environment in build/ that holds these packages and nothing of ours."""
    folder = ROOT / "build" / name
    python = folder / "bin" / "python"
    with _made(folder, packages) as is_new:
        if is_new:
            venv.create(folder, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def packages_alone(name: str, package: str) -> Path:
    """Return a folder in build/ that holds one Python package without what it depends on."""
    folder = ROOT / "build" / name
    with _made(folder, [package]) as is_new:
        if is_new:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), package]
            subprocess.run(install, check=True)
    return folder


def node_modules_with(name: str, packages: Sequence[str]) -> Path:
    """Return a folder in build/ in which Node.js finds these packages. Needs npm."""
    folder = ROOT / "build" / name
    with _made(folder, packages) as is_new:
        if is_new:
            folder.mkdir(parents=True)
            (folder / "package.json").write_text("{}")
            subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *packages], cwd=folder, check=True)
    return folder


def jars_with(name: str, artifacts: Sequence[str]) -> Path:
    """Return a folder in build/ with these artifacts of Maven (group:name:version) and all they need. Needs mvn."""
    folder = ROOT / "build" / name
    with _made(folder, artifacts) as is_new:
        if is_new:
            folder.mkdir(parents=True)
            (folder / "pom.xml").write_text(_project_with(artifacts))
            subprocess.run(
                ["mvn", "--quiet", "--batch-mode", "dependency:copy-dependencies", "-DoutputDirectory=."],
                cwd=folder,
                check=True,
            )
    return folder


def _project_with(artifacts: Sequence[str]) -> str:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in (artifact.split(":") for artifact in artifacts)
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>tour</groupId><artifactId>tour</artifactId>"
        f"<version>1</version><dependencies>{dependencies}</dependencies></project>"
    )


@contextlib.contextmanager
def _made(folder: Path, packages: Sequence[str]) -> Iterator[bool]:
    """Tell whether a folder is to be made anew; when the block ends well, it is complete. One process makes it."""
    stamp = folder / "packages.txt"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_new = not stamp.exists() or stamp.read_text() != "\n".join(packages)
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        yield is_new
        stamp.write_text("\n".join(packages))


class LiveServer:
    """`sandlot serve` as users start it. Use it in a `with` block, which removes everything it made."""

    def __init__(
        self,
        flags: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        *,
        program: Sequence[str | Path] = (SANDLOT,),
    ) -> None:
        """*program* stands in for `sandlot`."""
        self._program = program
        self._flags = list(flags)
        self.environment = dict(environment or {})
        # Short, for the sake of Unix socket paths; not pytest's tmp_path.
        self.directory = Path(tempfile.mkdtemp(prefix="sandlot-"))
        self._process: subprocess.Popen[str] | None = None
        self.address = ""
        self.lines: list[str] = []

    def __enter__(self) -> LiveServer:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.remove()

    def end(self) -> None:
        """Stop the server, if it still runs, and remove its containers."""
        if self.pid:
            self.stop()
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()  # of a server that ended by itself
        self._look_for_leaks()
        self._remove_containers()

    def _look_for_leaks(self) -> None:
        """Look for keys and tokens in all that the server has written: `tests/support/leaks.py`."""
        places = {"the log": self.log.encode()} if (self.directory / "log").exists() else {}
        for container in self.containers():
            with contextlib.suppress(RuntimeError):  # it has gone
                places[f"container {container[:12]}"] = json.dumps(
                    engine_request("GET", f"/containers/{container}/json")
                ).encode()
        LEAKS.extend(f"{leak} ({' '.join(self._flags)})" for leak in find_leaks(places, self.directory / "state"))

    def remove(self) -> None:
        """Remove its directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The server's process id; 0 when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def key(self) -> str:
        """The API key that the server made at its first start."""
        return (self.directory / "state" / "api-key").read_text().strip()

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return (self.directory / "log").read_text()

    def start(self, *, until: str = "ready:") -> None:
        """Start the server and wait until it prints a line that begins with *until*."""
        with (self.directory / "log").open("a") as log:
            self._process = subprocess.Popen(
                [
                    *(*self._program, "serve", "--port", "0", "--config", os.devnull),
                    *("--state-dir", self.directory / "state", "--run-dir", self.directory / "run"),
                    *self._flags,
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        self.wait_line("Sandlot ")
        self.address = re.search(r"http://\S+", self.lines[-1])[0]  # type: ignore[index]
        if until != "Sandlot ":
            self.wait_line(until)

    def wait_line(self, beginning: str) -> str:
        """Read what the server prints until a line begins like that, and return it."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        os.set_blocking(self._process.stdout.fileno(), True)
        while time.monotonic() < deadline:
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server ended with {self._process.wait()}:\n{self.log[-3000:]}")
            self.lines.append(line.rstrip())
            if line.startswith(beginning):
                return line.rstrip()
        raise TimeoutError(f"no line {beginning!r}; the log:\n{self.log[-3000:]}")

    def wait_full(self) -> None:
        """Wait until the pool has all its warm containers, with their languages ready: nothing goes on behind."""
        self._wait(lambda: self.metric("sandlot_pool_prepared") >= self.metric("sandlot_pool_target"))

    def wait_gone(self) -> None:
        """Wait until only warm containers are left."""
        self._wait(lambda: len(self.containers()) <= self.metric("sandlot_pool_warm"))

    def wait_above(self, name: str, bound: float) -> None:
        """Wait until there is a Prometheus metric of that name, without labels, and its value is above *bound*."""
        self._wait(lambda: (found := self._find_metric(name)) is not None and float(found[1]) > bound)

    def metric(self, name: str) -> float:
        """Return the value of one Prometheus metric without labels."""
        return float(self._find_metric(name)[1])  # type: ignore[index]

    def _find_metric(self, name: str) -> re.Match[str] | None:
        request = urllib.request.Request(f"{self.address}/metrics", headers={"OPEN-SANDBOX-API-KEY": self.key})
        with urllib.request.urlopen(request, timeout=60) as response:
            text = response.read().decode()
        return re.search(rf"^{name} (\S+)$", text, re.MULTILINE)

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(self.log[-3000:])
            time.sleep(0.02)

    def stop(self) -> int:
        """End the server as Ctrl-C does; return its exit code."""
        return self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as `kill -9` does."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(120)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def sdk_environment(self) -> dict[str, str]:
        """The variables that the official SDKs read."""
        return {
            **os.environ,
            "OPEN_SANDBOX_DOMAIN": self.address.removeprefix("http://"),
            "OPEN_SANDBOX_API_KEY": self.key,
        }

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Send one plain HTTP request with the API key; return the JSON answer."""
        request = urllib.request.Request(
            self.address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"OPEN-SANDBOX-API-KEY": self.key, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read() or b"null")

    def containers(self) -> list[str]:
        """Ids of all containers of this server, as the engine has them."""
        database = self.directory / "state" / "sandlot.db"
        if not database.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            (instance,) = connection.execute("SELECT value FROM meta WHERE name = 'instance'").fetchone()
        answer = engine_request("GET", f'/containers/json?all=1&filters={{"label":["sandlot.instance={instance}"]}}')
        return [container["Id"] for container in answer]

    def _remove_containers(self) -> None:
        for container in self.containers():
            engine_request("DELETE", f"/containers/{container}?force=1&v=1")


def run_script(sdk: Path, server: LiveServer, script: str, *arguments: str) -> Any:
    """Run a script with the official SDK; return what it printed as JSON."""
    done = subprocess.run(
        [sdk, "-c", script, *arguments],
        env=server.sdk_environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr + server.log[-3000:]
    return json.loads(done.stdout)


def engine_request(method: str, path: str) -> Any:
    """Ask the engine directly, past everything of ours."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    connection = http.client.HTTPConnection("engine", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(host.removeprefix("unix://"))
    connection.request(method, urllib.parse.quote(path, safe="/?&="))
    response = connection.getresponse()
    text = response.read()
    connection.close()
    if response.status >= 400:
        raise RuntimeError(f"{method} {path}: {response.status} {text.decode(errors='replace')}")
    return json.loads(text) if text else None
