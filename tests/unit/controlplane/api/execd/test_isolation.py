"""Isolated sessions: the bounds of a request for one."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.api.execd import isolation
from execd.wire.aio import Stream
from execd.wire.messages import Done, SessionOpen
from tests.support.server.api_server import serving_agent


async def opened(stream: Stream, _: SessionOpen) -> None:
    """Serve session.open."""
    await stream.send(Done())


def body(**more: Any) -> dict[str, Any]:
    """Return a request with one mount and *more*."""
    return {"workspace": {"path": "/w"}, **more}


def described(size: int) -> dict[str, Any]:
    """Return a request that the session's description repeats in about *size* bytes."""
    return body(env_passthrough={"mode": "allow", "keys": ["x" * size]})


@pytest.mark.parametrize(
    ("fits", "exceeds", "named"),
    [
        (
            {"overlays": [{"path": f"/{number}"} for number in range(isolation.MAX_MOUNTS)]},
            {"overlays": [{"path": f"/{number}"} for number in range(isolation.MAX_MOUNTS + 1)]},
            "workspace, overlays",
        ),
        (
            body(extra_writable=[f"/{number}" for number in range(isolation.MAX_BINDS)]),
            body(extra_writable=[f"/{number}" for number in range(isolation.MAX_BINDS + 1)]),
            "extra_writable, binds",
        ),
        (
            body(env_passthrough={"keys": ["A"] * isolation.MAX_KEYS}),
            body(env_passthrough={"keys": ["A"] * (isolation.MAX_KEYS + 1)}),
            "env_passthrough.keys",
        ),
        (described(isolation.MAX_ECHO_BYTES // 2), described(isolation.MAX_ECHO_BYTES), "the session's description"),
    ],
    ids=["mounts", "binds", "keys", "description"],
)
async def test_a_request_is_bounded(fits: dict[str, Any], exceeds: dict[str, Any], named: str) -> None:
    async with serving_agent({SessionOpen: opened}) as edge, edge.execd() as client:
        taken = await client.post("/v1/isolated/session", json=fits)
        refused = await client.post("/v1/isolated/session", json=exceeds)

    assert taken.status_code == 201, taken.text
    assert refused.status_code == 400
    assert refused.json()["message"].startswith(named)
