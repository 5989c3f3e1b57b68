"""The host names of ports: what they mean, and that DNS takes them."""

from __future__ import annotations

import uuid

import pytest
from starlette.types import Receive, Scope, Send

from controlplane.access.credentials import Credentials
from controlplane.api.edge.addresses import MAX_EXPIRES, PortAddresses, address_of, base36, signed_label
from controlplane.sandbox import new_sandbox_id

MAX_LABEL_CHARS = 63  # RFC 1035, 2.3.4
OLD_ID = "0123456789abcdef"  # as earlier releases made them


async def path_of(host: str) -> str:
    """Return the path that a request to a host name is led to."""
    seen: list[Scope] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        seen.append(scope)

    async def receive() -> dict[str, object]:
        raise AssertionError("nothing is read")

    async def send(_: object) -> None:
        raise AssertionError("nothing is sent")

    scope = {"type": "http", "path": "/x", "raw_path": b"/x", "headers": [(b"host", host.encode())]}
    await PortAddresses(app, domain="")(scope, receive, send)
    return str(seen[0]["path"])


def test_ids_are_canonical_uuids() -> None:
    """The first official client parses them."""
    ids = {new_sandbox_id() for _ in range(100)}
    assert len(ids) == 100
    assert {str(uuid.UUID(text)) for text in ids} == ids


async def test_a_host_name_per_port_has_the_id_as_it_is() -> None:
    """Clients put these names together themselves."""
    sandbox_id = new_sandbox_id()
    for text in (sandbox_id, sandbox_id.upper()):
        assert await path_of(f"8080-{text}.localhost:8194") == f"/v1/sandboxes/{sandbox_id}/proxy/8080/x"


@pytest.mark.parametrize("sandbox_id", [str(uuid.UUID(int=1)), OLD_ID])
async def test_a_signed_host_name_fits_into_dns(sandbox_id: str) -> None:
    """Also with the longest port and the latest time; and it leads back to the sandbox."""
    credentials, expires = Credentials(b"secret"), base36(MAX_EXPIRES)
    label = signed_label(sandbox_id, 65535, expires, credentials.sign(sandbox_id, "65535", expires))
    assert len(label) <= MAX_LABEL_CHARS
    assert await path_of(f"{label}.localhost") == f"/v1/sandboxes/{sandbox_id}/proxy/65535/x"


async def test_ids_of_earlier_releases_keep_their_host_names() -> None:
    """Their sandboxes may outlive an upgrade."""
    assert await path_of(f"80-{OLD_ID}.localhost") == f"/v1/sandboxes/{OLD_ID}/proxy/80/x"
    scope = {"raw_path": f"/v1/sandboxes/{OLD_ID}/proxy/80/x".encode()}
    assert address_of(scope).prefix == f"/v1/sandboxes/{OLD_ID}/proxy/80"


def test_signatures_of_earlier_releases_stay_valid() -> None:
    """They have 26 characters, of which the first 16 are handed out now. Anything in between is none."""
    credentials = Credentials(b"secret")
    whole = credentials._signature("x", "80", "a")
    assert (len(whole), len(credentials.sign("x", "80", "a"))) == (26, 16)
    for length in range(len(whole) + 1):
        assert credentials.is_signature("x", "80", "a", whole[:length]) is (length in (16, 26))
