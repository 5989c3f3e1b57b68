"""The connection to a Docker engine, and its errors in our words. Nothing of aiodocker or aiohttp gets past here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import aiodocker
import aiohttp
from aiodocker import DockerError

from controlplane.errors import EngineUnavailable, ImageMissing, OutOfMemory, RuntimeFailure, StartFailed

CONNECT_TIMEOUT_S = 5.0
# A start takes 0.3 s, and 20 s behind a hundred others on two slow cores. An engine silent for longer hangs.
ANSWER_TIMEOUT_S = 120.0

ANSWER = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
SOON = aiohttp.ClientTimeout(total=5.0, sock_connect=CONNECT_TIMEOUT_S)
ENDLESS = aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S)

_NO_CONTENT = 204
NOT_FOUND, CONFLICT = 404, 409
NO_CONNECTION = 900  # aiodocker's own "status" for this
_NO_SUCH_IMAGE = re.compile(r"no such image|invalid reference format", re.IGNORECASE)

_TOO_LITTLE_MEMORY = re.compile(r"oom-killed|out of memory|memory limit too low", re.IGNORECASE)
# Reasons of engines and of runc, and what they mean; the first match counts.
_REASONS = tuple(
    (re.compile(pattern, re.IGNORECASE), ours)
    for pattern, ours in (
        (_TOO_LITTLE_MEMORY.pattern, "it ran out of memory"),
        (r"no space left|disk quota exceeded", "no space is left on the container engine's disk"),
        (r"unable to set memory limit", "it uses more memory than that"),
        (
            r"unable to (freeze|thaw)|resource busy|temporarily unavailable",
            "the container engine is too busy; try again",
        ),
        (r"no such container|is not running|is paused|already paused|is not paused", "it is in no state for that"),
        (r"too many open files|cannot allocate memory", "the container engine's machine has reached a limit"),
    )
)
_REFUSED = "the container engine refused; its reason is in the server's log"

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
        public = f"cannot {doing}: {text}"
        raise ours(public + (f" ({error})" if str(error) else ""), public=public) from error


def _refusal(error: DockerError, doing: str, refused: type[RuntimeFailure], image: str | None) -> RuntimeFailure:
    if error.status == NO_CONNECTION:
        public = f"cannot {doing}: the container engine cannot be reached"
        return EngineUnavailable(f"cannot {doing}: {error.message}", public=public)
    if image is not None and _NO_SUCH_IMAGE.search(error.message):
        return ImageMissing(
            f"the engine has no image {image}: `make images` builds those under sandlot/, "
            f"`docker pull {image}` fetches those of others",
            image=image,
        )
    if refused is StartFailed and _TOO_LITTLE_MEMORY.search(error.message):
        refused = OutOfMemory
    return refused(
        f"cannot {doing}: {error.message.strip()}",
        public=f"cannot {doing}: {_in_our_words(error.message)}",
        status=error.status,
    )


def _in_our_words(reason: str) -> str:
    """Return what an engine's reason means, for those who may not know its host."""
    return next((ours for pattern, ours in _REASONS if pattern.search(reason)), _REFUSED)
