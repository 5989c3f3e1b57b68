"""The command line: what it says, and the exit codes by which scripts know."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import structlog

from controlplane.cli.main import main
from controlplane.settings.table import settings_table

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
    for command in ("serve", "doctor", "images", "key", "keys"):
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
    "arguments", [["fly"], ["serve", "--prot", "1"], ["serve", "--pool", "1"], ["images", "destroy"]]
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Code 2; a flag must be written out."""
    assert usage_error(*arguments) == 2
    assert "usage: sandlot" in capsys.readouterr().err


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The same as --help, and no error."""
    assert main([]) == 0
    assert "    serve " in capsys.readouterr().out


def test_a_mistyped_flag_is_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    """As a mistyped key or variable is."""
    assert usage_error("serve", "--pool-sise=1") == 2
    assert "unrecognized arguments: --pool-sise=1 (did you mean --pool-size?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["serve", "--help"],
        ["doctor", "--port", "0"],
        ["key", "--api-keys", KEY],
        [],
    ],
)
def test_output_that_nobody_reads_ends_the_command_quietly(arguments: list[str]) -> None:
    """No traceback and no complaint, as with `| head -0`. The status is that of SIGPIPE, if argparse tells."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as unread:
        done = subprocess.run(
            [sys.executable, "-m", "controlplane.cli.main", *arguments],
            stdout=unread,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.stderr == b""
    assert done.returncode in ((141,) if arguments[:1] in (["doctor"], ["key"]) else (0, 141))


@pytest.mark.parametrize("arguments", [["--help"], ["images", "--help"], ["key", "--api-keys", KEY], ["key"]])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(arguments: list[str], closed: str) -> None:
    """Lead nowhere, as daemons are started: what the command does stays the same, and so does its exit code."""
    command = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-m", "controlplane.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == (2 if arguments == ["key"] else 0)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], [], ["key", "--api-keys", KEY], ["doctor", "--port", "0"]])
def test_output_that_cannot_be_written(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: code 1 and one line that says why."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it, argparse keeps the failure to itself
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "controlplane.cli.main", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"sandlot: cannot write the output: No space left on device\n")


def test_a_deprecated_setting_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """In the shape of the log, with what to write instead."""
    assert main(["key", "--api-keys", KEY, "--cpu-quota", "200000", "--format", "json"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{KEY}\n"
    logged = json.loads(output.err)
    assert (logged["event"], logged["level"]) == ("config.deprecated", "warning")
    assert logged["message"].endswith("which makes 2 CPUs; the unit is CPUs now, write 2")


def test_the_settings_file_of_a_variable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SANDBOX_CONFIG_PATH, as for the OpenSandbox server; a file of that one is refused with hints."""
    monkeypatch.setenv("SANDBOX_CONFIG_PATH", str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text(f"[server]\napi_keys = ['{KEY}']\n")
    assert main(["key"]) == 0
    assert capsys.readouterr().out == f"{KEY}\n"
    (tmp_path / "mine.toml").write_text("[server]\nmax_sandbox_timeout_seconds = 60\n[runtime]\ntype = 'docker'\n")
    assert main(["serve"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sandlot: {tmp_path}/mine.toml: has settings of the OpenSandbox server")
    assert "docs/migrating-from-opensandbox.md" in error
    assert "[server] max_sandbox_timeout_seconds: [sandbox] max_lifetime" in error


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
    error = capsys.readouterr().err
    assert error.startswith(f"sandlot: there is no key in {tmp_path}/state yet: the first `sandlot serve` makes one")
    assert "OPEN_SANDBOX_API_KEY" in error
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


@pytest.mark.parametrize("action", ["list", "build", "check"])
def test_images_without_an_engine(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same: it did not refuse anything, it is not there."""
    assert main(["images", action, "node"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("sandlot: the container engine does not answer: ")
    assert "no-engine.sock" in error
    assert error.endswith("\n(`make engine` starts one; `sandlot doctor` checks it)\n")


def test_the_doctor_without_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """Reports, and fails."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main(["doctor", "--port", str(port)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"ok   address     127.0.0.1:{port} is free"
    assert lines[-1] == "1 check(s) failed"


@pytest.mark.parametrize("command", [["attack"], ["keys", "create"], ["keys", "list"], ["images"], ["key"]])
def test_the_help_of_a_command_is_about_that_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command takes every setting; what serving has to set would bury the rest."""
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    shown = capsys.readouterr().out
    assert "--config FILE" in shown
    assert "--pool-size" not in shown
    assert "sandlot serve --help" in shown
