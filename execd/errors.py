"""The errors that execd reports to the control plane."""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeGuard, get_args

# Every code with which execd refuses a request or ends a stream. `controlplane/api/edge/problems.py` maps each of them
# to an HTTP status and a public code.
Code: TypeAlias = Literal[
    "request.invalid",  # the request can never succeed in its present form
    "request.unsupported",  # this version of execd does not know the request
    "process.not_found",
    "process.spawn_failed",
    "process.duplicate",
    "file.not_found",
    "file.exists",
    "file.is_directory",
    "file.not_directory",
    "file.not_regular",
    "file.bad_path",
    "file.denied",
    "file.no_space",
    "file.range",
    "file.failed",
    "context.not_found",
    "context.unsupported",
    "context.start_failed",
    "context.refused",  # by its runner, for example because the directory does not exist
    "context.duplicate",
    "context.too_many",
    "context.not_forkable",
    "context.no_answer",
    "context.no_input",
    "session.not_found",
    "session.ended",
    "session.no_job",
    "isolation.unsupported",
    "run.not_found",
    "run.lost",
    "run.taken",  # by another reader
    "run.too_many",
    "run.duplicate",
    "pty.not_found",
    "pty.attached",
    "pty.taken",  # by another client
    "pty.too_many",
    "port.refused",
    "port.timeout",
    "port.failed",
    "stream.abandoned",  # a message was not sent whole; `execd/wire/aio.py` ends the stream
    "internal",  # a defect of execd
]
CODES = frozenset(get_args(Code))


def is_code(text: str) -> TypeGuard[Code]:
    """Return whether a text is one of the codes."""
    return text in CODES


class ExecdError(Exception):
    """A request that was refused or has failed. The stream of the request is reset with the code."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
