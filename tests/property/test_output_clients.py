"""The texts of output events, joined by the official Python clients of several versions themselves."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.api.runs.text import LINES_ALONE, Lines
from tests.support.server.live_server import packages_alone, sdk_python

VERSIONS = ("0.1.7", "0.1.16", "1.1.0", "1.1.1")
# Reads lists of texts, a line of JSON each; says what `Execution.text` makes of them.
CLIENT = """
import json, sys
from opensandbox.models.execd import Execution, OutputMessage
for line in sys.stdin:
    execution = Execution()
    execution.logs.stdout.extend(OutputMessage(text=text, timestamp=1) for text in json.loads(line))
    print(json.dumps(execution.text), flush=True)
"""


class Client:
    """A process with the package of one version."""

    def __init__(self, version: str) -> None:
        folder = packages_alone(f"opensandbox-{version}", f"opensandbox=={version}")
        self._process = subprocess.Popen(
            [sdk_python(), "-c", CLIENT],
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def show(self, texts: list[str]) -> str:
        """Return what a caller sees of an output in these events, all line ends being newlines."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        shown: str = json.loads(self._process.stdout.readline())
        return shown.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(scope="module", params=VERSIONS)
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """One of the clients."""
    started = Client(request.param)
    yield started
    started.close()


def texts_of(chunks: list[str]) -> list[str]:
    """Return the texts of a stream that arrives in these chunks."""
    lines = Lines()
    return [text for chunk in chunks for text in lines.feed(chunk.encode())] + lines.flush()


pieces = st.sampled_from(["a", "b c", " ", "\n", "\n\n", "\r\n", "é", "日本", "\u2028", "x" * 40])
streams = st.lists(st.lists(pieces, max_size=30).map("".join), max_size=8)


@settings(max_examples=500, deadline=None)
@given(streams)
def test_every_version_shows_what_was_written(client: Client, chunks: list[str]) -> None:
    """Blank lines included, in whatever chunks the output arrives."""
    assert client.show(texts_of(chunks)) == "".join(chunks).replace("\r\n", "\n").rstrip("\n")


@settings(max_examples=100, deadline=None)
@given(streams)
def test_every_version_shows_what_was_written_in_a_flood(client: Client, chunks: list[str]) -> None:
    """The same of lines that share events."""
    flood = "line\n" * LINES_ALONE
    shown = client.show(texts_of([flood, *chunks]))

    assert shown == (flood + "".join(chunks)).replace("\r\n", "\n").rstrip("\n")


def test_blank_lines_are_events_of_their_own(client: Client) -> None:
    """As the clients count events as lines."""
    texts = texts_of(["a\n\nb\n\n\nc\n"])

    assert texts == ["a", "\n\n", "b", "\n\n", "\n", "c"]
    assert client.show(texts) == "a\n\nb\n\n\nc"
