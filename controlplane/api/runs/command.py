"""The request that starts a command, made of what a client of any contract asks for."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from controlplane.api.edge.parameters import clean_env, no_nul
from controlplane.errors import InvalidRequest
from execd.wire.messages import ProcessStart


def process_start(
    *,
    shell: str | None,
    argv: Sequence[str] | None,
    env: dict[str, str | None] | None,
    cwd: str | None,
    uid: int | None,
    gid: int | None,
    timeout_s: float | None,
    background: bool = False,
    stdin: bool = False,
) -> ProcessStart:
    """Return what to ask of execd. Raises InvalidRequest for what cannot be asked."""
    if (shell is None) == (argv is None):
        raise _invalid("exactly one of command and argv must be given")
    for argument in (shell,) if shell is not None else argv or ("",):
        no_nul(argument, "command")
    if not (shell if shell is not None else (argv or ("",))[0]).strip():
        raise _invalid("command: must not be empty")
    if gid is not None and uid is None:
        raise _invalid("gid: needs uid as well")
    no_nul(cwd or "", "cwd")
    return ProcessStart(
        id=uuid.uuid4().hex,
        argv=tuple(argv or ()),
        shell=shell or "",
        env=clean_env(env, "envs"),
        cwd=cwd or "",
        uid=uid,
        gid=gid,
        timeout_s=timeout_s,
        background=background,
        stdin=stdin,
    )


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="request.body")
