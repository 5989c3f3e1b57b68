"""Entrypoints of sandboxes: a claim starts the entrypoint, and the end of the entrypoint is the end of the sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import shlex

import msgspec

from controlplane.errors import AgentError, InvalidRequest, LinkLost, SandlotError, StartFailed
from controlplane.lifecycle.endings import Endings
from controlplane.lifecycle.records.registry import Registry
from controlplane.lifecycle.records.states import CLAIMED
from controlplane.link.directory import Directory
from controlplane.link.link import Link, read_output
from controlplane.link.stream import Stream
from controlplane.sandbox import AGENT_FAILED, CLAIM_REFUSED, EXITED, EXITED_ERROR, Sandbox
from controlplane.tasks import Background
from execd.wire.messages import ENTRYPOINT_ID, ProcessExited, SandboxClaim, SandboxClaimed

# execd answers within a millisecond, and within seconds on an overloaded machine. The link tells when execd dies; this
# bound is for an execd that hangs.
CLAIM_TIMEOUT_S = 60.0
# So much of the output of an ended entrypoint is kept, and its agent may take so long to send the output.
KEPT_OUTPUT_BYTES = 64 << 10
OUTPUT_TIMEOUT_S = 2.0
# The activity takes at most this share of a sandbox's memory, and has at least so many bytes.
SHARE_OF_ACTIVITY = 32
LEAST_ACTIVITY_BYTES = 64 << 10
# So much of the last line of an entrypoint goes into a status.
MAX_LINE_CHARS = 200


class ClaimBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings allow in each sandbox; execd keeps these bounds."""

    max_contexts: int
    max_output_bytes: int
    max_recorded_bytes: int
    activity: str = ""  # off | outline | full
    max_activity_entries: int = 0
    max_activity_bytes: int = 0


class Entrypoints:
    """Starts the entrypoints of sandboxes and follows them: the end of an entrypoint is the end of its sandbox."""

    def __init__(
        self,
        registry: Registry,
        directory: Directory,
        endings: Endings,
        background: Background,
        bounds: ClaimBounds,
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._endings = endings
        self._background = background
        self._bounds = bounds

    async def claim(self, sandbox: Sandbox) -> Stream:
        """Claim the container of a sandbox; return the stream to `follow`. Errors as in the function `claim`."""
        return await claim(sandbox, self._directory.get(sandbox.id), self._bounds)

    def follow(self, sandbox_id: str, stream: Stream) -> None:
        """Wait in the background for the end of an entrypoint, on the stream of its claim."""
        self._background.start(self._follow(sandbox_id, stream), name="sandbox.follow")

    def follow_again(self, sandbox: Sandbox, link: Link) -> None:
        """Follow the entrypoint of a claimed sandbox in the background, on a link that came back."""
        self._background.start(self._follow_again(sandbox, link), name="sandbox.follow")

    async def _follow_again(self, sandbox: Sandbox, link: Link) -> None:
        try:
            stream = await claim(sandbox, link, self._bounds)
        except LinkLost:
            pass  # the entrypoint is followed on the next link
        except SandlotError as error:
            self._endings.fail(sandbox.id, CLAIM_REFUSED, error.message)
        else:
            await self._follow(sandbox.id, stream)

    async def _follow(self, sandbox_id: str, stream: Stream) -> None:
        async with stream:
            try:
                exited = await stream.expect(ProcessExited)
                output = await self._keep_output(sandbox_id)
            except LinkLost:
                return  # the entrypoint is followed on the next link
            except AgentError as error:
                self._endings.fail(sandbox_id, AGENT_FAILED, error.message)
                return
        sandbox = self._registry.find(sandbox_id)
        if sandbox is None or sandbox.state not in CLAIMED:
            return
        text = f"the entrypoint ended: {exited.cause}, exit code {exited.exit_code}"
        if exited.exit_code == 0:
            self._endings.stop(sandbox_id, reason=EXITED, message=text)
        else:
            self._endings.fail(sandbox_id, EXITED_ERROR, text, said=_last_line(output))

    async def _keep_output(self, sandbox_id: str) -> bytes:
        """Keep the last output of an entrypoint and return it: clients ask for it when the container is gone."""
        output = b""
        link = self._directory.get(sandbox_id)
        with contextlib.suppress(SandlotError, TimeoutError):
            async with asyncio.timeout(OUTPUT_TIMEOUT_S):
                if link is not None:
                    output, end = await read_output(link, ENTRYPOINT_ID)
                    self._registry.journal.keep_output(sandbox_id, output[-KEPT_OUTPUT_BYTES:], end)
        return output


async def claim(sandbox: Sandbox, link: Link | None, bounds: ClaimBounds) -> Stream:
    """Bind the identity and start the entrypoint; after a restart of ours, find the same entrypoint again.

    Return the stream on which execd tells how the entrypoint ends. Cancelled or failed, this leaves no stream behind.

    Raises:
        InvalidRequest: the entrypoint cannot be executed.
        StartFailed: execd does not answer.
        LinkLost: there is no link (any more).
        AgentError: execd failed.
    """
    if link is None:
        raise LinkLost(f"the agent of sandbox {sandbox.id} is not connected")
    request = SandboxClaim(
        id=sandbox.id,
        env=sandbox.spec.env,
        entrypoint=sandbox.spec.entrypoint,
        max_contexts=bounds.max_contexts,
        max_output_bytes=bounds.max_output_bytes,
        max_recorded_bytes=bounds.max_recorded_bytes,
        activity=bounds.activity,
        max_activity_entries=bounds.max_activity_entries,
        max_activity_bytes=_activity_bytes(sandbox, bounds.max_activity_bytes),
    )
    stream = await link.open(request)
    try:
        async with asyncio.timeout(CLAIM_TIMEOUT_S):
            await stream.expect(SandboxClaimed)
    except TimeoutError:
        stream.close()
        raise StartFailed(f"the agent did not take the claim within {CLAIM_TIMEOUT_S:g} s") from None
    except AgentError as error:
        stream.close()
        raise _refusal(error) from error
    except BaseException:
        stream.close()
        raise
    return stream


def _activity_bytes(sandbox: Sandbox, most: int) -> int:
    """Return how much memory the activity of a sandbox may use: little of a small sandbox."""
    memory = sandbox.spec.limits.memory_bytes
    return min(most, max(memory // SHARE_OF_ACTIVITY, LEAST_ACTIVITY_BYTES)) if memory else most


def split_entrypoint(entrypoint: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words that a shell would make of an entrypoint that is one item; other entrypoints as they are."""
    if len(entrypoint) != 1:
        return entrypoint
    try:
        return tuple(shlex.split(entrypoint[0])) or entrypoint
    except ValueError:  # a quote without its other half
        return entrypoint


def _refusal(error: AgentError) -> SandlotError:
    """Return execd's refusal as the caller's mistake where it is one: all that a claim holds came from the caller."""
    if error.code == "process.spawn_failed":
        return InvalidRequest(f"the entrypoint cannot be executed: {error.message}", code="sandbox.invalid_entrypoint")
    if error.code == "request.invalid":
        return InvalidRequest(error.message)
    return error


def _last_line(output: bytes) -> str:
    """Return the last line that is not blank, without the characters that a terminal would take for commands."""
    lines = [line for line in output[-KEPT_OUTPUT_BYTES:].decode(errors="replace").splitlines() if line.strip()]
    return "".join(filter(str.isprintable, lines[-1]))[:MAX_LINE_CHARS] if lines else ""
