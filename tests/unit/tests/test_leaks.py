"""The check that every end-to-end run ends with can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.access.credentials import KEY_FILE, SECRET_FILE, Credentials
from tests.support.leaks import find_leaks

SANDBOX_ID = "0a8f5c5e-3f3a-4b3e-9a40-1d2c3b4a5f60"
KEY = "sandlot_" + "k" * 43
TOKEN = Credentials(b"the-secret").sandbox_token(SANDBOX_ID)
LEAKING = {
    "the key of the first start": (f"wrong key: {KEY}", "api-key in log"),
    "a key that was made later": (f"key sandlot_{'m' * 43}", "an API key in log"),
    "the secret": ("signed by the-secret", "secret in log"),
    "the token of a sandbox": (f"sandbox {SANDBOX_ID}: {TOKEN}", f"the token of {SANDBOX_ID} in log"),
    "a signed path": ("/v1/sandboxes/x/signed/8080/t4x9yz/k7m2q4xw3n5p6rst/", "a signed path in log"),
    "a signed host name": (f"8080-{'0' * 32}-t4x9yz-k7m2q4xw3n5p6rst.localhost", "a signed host name in log"),
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory as a server leaves it."""
    (tmp_path / KEY_FILE).write_text(f"{KEY}\n")
    (tmp_path / SECRET_FILE).write_text("the-secret\n")
    (tmp_path / "sandlot.db").write_bytes(b"\0SQLite\0" + SANDBOX_ID.encode())
    return tmp_path


@pytest.mark.parametrize(("text", "leak"), LEAKING.values(), ids=LEAKING.keys())
def test_a_leak_is_found(state: Path, text: str, leak: str) -> None:
    """Wherever a sandbox is named, its token is looked for."""
    assert leak in find_leaks({"log": text.encode()}, state)


def test_the_files_of_the_state_directory_are_places_too(state: Path) -> None:
    (state / "audit").mkdir()
    (state / "audit" / "log.jsonl").write_text(f'{{"token": "{TOKEN}"}}')

    assert find_leaks({}, state) == [f"the token of {SANDBOX_ID} in audit/log.jsonl"]


def test_what_is_clean_is_clean(state: Path) -> None:
    """An id is no secret, and a signature that is cut out of its address neither."""
    log = f"request path=/v1/sandboxes/{SANDBOX_ID}/signed/… key=key-1 sandbox={SANDBOX_ID}"

    assert find_leaks({"log": log.encode()}, state) == []
