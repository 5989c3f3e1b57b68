"""API keys and sandbox tokens."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from controlplane.credentials import Credentials, hash_key, load, read_api_key
from controlplane.errors import ConfigError


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """The first start makes it and tells; later ones read it."""
    first, made = load(tmp_path, ())
    assert len(made) > 40
    assert first.is_api_key(made)
    second, made_again = load(tmp_path, ())
    assert made_again == ""
    assert second.is_api_key(made)
    assert read_api_key(tmp_path) == made


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    """Whatever the umask is, and whatever a crash left under the temporary name."""
    (tmp_path / "api-key.new").write_text("half")
    (tmp_path / "api-key.new").chmod(0o666)
    load(tmp_path, ())
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "api-key": 0o600,
        "secret": 0o600,
    }


def test_configured_keys_are_the_only_ones(tmp_path: Path) -> None:
    """Each of them opens; no key is made beside them, and one of an earlier start opens no more."""
    _, made = load(tmp_path, ())
    credentials, made_again = load(tmp_path, ("one-key-of-many", "another-key"))
    assert made_again == ""
    assert credentials.is_api_key("one-key-of-many")
    assert credentials.is_api_key("another-key")
    assert not credentials.is_api_key(made)
    assert not credentials.is_api_key("")
    assert not credentials.is_api_key("one-key-of-man")


def test_no_key_opens_when_there_is_none() -> None:
    """Without keys nobody gets in, the empty key least of all."""
    assert not Credentials([], b"secret").is_api_key("")


def test_a_token_opens_its_own_sandbox_only(tmp_path: Path) -> None:
    """Tokens are bound to the id, and stay the same after a restart."""
    credentials, _ = load(tmp_path, ())
    token = credentials.sandbox_token("0123456789abcdef")
    assert len(token) == 43
    assert credentials.is_sandbox_token("0123456789abcdef", token)
    assert not credentials.is_sandbox_token("fedcba9876543210", token)
    assert not credentials.is_sandbox_token("0123456789abcdef", "")
    assert not credentials.is_sandbox_token("0123456789abcdef", token[:-1])
    again, _ = load(tmp_path, ())
    assert again.is_sandbox_token("0123456789abcdef", token)


def test_tokens_of_another_installation_are_refused(tmp_path: Path) -> None:
    """The secret is made anew for each state directory."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = load(tmp_path / "a", ())[0], load(tmp_path / "b", ())[0]
    assert not other.is_sandbox_token("x", one.sandbox_token("x"))


@pytest.mark.parametrize("text", ["\udcff", "ключ", "\0", "a" * 100_000])
def test_strange_keys_and_tokens_are_refused_quietly(text: str) -> None:
    """Headers can hold anything; that is a refusal and no crash."""
    credentials = Credentials([hash_key("the-key")], b"secret")
    assert not credentials.is_api_key(text)
    assert not credentials.is_sandbox_token("x", text)
    assert not credentials.is_sandbox_token(text, "x")


@pytest.mark.parametrize("name", ["api-key", "secret"])
@pytest.mark.parametrize("content", [b"", b"\n", b"  \n"])
def test_an_empty_file_is_an_error(name: str, content: bytes, tmp_path: Path) -> None:
    """An empty key would be everybody's key, and an empty secret everybody's signature."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}: is empty; remove it, and a new one is made"):
        load(tmp_path, ())


def test_a_file_with_something_else_is_an_error(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="secret: holds something else than a key"):
        load(tmp_path, ())


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(ConfigError, match="secret: cannot be written: No such file or directory"):
        load(tmp_path / "nowhere", ())
    (tmp_path / "secret").mkdir()
    with pytest.raises(ConfigError, match="secret: cannot be read: Is a directory"):
        load(tmp_path, ())


def test_reading_the_key_where_there_is_none(tmp_path: Path) -> None:
    """`sandlot key` before the first start."""
    with pytest.raises(FileNotFoundError):
        read_api_key(tmp_path)
