"""The command line: what it says, and the exit codes by which scripts know."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import structlog

from controlplane.config import settings_table
from controlplane.main import main

KEY = "a-key-that-is-long-enough"


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings file, no variables of ours, no engine; logging as it was before."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    monkeypatch.setenv("SANDLOT_PATHS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SANDLOT_PATHS_RUN_DIR", str(tmp_path / "run"))
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def usage_error(*arguments: str) -> int:
    """The exit code of a command line that is wrong."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """With what it does."""
    assert usage_error("--help") == 0
    text = capsys.readouterr().out
    for command in ("serve", "doctor", "images", "key"):
        assert f"    {command} " in text


def test_help_of_a_command_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """Its flag, its variable, its default."""
    assert usage_error("serve", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for row in settings_table():
        assert row.flag in text
        assert row.environment_name in text
    assert "[SANDLOT_SERVER_PORT, default: 8194]" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the distribution."""
    assert usage_error("--version") == 0
    assert capsys.readouterr().out == f"sandlot {version('sandlot')}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["serve", "--prot", "1"], ["serve", "--pool", "1"], ["images", "destroy"]]
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Code 2; a flag must be written out."""
    assert usage_error(*arguments) == 2
    assert "usage: sandlot" in capsys.readouterr().err


def test_a_bad_setting_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback."""
    assert main(["serve", "--port", "lots"]) == 2
    expected = "sandlot: --port: [server] port: expected a whole number from 0 to 65535, got 'lots'\n"
    assert capsys.readouterr() == ("", expected)


def test_a_mistyped_variable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for commands that do not need it."""
    monkeypatch.setenv("SANDBOX_POLL_SIZE", "5")
    assert main(["key"]) == 2
    assert "SANDBOX_POLL_SIZE: there is no such setting (did you mean SANDBOX_POOL_SIZE?)" in capsys.readouterr().err


def test_a_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named, or in the home directory."""
    (tmp_path / "mine.toml").write_text(f"[server]\napi_keys = ['{KEY}']\n")
    assert main(["key", "--config", str(tmp_path / "mine.toml")]) == 0
    assert capsys.readouterr().out == f"{KEY}\n"
    (tmp_path / ".sandbox.toml").write_text("[server]\nport = -1\n")
    assert main(["key"]) == 2
    assert capsys.readouterr().err.startswith(f"sandlot: {tmp_path}/.sandbox.toml: [server] port: ")


def test_the_key_of_the_first_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before, during and after."""
    assert main(["key"]) == 2
    assert capsys.readouterr().err == (
        f"sandlot: there is no key in {tmp_path}/state yet: the first `sandlot serve` makes one\n"
    )
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "api-key").write_text("sandlot_abc\n")
    assert main(["key"]) == 0
    assert capsys.readouterr().out == "sandlot_abc\n"
    (tmp_path / "state" / "api-key").write_bytes(b"\xff")
    assert main(["key"]) == 2
    assert "api-key: cannot be read" in capsys.readouterr().err


def test_a_configured_key(capsys: pytest.CaptureFixture[str]) -> None:
    """Is the one that is printed."""
    assert main(["key", "--api-keys", f"{KEY},another-key-that-is-long"]) == 0
    assert capsys.readouterr().out == f"{KEY}\n"


def test_serving_without_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """Code 1, and what to do."""
    assert main(["serve", "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert "no-engine.sock" in error
    assert "Traceback" not in error


def test_images_without_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """The same."""
    assert main(["images", "list"]) == 1
    error = capsys.readouterr().err
    assert "no-engine.sock" in error
    assert "Traceback" not in error


def test_the_doctor_without_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """Reports, and fails."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main(["doctor", "--port", str(port)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"ok   address     127.0.0.1:{port} is free"
    assert lines[-1] == "1 check(s) failed"
