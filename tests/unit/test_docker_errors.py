"""What goes wrong at the engine, in our words."""

from __future__ import annotations

import json

import aiohttp
import msgspec
import pytest
from aiodocker import DockerError

from controlplane.errors import EngineUnavailable, ImageMissing, RuntimeFailure, StartFailed
from controlplane.runtime.engine import connect, our_errors


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
