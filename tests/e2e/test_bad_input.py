"""Bad input gets the contract's error, flat `{"code", "message"}` with a documented status, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.server.live_server import LiveServer

CREATE: dict[str, Any] = {
    "image": {"uri": "sandlot/code-interpreter"},
    "entrypoint": ["tail", "-f", "/dev/null"],
    "timeout": 600,
    "resourceLimits": {"cpu": "1", "memory": "2Gi"},
}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[httpx.Client]:
    """Plain HTTP with the API key."""
    headers = {"OPEN-SANDBOX-API-KEY": server.key}
    with httpx.Client(base_url=server.address, headers=headers, timeout=60, trust_env=False) as http:
        yield http


@pytest.fixture(scope="module")
def box(client: httpx.Client) -> Iterator[str]:
    """A running sandbox's execd contract, as a path."""
    answer = client.post("/v1/sandboxes", json=CREATE)
    assert answer.status_code == 202, answer.text
    yield f"/v1/sandboxes/{answer.json()['id']}/proxy/44772"
    client.delete(f"/v1/sandboxes/{answer.json()['id']}")


def problem(answer: httpx.Response, *statuses: int) -> dict[str, str]:
    """Check the shape of an error, and return it."""
    assert answer.status_code in statuses, (answer.status_code, answer.text)
    body: dict[str, str] = answer.json()
    assert set(body) == {"code", "message"}
    assert body["code"]
    assert body["message"]
    assert answer.headers["x-request-id"]
    return body


def ids(client: httpx.Client) -> set[str]:
    """All sandboxes there are."""
    return {sandbox["id"] for sandbox in client.get("/v1/sandboxes?pageSize=200").json()["items"]}


def without(key: str) -> dict[str, Any]:
    """A create request without one of its fields."""
    return {name: value for name, value in CREATE.items() if name != key}


@pytest.mark.parametrize(
    ("body", "mentions"),
    [
        (CREATE | {"image": {"uri": "no/such-image:1"}}, "no/such-image"),
        (CREATE | {"image": {"uri": ""}}, "image"),
        (without("image"), "image"),
        (without("entrypoint"), "entrypoint"),
        (CREATE | {"entrypoint": []}, "entrypoint"),
        (CREATE | {"entrypoint": ["/no/such/program"]}, "/no/such/program"),
        (CREATE | {"entrypoint": ["a\0b"]}, "entrypoint"),
        (CREATE | {"timeout": -1}, "timeout"),
        (CREATE | {"timeout": "soon"}, "timeout"),
        (CREATE | {"resourceLimits": {"memory": "lots"}}, "memory"),
        (CREATE | {"resourceLimits": {"cpu": "-1"}}, "cpu"),
        (CREATE | {"resourceLimits": {"cpu": "1", "memory": "1Ki"}}, "memory"),
        (CREATE | {"env": {"A": 1}}, "env"),
        (CREATE | {"metadata": {"opensandbox.io/x": "1"}}, "opensandbox.io"),
        ([], ""),
        ("text", ""),
    ],
)
def test_bad_create_is_400_and_makes_nothing(client: httpx.Client, body: Any, mentions: str) -> None:
    """What cannot be created is a 400 that names the culprit; no sandbox appears."""
    before = ids(client)
    error = problem(client.post("/v1/sandboxes", json=body), 400)
    assert mentions.lower() in error["message"].lower()
    assert ids(client) == before


@pytest.mark.parametrize(
    "content", [b"{", b"", b"\xff\xfe", b"null", bytes(10 << 20), b"[" * (10 << 20), b'{"a":' * 100_000]
)
def test_a_body_that_is_no_json_is_400_even_ten_megabytes_of_it(client: httpx.Client, content: bytes) -> None:
    """Garbage of any size is answered, and the server goes on."""
    problem(client.post("/v1/sandboxes", content=content, headers={"content-type": "application/json"}), 400)
    assert client.get("/health").json() == {"status": "healthy"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/sandboxes/0123456789abcdef"),
        ("DELETE", "/v1/sandboxes/0123456789abcdef"),
        ("GET", "/v1/sandboxes/0123456789abcdef/endpoints/44772"),
        ("GET", "/v1/sandboxes/%00"),
        ("GET", "/v1/sandboxes/..%2f..%2fetc"),
        ("GET", "/no/such/path"),
    ],
)
def test_what_is_unknown_is_404(client: httpx.Client, method: str, path: str) -> None:
    """Unknown ids and paths are flat 404s, never a framework's page."""
    problem(client.request(method, path), 404)


def test_wrong_method_is_a_flat_405(client: httpx.Client) -> None:
    """A method that a path does not have."""
    problem(client.request("PUT", "/v1/sandboxes"), 405)


@pytest.mark.parametrize("headers", [{}, {"OPEN-SANDBOX-API-KEY": "wrong"}, {"Authorization": "Bearer wrong"}])
def test_without_the_right_key_everything_is_401(server: LiveServer, box: str, headers: dict[str, str]) -> None:
    """No key or a wrong one opens neither lifecycle nor sandboxes; only /health and /version are for everybody."""
    with httpx.Client(base_url=server.address, headers=headers, trust_env=False) as stranger:
        for path in ("/v1/sandboxes", "/metrics", f"{box}/ping", f"{box}/files/info?path=/etc/passwd"):
            problem(stranger.get(path), 401)
        problem(stranger.post("/v1/sandboxes", json=CREATE), 401)
        assert stranger.get("/health").status_code == 200
        assert stranger.get("/version").status_code == 200


def test_a_token_opens_its_own_sandbox_only(server: LiveServer, client: httpx.Client, box: str) -> None:
    """The token of one sandbox works there, and is refused at another and by the lifecycle."""
    sandbox = box.split("/")[3]
    token = client.get(f"/v1/sandboxes/{sandbox}/endpoints/44772").json()["headers"]
    other = client.post("/v1/sandboxes", json=CREATE).json()["id"]
    try:
        with httpx.Client(base_url=server.address, headers=token, trust_env=False) as holder:
            assert holder.get(f"{box}/ping").status_code == 200
            problem(holder.get(f"/v1/sandboxes/{other}/proxy/44772/ping"), 401)
            problem(holder.get("/v1/sandboxes"), 401)
            problem(holder.delete(f"/v1/sandboxes/{sandbox}"), 401)
    finally:
        client.delete(f"/v1/sandboxes/{other}")


def upload(client: httpx.Client, box: str, path: str, content: bytes) -> httpx.Response:
    """Upload one file as the SDK does."""
    parts = {
        "metadata": (
            "metadata",
            json.dumps({"path": path, "owner": None, "group": None, "mode": 644}),
            "application/json",
        ),
        "file": ("file", content, "application/octet-stream"),
    }
    return client.post(f"{box}/files/upload", files=parts)


def run(client: httpx.Client, box: str, command: str) -> str:
    """Run a command, return its output."""
    answer = client.post(f"{box}/command", json={"command": command})
    events = [json.loads(line) for line in answer.text.splitlines() if line]
    assert not [event for event in events if event["type"] == "error"], events
    return "\n".join(event["text"] for event in events if event["type"] == "stdout")


@pytest.mark.parametrize(
    "path", ["/tmp/a\0b", "/tmp/../etc/x", "../x", "", "/" + "x" * 300, "/tmp/" + "y/" * 3000 + "z"]
)
def test_bad_paths_are_refused_for_reading_and_writing(client: httpx.Client, box: str, path: str) -> None:
    """NUL bytes, `..` and names the kernel cannot have are 400s, and nothing is written."""
    before = run(client, box, "find / -xdev -newer /proc/1/comm -type f 2>/dev/null | sort")
    problem(client.get(f"{box}/files/download", params={"path": path}), 400)
    problem(upload(client, box, path, b"x"), 400)
    assert run(client, box, "find / -xdev -newer /proc/1/comm -type f 2>/dev/null | sort") == before


def test_symlinks_lead_nowhere_new(client: httpx.Client, box: str) -> None:
    """Links are followed inside the sandbox for reading; a loop is an error; removal takes the link, not its target."""
    run(
        client,
        box,
        "cd /tmp && echo kept > target && ln -sf target link && ln -sf loop loop && mkdir -p d && ln -sfn d dl",
    )
    assert client.get(f"{box}/files/download", params={"path": "/tmp/link"}).text == "kept\n"
    problem(client.get(f"{box}/files/download", params={"path": "/tmp/loop"}), 400, 404)
    problem(upload(client, box, "/tmp/loop", b"x"), 400)
    assert client.delete(f"{box}/files", params={"path": "/tmp/link"}).status_code == 200
    run(client, box, "touch /tmp/d/inside")
    client.delete(f"{box}/directories", params={"path": "/tmp/dl"})
    assert run(client, box, "cat /tmp/target; ls /tmp/d") == "kept\ninside"


def test_a_directory_cannot_be_downloaded_or_written_over(client: httpx.Client, box: str) -> None:
    """A directory is no file."""
    problem(client.get(f"{box}/files/download", params={"path": "/tmp"}), 400)
    problem(upload(client, box, "/tmp", b"x"), 400)
    problem(client.get(f"{box}/files/download", params={"path": "/no/such/file"}), 404)
    problem(client.get(f"{box}/files/download", params={"path": "/dev/zero"}), 400)


def test_upload_to_a_full_disk_keeps_the_old_file(client: httpx.Client, box: str) -> None:
    """No space: an error that says so, the old content, and no half-written file. The disk here is /dev/shm."""
    run(client, box, "echo old > /dev/shm/file")
    run(client, box, "fallocate -l $(($(df --output=avail -B1 /dev/shm | tail -1) - 2097152)) /dev/shm/fill")
    error = problem(upload(client, box, "/dev/shm/file", bytes(8 << 20)), 400, 500)
    assert "space" in error["message"].lower()
    assert run(client, box, "cat /dev/shm/file; ls -A /dev/shm; rm /dev/shm/*") == "old\nfile\nfill"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("command", {}),
        ("command", {"command": ""}),
        ("command", {"command": "true", "timeout": -1}),
        ("command", {"command": "true", "cwd": "/no/such/directory"}),
        ("command", {"command": "a\0b"}),
        ("command", {"argv": ["/no/such/program"]}),
        ("code", {}),
        ("code", {"code": "1", "context": {"language": "klingon"}}),
        ("code/context", {"language": "klingon"}),
    ],
)
def test_bad_runs_are_refused_as_the_contract_says(client: httpx.Client, box: str, path: str, body: Any) -> None:
    """Bad commands and code: a 400, or for what only shows when it is run, an error event in the stream."""
    answer = client.post(f"{box}/{path}", json=body)
    if answer.status_code == 200:
        assert [line for line in answer.text.splitlines() if '"error"' in line], answer.text
    else:
        problem(answer, 400)


def test_unknown_commands_and_contexts_are_404(client: httpx.Client, box: str) -> None:
    """Status, logs, contexts of ids that never were."""
    problem(client.get(f"{box}/command/status/nothing"), 404)
    problem(client.get(f"{box}/command/nothing/logs"), 404, 400)
    problem(client.get(f"{box}/code/contexts/nothing"), 404)
    problem(client.delete(f"{box}/code/contexts/nothing"), 404)


@pytest.mark.parametrize("when", ["yesterday", "2001-01-01T00:00:00Z", 5, None])
def test_bad_renewals_change_nothing(client: httpx.Client, box: str, when: Any) -> None:
    """A deadline that is past, or none at all."""
    path = f"/v1/sandboxes/{box.split('/')[3]}"
    before = client.get(path).json()
    problem(client.post(f"{path}/renew-expiration", json={"expiresAt": when}), 400)
    assert client.get(path).json() == before
