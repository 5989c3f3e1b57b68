"""The claim: a warm container becomes one sandbox's."""

from __future__ import annotations

import asyncio

from controlplane.errors import AgentError, InvalidRequest, LinkLost, SandlotError, StartFailed
from controlplane.link.link import Link
from controlplane.link.stream import Stream
from controlplane.sandbox import Sandbox
from execd.wire.messages import SandboxClaim, SandboxClaimed

# execd answers within a millisecond, on a machine that is overloaded within a second.
CLAIM_TIMEOUT_S = 15.0


async def claim(sandbox: Sandbox, link: Link | None, *, max_contexts: int, max_output_bytes: int) -> Stream:
    """Bind the identity and start the entrypoint; after a restart of ours, find the same entrypoint again.

    Returns the stream on which execd tells how the entrypoint ends. Cancelled or failed, no stream is left.

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
        max_contexts=max_contexts,
        max_output_bytes=max_output_bytes,
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


def _refusal(error: AgentError) -> SandlotError:
    """What execd's refusal is to the caller: all that a claim holds came from there."""
    if error.code == "process.spawn_failed":
        return InvalidRequest(f"the entrypoint cannot be executed: {error.message}", code="sandbox.invalid_entrypoint")
    if error.code == "request.invalid":
        return InvalidRequest(error.message)
    return error
