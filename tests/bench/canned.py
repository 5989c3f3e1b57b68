"""A server that answers the SDK with canned replies at once: what it measures is the SDK's own time, the floor."""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

import uvicorn

ID = "0123456789abcdef"
JSON = (b"content-type", b"application/json")
SANDBOX = {
    "id": ID,
    "status": {"state": "Running"},
    "createdAt": "2026-11-23T00:00:00Z",
    "expiresAt": "2026-11-23T01:00:00Z",
    "entrypoint": ["tail", "-f", "/dev/null"],
}
EVENTS = b"".join(
    json.dumps(event).encode() + b"\n\n"
    for event in (
        {"type": "init", "text": "c", "timestamp": 1},
        {"type": "execution_complete", "execution_time": 1, "timestamp": 2},
    )
)


def answer(method: str, path: str, host: str) -> tuple[int, tuple[bytes, bytes], bytes]:
    """Return status, content type and body."""
    if "/endpoints/" in path:
        return 200, JSON, json.dumps({"endpoint": f"{host}/e", "headers": {"X-EXECD-ACCESS-TOKEN": "t"}}).encode()
    if path.endswith("/command"):
        return 200, (b"content-type", b"text/event-stream"), EVENTS
    if path.endswith("/metrics/events") or method == "DELETE":
        return 204, JSON, b""
    if method == "POST":
        return 202, JSON, json.dumps(SANDBOX).encode()
    return 200, JSON, json.dumps(SANDBOX).encode()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The whole server."""
    while (await receive()).get("more_body"):
        pass
    host = dict(scope["headers"]).get(b"host", b"").decode()
    status, kind, body = answer(scope["method"], scope["path"], host)
    headers = [kind] if status == 204 else [kind, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, http="httptools", loop="uvloop", lifespan="off", log_config=None, access_log=False)
    sys.exit(uvicorn.Server(config).run(sockets=[listener]))
