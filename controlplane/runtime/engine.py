"""The connection to a Docker engine, and its errors in our words. Nothing of aiodocker or aiohttp gets past here."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import aiodocker
import aiohttp
import msgspec
from aiodocker import DockerError

from controlplane.errors import EngineUnavailable, ImageMissing, RuntimeFailure
from controlplane.sandbox import Credentials

CONNECT_TIMEOUT_S = 5.0
# A start takes 0.3 s, and 20 s behind a hundred others on two slow cores. An engine silent for longer hangs.
ANSWER_TIMEOUT_S = 120.0

ANSWER = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
ENDLESS = aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S)

# A pull that tells of nothing for so long has no way out to the registry.
PULL_SILENCE_S = 30.0

_NO_CONTENT = 204
_NO_CONNECTION = 900  # aiodocker's own "status" for this
_NOT_THERE = re.compile(r"not found|manifest unknown|denied|unauthorized|authentication|no basic auth", re.IGNORECASE)
_NO_SUCH_IMAGE = re.compile(r"no such image|invalid reference format", re.IGNORECASE)

# What the client library raises beside the engine's own answers; the first match counts.
_LIBRARY_ERRORS: tuple[tuple[type[Exception], type[RuntimeFailure], str], ...] = (
    (TimeoutError, EngineUnavailable, "the container engine does not answer"),
    (aiohttp.ClientError, EngineUnavailable, "the connection to the container engine broke"),
    (OSError, EngineUnavailable, "the container engine cannot be reached"),
    (ValueError, RuntimeFailure, "the container engine's answer makes no sense"),  # msgspec's and json's errors
    (TypeError, RuntimeFailure, "the container engine's answer makes no sense"),  # aiodocker: unknown content type
    (LookupError, RuntimeFailure, "the container engine's answer makes no sense"),
)


def connect(url: str = "") -> aiodocker.Docker:
    """Return a client for the engine at *url*; "" takes DOCKER_HOST, the Docker context, or the usual socket.

    Needs a running event loop. It connects with the first request; the caller closes it.

    Raises:
        EngineUnavailable: there is no engine at the usual places, or the address makes no sense.
    """
    try:
        return aiodocker.Docker(url or None, timeout=ANSWER)
    except AssertionError as error:  # aiodocker's way to say that it found no socket
        raise EngineUnavailable("no container engine found: run `make engine`, or set DOCKER_HOST") from error
    except (DockerError, ValueError, OSError) as error:
        raise EngineUnavailable(
            f"cannot use the container engine at {url or 'the default address'}: {error}"
        ) from error


async def endpoint(docker: aiodocker.Docker, path: str) -> str:
    """Return the URL of a request that aiodocker has no method for. Raises as aiodocker does."""
    if docker.api_version == "auto":
        await docker.version()  # agrees on one
    return f"{docker.docker_host}/{docker.api_version}/{path}"


async def request(docker: aiodocker.Docker, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the engine what aiodocker has no (typed) method for. Raises as aiodocker does."""
    url = await endpoint(docker, path)
    async with docker.session.request(method, url, json=body, timeout=ANSWER) as response:
        answer = None if response.status == _NO_CONTENT else await response.json()
        if not response.ok:
            raise DockerError(response.status, (answer or {}).get("message", ""))
        return answer


class _Progress(msgspec.Struct):
    """One line of what the engine tells during a pull."""

    error: str = ""


async def pull(docker: aiodocker.Docker, image: str, credentials: Credentials | None) -> None:
    """Have the engine fetch an image; a name without a tag means `latest`.

    Raises:
        ImageMissing: the registry does not have it, or not for these credentials.
        RuntimeFailure: the registry cannot be reached, or says nothing for too long.
    """
    has_tag = "@" in image or ":" in image.rpartition("/")[2]
    params = {"fromImage": image} if has_tag else {"fromImage": image, "tag": "latest"}
    headers = {}
    if credentials is not None:
        told = {"username": credentials.username, "password": credentials.password}
        headers["X-Registry-Auth"] = base64.urlsafe_b64encode(msgspec.json.encode(told)).decode()
    with our_errors(f"pull {image}"):
        try:
            await _pull(docker, params, headers)
        except TimeoutError:
            raise RuntimeFailure(
                f"cannot pull {image}: the registry says nothing for {PULL_SILENCE_S:g} s", code="image.pull_failed"
            ) from None
        except DockerError as error:
            if error.status != _NO_CONNECTION and _NOT_THERE.search(error.message):
                raise ImageMissing(f"cannot pull {image}: {error.message.strip()}", image=image) from error
            raise


async def _pull(docker: aiodocker.Docker, params: dict[str, str], headers: dict[str, str]) -> None:
    """Follow a pull to its end. Raises TimeoutError when nothing is told for too long."""
    url, loop = await endpoint(docker, "images/create"), asyncio.get_running_loop()
    async with asyncio.timeout(PULL_SILENCE_S) as silence:
        async with docker.session.post(url, params=params, headers=headers, timeout=ENDLESS) as response:
            if not response.ok:
                raise DockerError(response.status, (await response.json())["message"])
            async for line in response.content:
                silence.reschedule(loop.time() + PULL_SILENCE_S)
                if line.strip() and (text := msgspec.json.decode(line, type=_Progress).error):
                    raise DockerError(500, text)


@contextlib.contextmanager
def our_errors(
    doing: str, *, refused: type[RuntimeFailure] = RuntimeFailure, image: str | None = None
) -> Iterator[None]:
    """Translate what goes wrong inside.

    Args:
        doing: For the message: "cannot {doing}: reason".
        refused: What an error status of the engine becomes.
        image: The image the request depends on, where it does.
    """
    try:
        yield
    except DockerError as error:
        raise _refusal(error, doing, refused, image) from error
    except tuple(kind for kind, _, _ in _LIBRARY_ERRORS) as error:
        ours, text = next((ours, text) for kind, ours, text in _LIBRARY_ERRORS if isinstance(error, kind))
        raise ours(f"cannot {doing}: {text}" + (f" ({error})" if str(error) else "")) from error


def _refusal(error: DockerError, doing: str, refused: type[RuntimeFailure], image: str | None) -> RuntimeFailure:
    if error.status == _NO_CONNECTION:
        return EngineUnavailable(f"cannot {doing}: {error.message}")
    if image is not None and _NO_SUCH_IMAGE.search(error.message):
        return ImageMissing(
            f"the engine has no image {image}: images of ours are built by `make images`, others fetched with "
            f"`docker pull {image}`; sandlot itself never pulls",
            image=image,
        )
    return refused(f"cannot {doing}: {error.message.strip()}", status=error.status)
