"""The activity of sandboxes in containers: over a pause, a killed server and the end of the sandbox."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.server.live_server import LiveServer

CREATE = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 600}
FLAGS = ["--pool-size", "1", "--allow-user-namespaces", "true", "--activity-keep-on-disk", "true"]
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def own() -> Iterator[LiveServer]:
    """A server of its own, which is killed, and keeps records."""
    with LiveServer(FLAGS) as live:
        yield live


def ask(server: LiveServer, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    """Send a request with the key; return status and body."""
    request = urllib.request.Request(
        f"{server.address}/v1{path}",
        None if body is None else json.dumps(body).encode(),
        {"OPEN-SANDBOX-API-KEY": server.key, "Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def entries(server: LiveServer, sandbox: str) -> list[dict[str, Any]]:
    """Return the whole activity."""
    status, body = ask(server, "GET", f"/sandboxes/{sandbox}/activity")
    assert status == 200, body
    found: list[dict[str, Any]] = json.loads(body)["entries"]
    return found


def command(server: LiveServer, sandbox: str, line: str) -> None:
    """Run a command to its end."""
    status, body = ask(server, "POST", f"/sandboxes/{sandbox}/proxy/44772/command", {"command": line})
    assert status == 200, body


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the server does by itself."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def states(found: list[dict[str, Any]]) -> list[str]:
    return [each["state"] for each in found if each["type"] == "state"]


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [each["text"] for each in found if each["type"] == "begun" and each["what"] == "command"]


def test_an_activity_survives_a_pause_a_kill_and_the_end(own: LiveServer) -> None:
    """One order and one numbering, and a record of all of it."""
    sandbox = json.loads(ask(own, "POST", "/sandboxes", CREATE | {"env": {"TOKEN": "secret-of-env"}})[1])["id"]
    command(own, sandbox, 'test -n "$TOKEN" && echo one')
    code = {"code": "6 * 7", "context": {"language": "python"}}
    assert ask(own, "POST", f"/sandboxes/{sandbox}/proxy/44772/code", code)[0] == 200
    assert ask(own, "POST", f"/sandboxes/{sandbox}/pause")[0] in (200, 202)
    assert ask(own, "GET", f"/sandboxes/{sandbox}/activity")[0] == 409
    assert ask(own, "POST", f"/sandboxes/{sandbox}/resume")[0] in (200, 202)
    command(own, sandbox, "echo two")
    own.kill()
    own.start()
    until(lambda: ask(own, "GET", f"/sandboxes/{sandbox}/activity")[0] == 200)
    command(own, sandbox, "echo three")
    found = entries(own, sandbox)
    assert [each["seq"] for each in found] == list(range(1, len(found) + 1))
    assert texts(found)[1:] == ["echo two", "echo three"]
    assert [each for each in states(found) if each != "linked"] == ["claimed", "pausing", "resumed"]
    assert "linked" in states(found)
    assert [each["actor"] for each in found if each.get("what") == "entrypoint"] == ["api-key"]
    assert next(each for each in found if each["type"] == "result")["data"]["text/plain"] == "42"
    assert {each.get("actor") for each in found if each.get("what") == "command"} == {"api-key"}
    assert "secret-of-env" not in json.dumps(found)

    assert ask(own, "DELETE", f"/sandboxes/{sandbox}")[0] == 204
    until(lambda: b'"reason":"DELETED"' in ask(own, "GET", f"/activities/{sandbox}")[1])
    head, *lines = map(json.loads, ask(own, "GET", f"/activities/{sandbox}")[1].splitlines())
    assert lines[: len(found)] == found
    assert lines[-1]["state"] == "ending"
    assert (head["sandbox"], head["image"], head["last"]) == (sandbox, CREATE["image"]["uri"], lines[-1]["seq"])  # type: ignore[index]
    heads = json.loads(ask(own, "GET", "/activities")[1])["records"]
    assert [each["sandbox"] for each in heads] == [sandbox]


def test_an_isolated_session_is_told(own: LiveServer) -> None:
    """Its code, its files, and where."""
    body = CREATE | {"extensions": {"bootstrap.execd.isolation": "enable"}}
    sandbox = json.loads(ask(own, "POST", "/sandboxes", body)[1])["id"]
    base = f"/sandboxes/{sandbox}/proxy/44772/v1/isolated"
    opened = ask(own, "POST", f"{base}/session", {"workspace": {"path": "/tmp"}})
    assert opened[0] in (200, 201), opened
    session = json.loads(opened[1])["session_id"]
    ran = ask(own, "POST", f"{base}/session/{session}/run", {"code": "echo inside"})
    assert ran[0] == 200, ran
    found = entries(own, sandbox)
    run = next(each for each in found if each.get("what") == "session")
    assert (run["context"], "echo inside" in run["text"]) == (session, True)
    assert "inside" in "".join(each["text"] for each in found if each["type"] == "output")
    ask(own, "DELETE", f"/sandboxes/{sandbox}")
