"""Which server a command is for, and which key goes where."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.cli.place import place_of
from controlplane.errors import ConfigError

KEY, OWN = "key-of-the-variable", "key-of-this-machine"
REMOTE = "https://sandboxes.example"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Variables of a machine whose own server has a key."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "api-key").write_text(OWN)
    return {"HOME": str(tmp_path), "SANDLOT_PATHS_STATE_DIR": str(tmp_path / "state"), "SANDLOT_SERVER_PORT": "8300"}


def test_this_machine_without_anything(home: dict[str, str]) -> None:
    """The settings say where the server is; the key is in its state directory."""
    found = place_of(None, None, None, None, home)
    assert (found.address, found.key) == ("http://127.0.0.1:8300", OWN)
    assert found.settings is not None


@pytest.mark.parametrize(
    ("domain", "address"),
    [
        ("localhost:8194", "http://localhost:8194"),
        ("https://sandboxes.example", "https://sandboxes.example"),
        ("sandboxes.example:80", "http://sandboxes.example:80"),
    ],
)
def test_the_variables_of_official_clients(home: dict[str, str], domain: str, address: str) -> None:
    variables = home | {"OPEN_SANDBOX_DOMAIN": domain, "OPEN_SANDBOX_API_KEY": KEY}
    assert place_of(None, None, None, None, variables)[:2] == (address, KEY)


def test_a_key_of_a_file(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"  {KEY}\n")
    assert place_of(REMOTE, None, str(tmp_path / "key"), None, home).key == KEY
    assert place_of(REMOTE, KEY, None, None, home).key == KEY


def test_the_key_of_this_machine_stays_here(home: dict[str, str]) -> None:
    """It is sent to an address of this machine, and to no other one."""
    assert place_of("http://localhost:1", None, None, None, home).key == OWN
    with pytest.raises(ConfigError, match="is not sent to another one"):
        place_of(REMOTE, None, None, None, home)
    with pytest.raises(ConfigError, match="is not sent to another one"):
        place_of(None, None, None, None, home | {"OPEN_SANDBOX_DOMAIN": REMOTE})


def test_the_key_of_the_variable_belongs_to_the_domain_of_the_variable(home: dict[str, str]) -> None:
    variables = home | {"OPEN_SANDBOX_DOMAIN": "one.example", "OPEN_SANDBOX_API_KEY": KEY}
    with pytest.raises(ConfigError, match=r"is the key of one\.example, and is not sent to"):
        place_of(REMOTE, None, None, None, variables)
    assert place_of("http://one.example/v1", None, None, None, variables).key == KEY
    del variables["OPEN_SANDBOX_DOMAIN"]
    assert place_of(REMOTE, None, None, None, variables).key == KEY


@pytest.mark.parametrize(
    ("server", "key", "file", "message"),
    [
        ("", None, None, "--server: is empty"),
        ("ftp://x", KEY, None, "expected http://host:port"),
        (REMOTE, "a b", None, "--api-key: a key has visible ASCII"),
        (REMOTE, None, "/no/such/file", "--key-file: /no/such/file: cannot be read: No such file"),
        (REMOTE, None, "/dev/null", "--key-file: /dev/null: is empty"),
        (REMOTE, KEY, "/dev/null", "exclude each other"),
    ],
)
def test_bad_places(home: dict[str, str], server: str, key: str | None, file: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place_of(server, key, file, None, home)


def test_a_bad_variable_is_named(home: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="OPEN_SANDBOX_DOMAIN: expected"):
        place_of(None, KEY, None, None, home | {"OPEN_SANDBOX_DOMAIN": "a b"})
    with pytest.raises(ConfigError, match="OPEN_SANDBOX_API_KEY: a key has"):
        place_of(REMOTE, None, None, None, home | {"OPEN_SANDBOX_API_KEY": "schlüssel"})
