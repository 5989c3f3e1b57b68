"""Numbers of clients that no machine can serve: each is refused by name, and none is a bug of ours."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.server.api_server import serving_agent

HUGE = (10**19, 10**30, 10**400)


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/command", {"command": "x", "timeout": ...}),
        ("POST", "/command", {"command": "x", "uid": ...}),
        ("POST", "/command", {"command": "x", "gid": ..., "uid": 0}),
        ("POST", "/code", {"code": "1", "timeout": ...}),
        ("POST", "/session/s/run", {"command": "x", "timeout": ...}),
        ("POST", "/pty", {"cols": ...}),
        ("POST", "/pty", {"rows": ...}),
        ("POST", "/pty", {"uid": ...}),
        ("POST", "/pty", {"gid": ..., "uid": 0}),
        ("POST", "/files/permissions", {"/a": {"mode": ...}}),
        ("POST", "/directories", {"/a": {"mode": ...}}),
        ("POST", "/code/contexts/c/fork?count={}", None),
        ("POST", "/v1/isolated/session/s/run", {"code": "x", "timeout_seconds": ...}),
    ],
)
async def test_a_number_that_nothing_can_hold(method: str, path: str, body: dict[str, Any] | None, number: int) -> None:
    """400, before the agent is asked."""
    filled = None if body is None else _filled(body, number)
    async with serving_agent({}) as edge, edge.execd() as client:
        answer = await client.request(method, path.format(number), json=filled)
    assert answer.status_code == 400, answer.text


def _filled(body: dict[str, Any], number: int) -> dict[str, Any]:
    return {
        key: _filled(value, number) if isinstance(value, dict) else number if value is ... else value
        for key, value in body.items()
    }
