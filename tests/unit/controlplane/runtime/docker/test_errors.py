"""What goes wrong at the engine, in our words."""

from __future__ import annotations

import json

import aiohttp
import msgspec
import pytest
from aiodocker import DockerError

from controlplane.errors import EngineUnavailable, ImageMissing, OutOfMemory, RuntimeFailure, StartFailed
from controlplane.runtime.docker.engine import connect, our_errors


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (DockerError(900, "Cannot connect to Docker Engine via unix:///x [refused]"), EngineUnavailable),
        (DockerError(500, "it broke"), RuntimeFailure),
        (DockerError(409, "conflict"), RuntimeFailure),
        (TimeoutError(), EngineUnavailable),
        (aiohttp.ServerDisconnectedError(), EngineUnavailable),
        (aiohttp.ClientPayloadError("cut off"), EngineUnavailable),
        (ConnectionResetError("reset"), EngineUnavailable),
        (FileNotFoundError("/var/run/docker.sock"), EngineUnavailable),
        (msgspec.ValidationError("Object missing required field `Id`"), RuntimeFailure),
        (json.JSONDecodeError("no json", "", 0), RuntimeFailure),
        (KeyError("message"), RuntimeFailure),
        (TypeError("Unrecognized response type: text/html"), RuntimeFailure),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, Exception) else it.__name__,
)
def test_foreign_errors_become_ours(foreign: Exception, ours: type[RuntimeFailure]) -> None:
    """Exactly that class, saying what was being done, with the foreign error as its cause."""
    with pytest.raises(RuntimeFailure, match="cannot feed the cat: ") as caught, our_errors("feed the cat"):
        raise foreign

    assert type(caught.value) is ours
    assert caught.value.__cause__ is foreign


def test_engines_reason_is_told() -> None:
    """A refused start is a StartFailed with the engine's own words."""
    with pytest.raises(StartFailed, match="no such file or directory"), our_errors("start", refused=StartFailed):
        raise DockerError(400, "OCI runtime create failed: exec: no such file or directory")


@pytest.mark.parametrize(
    ("reason", "public"),
    [
        (
            "Cannot update container c: runc did not terminate successfully: exit status 1: unable to set memory limit "
            "to 67108864 (current usage: 129667072, peak usage: 135413760)\n: unknown",
            "it uses more memory than that",
        ),
        ("write /var/lib/docker/tmp/x: no space left on device", "no space is left on the container engine's disk"),
        ("OCI runtime pause failed: unable to freeze: unknown", "the container engine is too busy; try again"),
        ("Container 0123 is not running", "it is in no state for that"),
        ("something of /var/lib/docker/overlay2", "the container engine refused; its reason is in the server's log"),
    ],
)
def test_clients_hear_no_words_of_the_engine(reason: str, public: str) -> None:
    """They name paths, programs and ids of its host; the log has them."""
    with pytest.raises(RuntimeFailure) as caught, our_errors("feed the cat"):
        raise DockerError(500, reason)
    assert reason.strip() in caught.value.message
    assert caught.value.public == f"cannot feed the cat: {public}"


@pytest.mark.parametrize("foreign", [DockerError(900, "unix:///secret"), FileNotFoundError("/secret/docker.sock")])
def test_clients_do_not_hear_where_the_engine_is(foreign: Exception) -> None:
    with pytest.raises(EngineUnavailable, match="secret") as caught, our_errors("feed the cat"):
        raise foreign
    assert caught.value.public == "cannot feed the cat: the container engine cannot be reached"


def test_too_little_memory_to_start_is_told_apart() -> None:
    """The caller can ask for more."""
    with pytest.raises(OutOfMemory), our_errors("start", refused=StartFailed):
        raise DockerError(500, "container init was OOM-killed (memory limit too low?)")


def test_lost_engine_is_no_refusal() -> None:
    """That the engine is away is not the container's fault."""
    with pytest.raises(EngineUnavailable), our_errors("start", refused=StartFailed):
        raise DockerError(900, "Cannot connect")


@pytest.mark.parametrize("message", ["No such image: a/b:latest", "invalid reference format"])
def test_missing_image_says_what_to_do(message: str) -> None:
    """Only where an image was asked for; the message has the cure."""
    with pytest.raises(ImageMissing, match=r"a/b.*make images.*docker pull a/b"), our_errors("create", image="a/b"):
        raise DockerError(404, message)

    with pytest.raises(RuntimeFailure) as caught, our_errors("create"):
        raise DockerError(404, message)
    assert not isinstance(caught.value, ImageMissing)


def test_bugs_are_not_dressed_up() -> None:
    """What is no failure of the engine stays what it is."""
    with pytest.raises(ZeroDivisionError), our_errors("divide"):
        raise ZeroDivisionError


@pytest.mark.parametrize("url", ["no scheme", "gopher://host"])
async def test_senseless_address(url: str) -> None:
    """An address that makes no sense is told as such."""
    with pytest.raises(EngineUnavailable, match="cannot use the container engine"):
        connect(url)
