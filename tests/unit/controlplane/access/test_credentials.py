"""Sandbox tokens, and the API key of the first start."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from controlplane.access.credentials import Credentials, first_key, load, read_api_key
from controlplane.errors import ConfigError


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """The first start makes it and tells; later ones read it."""
    key, is_new = first_key(tmp_path)
    assert len(key) > 40
    assert key.startswith("sandlot_")
    assert is_new
    assert first_key(tmp_path) == (key, False)
    assert read_api_key(tmp_path) == key


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    """Whatever the umask is, and whatever a crash left under the temporary name."""
    (tmp_path / "api-key.new").write_text("half")
    (tmp_path / "api-key.new").chmod(0o666)
    first_key(tmp_path)
    load(tmp_path)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "api-key": 0o600,
        "secret": 0o600,
    }


def test_a_token_opens_its_own_sandbox_only(tmp_path: Path) -> None:
    """Tokens are bound to the id, and stay the same after a restart."""
    credentials = load(tmp_path)
    token = credentials.sandbox_token("0123456789abcdef")
    assert len(token) == 43
    assert credentials.is_sandbox_token("0123456789abcdef", token)
    assert not credentials.is_sandbox_token("fedcba9876543210", token)
    assert not credentials.is_sandbox_token("0123456789abcdef", "")
    assert not credentials.is_sandbox_token("0123456789abcdef", token[:-1])
    again = load(tmp_path)
    assert again.is_sandbox_token("0123456789abcdef", token)


def test_tokens_of_another_installation_are_refused(tmp_path: Path) -> None:
    """The secret is made anew for each state directory."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = load(tmp_path / "a"), load(tmp_path / "b")
    assert not other.is_sandbox_token("x", one.sandbox_token("x"))


@pytest.mark.parametrize("text", ["\udcff", "ключ", "\0", "a" * 100_000])
def test_strange_tokens_are_refused_quietly(text: str) -> None:
    """Headers can hold anything; that is a refusal and no crash."""
    credentials = Credentials(b"secret")
    assert not credentials.is_sandbox_token("x", text)
    assert not credentials.is_sandbox_token(text, "x")


@pytest.mark.parametrize("name", ["api-key", "secret"])
@pytest.mark.parametrize("content", [b"", b"\n", b"  \n"])
def test_an_empty_file_is_an_error(name: str, content: bytes, tmp_path: Path) -> None:
    """An empty key would be everybody's key, and an empty secret everybody's signature."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}: is empty; remove it, and the server creates a new one"):
        {"api-key": first_key, "secret": load}[name](tmp_path)


def test_a_file_with_something_else_is_an_error(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="secret: does not contain a key"):
        load(tmp_path)


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(ConfigError, match="secret: cannot be written: No such file or directory"):
        load(tmp_path / "nowhere")
    (tmp_path / "secret").mkdir()
    with pytest.raises(ConfigError, match="secret: cannot be read: Is a directory"):
        load(tmp_path)


def test_reading_the_key_where_there_is_none(tmp_path: Path) -> None:
    """`sandlot key` before the first start."""
    with pytest.raises(FileNotFoundError):
        read_api_key(tmp_path)
