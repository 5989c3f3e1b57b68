"""Bodies, parameters, and the small translations between the contract's words and ours."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from controlplane.api.edge.bodies import decode, utc
from controlplane.api.edge.parameters import clean_path, mode_digits, permission_bits
from controlplane.api.execd.schema import RunCommandRequest
from controlplane.api.lifecycle.schema import CreateSandboxRequest, Renewal, view
from controlplane.errors import InvalidRequest
from controlplane.sandbox import Sandbox, SandboxSpec, State

MOMENT = datetime(2026, 11, 23, 4, 38, 7, 317029, tzinfo=UTC)
SANDBOX = Sandbox(
    id="0123456789abcdef",
    container_id="c",
    requested_image="python:3.11",
    spec=SandboxSpec(image="sandlot/python", entrypoint=("sleep", "inf")),
    state=State.RUNNING,
    created_at=MOMENT,
    state_changed_at=MOMENT,
)


def test_what_a_sandbox_lacks_is_left_out() -> None:
    """Never null: the Python SDK takes `"expiresAt": null` for a bad argument of its user."""
    shown = msgspec.json.decode(msgspec.json.encode(view(SANDBOX)))

    assert shown == {
        "id": "0123456789abcdef",
        "image": {"uri": "python:3.11"},
        "status": {
            "state": "Running",
            "reason": "CONTAINER_RUNNING",
            "message": "The sandbox is running.",
            "lastTransitionAt": "2026-11-23T04:38:07.317029Z",
        },
        "entrypoint": ["sleep", "inf"],
        "createdAt": "2026-11-23T04:38:07.317029Z",
    }


def test_what_a_sandbox_has_is_shown() -> None:
    """Everything, under the contract's names."""
    spec = msgspec.structs.replace(SANDBOX.spec, metadata={"a": "b"}, extensions={"c": "d"}, env={"SECRET": "x"})
    sandbox = msgspec.structs.replace(
        SANDBOX,
        spec=spec,
        state=State.FAILED,
        expires_at=MOMENT,
        reason="CONTAINER_EXITED_ERROR",
        message="exit 1",
    )
    shown = msgspec.json.decode(msgspec.json.encode(view(sandbox, with_image=False)))

    assert (shown["metadata"], shown["extensions"], shown["expiresAt"]) == (
        {"a": "b"},
        {"c": "d"},
        "2026-11-23T04:38:07.317029Z",
    )
    assert (shown["status"]["state"], shown["status"]["reason"]) == ("Failed", "CONTAINER_EXITED_ERROR")
    assert "image" not in shown
    assert "SECRET" not in str(shown)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b'{"image": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"timeout": NaN}',
        b'{"timeout": 1e400}',
        b'{"entrypoint": ["\\ud800"]}',
        b"null",
        b"[]",
        b"5",
    ],
)
def test_what_is_no_json_of_that_shape(body: bytes) -> None:
    """One error for whatever a body may hold instead."""
    with pytest.raises(InvalidRequest) as caught:
        decode(body, CreateSandboxRequest, code="some.code")
    assert caught.value.code == "some.code"


def test_a_wrong_type_names_its_field() -> None:
    """With the way to it."""
    with pytest.raises(InvalidRequest, match=r"^timeout: Expected `int"):
        decode(b'{"command": "a", "timeout": "5"}', RunCommandRequest, code="x")
    with pytest.raises(InvalidRequest, match=r"^expiresAt: "):
        decode(b'{"expiresAt": "tomorrow"}', Renewal, code="x")
    with pytest.raises(InvalidRequest, match="expiresAt"):
        decode(b"{}", Renewal, code="x")


@pytest.mark.parametrize(
    ("digits", "bits"), [(755, 0o755), (644, 0o644), (0, None), (None, None), (1777, 0o1777), (7777, 0o7777), (5, 5)]
)
def test_modes_are_octal_digits_written_as_a_decimal_number(digits: int | None, bits: int | None) -> None:
    """755 means 0o755, there and back; 0 is what a client sends that has no mode in mind."""
    assert permission_bits(digits, "mode") == bits
    if bits:
        assert mode_digits(bits) == digits


@pytest.mark.parametrize("digits", [8, 649, 0o100644, 10000, 99999999])
def test_what_is_no_mode(digits: int) -> None:
    """Digits that are not octal, and bits that are no permissions."""
    with pytest.raises(InvalidRequest, match="is not a mode"):
        permission_bits(digits, "mode")


@pytest.mark.parametrize("path", ["", "/a\0b", "/" + "x" * 4096])
def test_paths_that_no_kernel_takes(path: str) -> None:
    """Empty, with NUL, too long."""
    with pytest.raises(InvalidRequest):
        clean_path(path)


def test_paths_are_otherwise_the_sandbox_s_business() -> None:
    """`..`, `~` and bytes that are no UTF-8 mean something inside, and only there."""
    for path in ("/a/../b", "~/x", "relative", "/a\udcff", "/ü"):
        assert clean_path(path) == path


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1e30, 1e30])
def test_times_that_are_none_hurt_nobody(seconds: float) -> None:
    """execd is not trusted, not even with a clock."""
    assert utc(seconds) == datetime(1970, 1, 1, tzinfo=UTC)
