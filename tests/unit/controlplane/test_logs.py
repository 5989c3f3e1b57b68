"""What the log looks like, and what never stands in it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from controlplane import logs
from controlplane.settings.sections import LogSettings


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Logging is global."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def failing_with(secret: str) -> None:
    """Log an exception that was raised where a local variable holds a secret."""
    try:
        secret.index("not in it")
    except ValueError:
        structlog.get_logger().exception("crashed", told=len(secret))


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_does_not_tell_local_variables(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A key or token may be among them."""
    logs.configure(LogSettings(format=form))  # type: ignore[arg-type]
    failing_with("a-secret-that-nobody-may-read")
    text = capsys.readouterr().err
    assert "crashed" in text
    assert "ValueError" in text
    assert "a-secret" not in text


def test_a_client_cannot_write_lines_or_commands_into_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """A path may hold a newline, or what a terminal obeys."""
    logs.configure(LogSettings(format="console"))
    structlog.get_logger().info("request", path="/a\nforged\x1b[2J")
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "\x1b[2J" not in text


class Unread(io.StringIO):
    """A stream whose reader has left."""

    def write(self, text: str) -> int:
        """As a pipe."""
        raise BrokenPipeError


def test_a_log_that_nobody_reads_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ours nor a library's."""
    logs.configure(LogSettings(format="json"))
    monkeypatch.setattr(sys, "stderr", Unread())
    structlog.get_logger().info("request")
    logging.getLogger("library").warning("x")


def test_libraries_log_in_the_same_shape(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON where ours is JSON."""
    logs.configure(LogSettings(format="json"))
    logging.getLogger("library").warning("careful")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"]) == ("careful", "warning")


TOKEN = "Zq3-" + "aB9_" * 9 + "xyz"
SIGNED = "k7m2q4xw3n5p6rst"
SECRETS = {
    "an API key": ("the key sandlot_" + TOKEN + " is wrong", TOKEN),
    "a token": (f"cannot open {TOKEN}", TOKEN),
    "a token at the end of a line": (f"cannot open\n{TOKEN}\n", TOKEN),
    "an authorization": ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
    "a ticket": ("GET /stream?ticket=a1b2c3d4e5&x=1", "a1b2c3d4e5"),
    "a password": ("{'username': 'me', 'password': 'correct-horse'}", "correct-horse"),
    "a password in a URL": ("cannot reach http://me:correct-horse@proxy.example:3128/x", "correct-horse"),
    "a signed path": (f"/v1/sandboxes/x/signed/80/zzz/{SIGNED}/page", SIGNED),
    "a signed host": (f"no host 8080-{'0' * 32}-t4x9yz-{SIGNED}.localhost", SIGNED),
}


@pytest.mark.attack(
    "secrets",
    "an error of a library quotes a key, a token, a ticket, a password or a signed address",
    "the log has the line without it, as text and as JSON, in fields, messages and tracebacks",
)
@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS.keys())
@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("is_bounded", [True, False])
def test_what_looks_like_a_secret_is_not_logged(
    text: str,
    secret: str,
    form: str,
    is_bounded: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second net; without it, each secret is there."""
    if not is_bounded:
        monkeypatch.setattr(logs, "redact", lambda text: text)
    logs.configure(LogSettings(format=form))  # type: ignore[arg-type]
    structlog.get_logger().warning(text, field=text, fields=[text], table={"x": {"y": text}}, error=ValueError(text))
    logging.getLogger("library").warning("%s", text)
    try:
        float(text)  # the error quotes what is no number
    except ValueError:
        structlog.get_logger().exception("crashed")
        logging.getLogger("library").exception("crashed too")
    said = capsys.readouterr().err

    assert "crashed too" in said
    assert (secret not in said) if is_bounded else (said.count(secret) >= 4)


@pytest.mark.parametrize(
    "text",
    [
        "sandbox 0a8f5c5e-3f3a-4b3e-9a40-1d2c3b4a5f60 is Running",
        "sha256:" + "0123456789abcdef" * 4,
        "container " + "0123456789abcdef" * 4,
        "a token is needed, in a header",
        "GET /v1/sandboxes/x/proxy/44772/files/download",
        "http://proxy.example:3128/@scope/package@1.2, me@example.com",
        "image registry.example:5000/sandlot/code-interpreter:v1.2.3",
        "2026-11-28T20:21:22.123456Z",
    ],
)
def test_what_is_no_secret_is_logged(text: str) -> None:
    """Ids, digests, images, paths and times are what a log is for."""
    assert logs.redact(text) == text


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_tail_has_what_the_log_has_and_no_secret(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tracebacks, and what libraries log; not what is below the level."""
    monkeypatch.setattr(logs, "TAIL", tail := logs.Tail())
    logs.configure(LogSettings(format=form))  # type: ignore[arg-type]
    key = "sandlot_" + "x" * 30
    structlog.get_logger().info("request", path=f"/a?{key}", status=200, nested={"token": [key]})
    structlog.get_logger().debug("quiet")
    failing_with(key)
    logging.getLogger("library").warning("said %s", key)
    request, crashed, foreign = tail.after(0, 10)
    assert (request.seq, request.level, request.event) == (1, "info", "request")
    assert request.at.endswith("Z")
    assert request.fields["status"] == 200
    assert crashed.event == "crashed"
    assert "ValueError" in json.dumps(crashed.fields["exception"])
    assert foreign.event == "said sandlot_…"
    assert key not in json.dumps([line.fields for line in (request, crashed, foreign)])


def test_the_tail_is_bounded() -> None:
    """In lines, and in what is kept of one."""
    tail = logs.Tail()
    for number in range(logs.MAX_LINES + 10):
        tail.keep(None, "", {"event": "e", "level": "info", "timestamp": "t", "number": number})
    tail.keep(None, "", {"event": "e" * 9999, "level": "info", "timestamp": "t", "long": "x" * logs.MAX_LINE_BYTES})
    assert tail.bounds == (12, logs.MAX_LINES + 11)
    lines = tail.after(0, 9999)
    assert len(lines) == logs.MAX_LINES
    assert lines[0].fields == {"number": 11}
    assert lines[-1].fields == {"left_out": f"{logs.MAX_LINE_BYTES + 11} bytes: see the server's own log"}
    assert len(lines[-1].event) == logs.MAX_LINE_BYTES
    assert [line.seq for line in tail.after(20, 2)] == [21, 22]


async def test_a_follower_hears_of_lines_of_other_threads() -> None:
    """Also of those that were logged where there is no event loop."""
    tail = logs.Tail()
    with tail.following() as woken:
        await asyncio.to_thread(tail.keep, None, "", {"event": "e"})
        async with asyncio.timeout(10):
            await woken.wait()
    tail.keep(None, "", {"event": "e"})
    assert tail.bounds == (1, 2)
