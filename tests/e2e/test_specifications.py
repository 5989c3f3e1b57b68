"""Schemathesis, from the specifications, against a live server: no 5xx, nothing that they do not say.

And what it cannot find by itself, because it takes more than one request: the answers and events of real runs.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from controlplane.api.runs import sse
from specs.generate.events import KINDS
from tests.support.server.live_server import ROOT, LiveServer, python_with

PACKAGES = ("schemathesis==4.32.5",)
CONFIG = Path(__file__).with_name("schemathesis.toml")
CONFORMS = Path(__file__).with_name("clients") / "conforms.py"
EXAMPLES = "10"  # of each operation, beside those at the borders of every parameter
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
    "allow_header_conformance",
)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server of its own, which asks no registry for images of random names."""
    flags = ["--pool-size", "1", "--pull", "never", "--allow-user-namespaces", "true", "--max-failed-attempts", "0"]
    with LiveServer(flags) as live:
        yield live


@pytest.fixture
def base(server: LiveServer) -> str:
    """The address of a new sandbox's ports, but for the port: schemathesis deletes what it finds."""
    return new_sandbox(server)


def new_sandbox(server: LiveServer) -> str:
    """Make a sandbox; return the address of its ports, but for the port."""
    body = {
        "image": {"uri": "sandlot/python"},
        "timeout": 3600,
        "resourceLimits": {"cpu": "1", "memory": "512Mi"},
        "entrypoint": ["sleep", "infinity"],
        "extensions": {"bootstrap.execd.isolation": "enable"},
    }
    sandbox = server.request("POST", "/v1/sandboxes", body)
    return f"{server.address}/v1/sandboxes/{sandbox['id']}/proxy"


@pytest.mark.parametrize(("name", "port"), [("lifecycle", 0), ("execd", 44772), ("egress", 18080)])
def test_the_server_is_as_specified(name: str, port: int, server: LiveServer, base: str) -> None:
    """Hundreds of requests for each, good ones and bad ones. The seed is fixed: what fails today fails tomorrow."""
    done = subprocess.run(
        [
            *(python_with("schemathesis", PACKAGES).with_name("st"), "--config-file", CONFIG),
            *("run", ROOT / "specs" / f"{name}.openapi.yaml"),
            *("--url", f"{base}/{port}" if port else f"{server.address}/v1"),
            *("--header", f"OPEN-SANDBOX-API-KEY: {server.key}"),
            *("--checks", ",".join(CHECKS)),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES, "--seed", "1"),
            *("--request-timeout", "20", "--continue-on-failure", "--warnings", "off"),
            *("--suppress-health-check", "all"),
        ],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=server.directory,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:] + server.log[-2000:]
    if port:  # and not because the sandbox had gone: that is an answer of its own
        assert server.request("GET", f"{base.removeprefix(server.address)}/44772/code/contexts") is not None


# -- answers and events of real runs ----------------------------------------


class Asked:
    """A client at the execd endpoint of a sandbox, that keeps all answers for the comparison with the specification."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self.address = str(http.base_url).rstrip("/")
        self.answers: list[dict[str, Any]] = []  # as conforms.py wants them
        self.kinds: set[str] = set()  # of events

    def ask(self, method: str, path: str, body: Any = None, status: int = 200, **ids: str) -> Any:
        """Send a request, *path* being as the specification has it; return the JSON answer."""
        response = self._http.request(method, path.format(**ids), json=body)
        assert response.status_code == status, response.text
        self._keep(path, method, response, [response.json()])
        return response.json()

    def run(self, path: str, body: Any, *, line: str = "", keep: int = 0, **ids: str) -> list[dict[str, Any]]:
        """Run to its end, or for what has none, to its first event; return the events. *line* is for who asks."""
        events: list[dict[str, Any]] = []  # as the specification has them: with ids, those of a run that is kept
        data: list[dict[str, Any]] = []
        method = "GET" if body is None else "POST"
        headers = {"Sandlot-Keep": str(keep)} if keep else {}
        with self._http.stream(method, path.format(**ids), json=body, headers=headers) as response:
            assert response.status_code == 200, response.read()
            number = ""
            for text in response.iter_lines():
                if text.startswith("id: "):
                    number = text.removeprefix("id: ")
                    continue
                if not text:
                    continue
                said = text.removeprefix("data: ")
                data.append(json.loads(said))
                events.append({"id": number, "data": said} if number else data[-1])
                if data[-1].get("type") == "input_request":
                    self._http.post("/code/input", params={"id": data[0]["text"]}, json={"text": line})
                if path == "/metrics/watch":
                    break
            self._keep(path, method, response, events)
        self.kinds |= {each.get("type", "") for each in data}
        return data

    def _keep(self, path: str, method: str, response: httpx.Response, values: list[Any]) -> None:
        media = response.headers["content-type"].partition(";")[0]
        at = ["paths", path, method.lower(), "responses", str(response.status_code), "content", media, "schema"]
        self.answers.append({"spec": str(ROOT / "specs" / "execd.openapi.yaml"), "at": at, "values": values})


def wrong(answers: list[dict[str, Any]]) -> list[list[str | None]]:
    """Return what is wrong with each value of each answer."""
    done = subprocess.run(
        [python_with("schemathesis", PACKAGES), CONFORMS],
        input=json.dumps(answers),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[str | None]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def asked(server: LiveServer) -> Iterator[Asked]:
    """A client at a sandbox of its own, which schemathesis has not been at."""
    headers = {"OPEN-SANDBOX-API-KEY": server.key}
    url = f"{new_sandbox(server)}/44772"
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        yield Asked(http)


SHOW = """
import sys
class Page:
    def _repr_html_(self): return "<p>"
print("out"); print("err", file=sys.stderr); name = input("name? ")
Page()
"""


def test_the_events_and_answers_of_runs_are_as_specified(asked: Asked) -> None:
    """Each event that there is, from commands, code and sessions; and what can be asked about them afterwards."""
    command = asked.run("/command", {"command": "echo out; echo err >&2; exit 3"})[0]["text"]
    behind = asked.run("/command", {"command": "sleep 60", "background": True})[0]["text"]
    assert asked.ask("GET", "/command/status/{command_id}", command_id=command)["exit_code"] == 3
    assert asked.ask("GET", "/command/status/{command_id}", command_id=behind)["finished_at"] is None
    asked.run("/command", {"argv": ["/no/such/program"]})
    asked.run("/command", {"command": "echo kept"}, keep=5)

    context = asked.ask("POST", "/code/context", {"language": "python"})["id"]
    shown = asked.run("/code", {"code": SHOW, "context": {"id": context}, "allow_input": True}, line="x")
    assert "text/html" in next(event for event in shown if event["type"] == "result")["results"]
    asked.run("/code", {"code": "1 / 0", "context": {"id": context}})
    asked.run("/code", {"code": "while True: pass", "context": {"id": context}, "timeout": 200})
    cursor = {"code": "name.upp", "detail": True}
    assert asked.ask("POST", "/code/contexts/{context_id}/complete", cursor, context_id=context)["matches"]
    assert asked.ask("POST", "/code/contexts/{context_id}/inspect", {"code": "name"}, context_id=context)["found"]

    session = asked.ask("POST", "/session", {})["session_id"]
    asked.run("/session/{session_id}/run", {"command": "echo in; (exit 4)"}, session_id=session)
    place = {"overlays": [{"path": "/tmp", "mode": "overlay"}]}
    isolated = asked.ask("POST", "/v1/isolated/session", place, 201)["session_id"]
    asked.run("/v1/isolated/session/{session_id}/run", {"code": "echo apart"}, session_id=isolated)
    asked.ask("GET", "/v1/isolated/session/{session_id}", session_id=isolated)
    assert asked.ask("GET", "/v1/isolated/capabilities")["available"]
    asked.ask("GET", "/metrics")
    asked.run("/metrics/watch", None)

    # A ping takes seconds of silence: this one is made by the function that makes them all.
    ping = sse.ping_event().decode().strip()
    asked.answers.append({**asked.answers[0], "values": [json.loads(ping)]})
    assert asked.kinds | {"ping"} >= set(KINDS)
    assert wrong(asked.answers) == [[None] * len(each["values"]) for each in asked.answers]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "stdout", "text": "x"},
        {"type": "stdout", "timestamp": 1},
        {"type": "stdout", "text": "x", "timestamp": 1.5},
        {"type": "unheard-of", "text": "x", "timestamp": 1},
        {"type": "result", "results": {"text": 4}, "timestamp": 1},
        {"type": "error", "error": {"ename": "E"}, "timestamp": 1},
        {"type": "execution_complete", "execution_time": 1, "receipt": {"cause": "exit"}, "timestamp": 1},
    ],
)
def test_events_that_are_not_as_specified_are_found(event: dict[str, Any]) -> None:
    """The schema is not so wide that all is in it."""
    at = ["paths", "/command", "post", "responses", "200", "content", "text/event-stream", "schema"]
    answer = {
        "spec": str(ROOT / "specs" / "execd.openapi.yaml"),
        "at": at,
        "values": [event, {"id": "1", "data": json.dumps(event)}],
    }
    (problems,) = wrong([answer])
    assert all(problems)


def test_the_frames_of_a_terminal_are_as_specified(asked: Asked, server: LiveServer) -> None:
    """The text frames, each by the schema of its name."""
    terminal = asked.ask("POST", "/pty", {"command": "read line; exit 3"}, 201)["session_id"]
    url = f"{asked.address}/pty/{terminal}/ws?since=0&takeover=true".replace("http", "ws", 1)
    with connect(url, additional_headers={"OPEN-SANDBOX-API-KEY": server.key}, proxy=None) as socket:
        for frame in ({"type": "ping"}, {"type": "resize", "cols": 1}, {"type": "stdin", "data": "x\r"}):
            socket.send(json.dumps(frame))
        frames = list(socket)
        assert socket.close_code == 1000
    said = [json.loads(frame) for frame in frames if isinstance(frame, str)]
    assert [each["type"] for each in said] == ["connected", "pong", "error", "exit"]
    spec = str(ROOT / "specs" / "terminal.asyncapi.yaml")
    names = {each["type"]: each["type"].capitalize() for each in said}
    answers = [{"spec": spec, "at": ["components", "schemas", names[each["type"]]], "values": [each]} for each in said]
    assert wrong(answers) == [[None]] * 4
    assert asked.ask("GET", "/pty/{pty_id}", pty_id=terminal)["running"] is False
