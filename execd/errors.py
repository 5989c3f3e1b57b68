"""What execd tells the control plane when a request cannot be done.

ExecdError carries a stable `code`; the stream is reset with it.

    request.invalid            the request can never succeed as it stands
    process.not_found          process.spawn_failed      process.duplicate
    file.not_found             file.exists               file.is_directory      file.not_directory
    file.not_regular           file.bad_path             file.denied            file.no_space
    file.range                 file.failed
    context.not_found          context.unsupported       context.start_failed   context.duplicate
    context.too_many           context.not_forkable     context.no_answer       context.no_input
    context.refused            by its runner, which cannot be in that directory, for one
    session.not_found
    pty.not_found              pty.attached             pty.taken               pty.too_many
    port.refused               port.timeout             port.failed
    internal                   a bug in execd
"""

from __future__ import annotations


class ExecdError(Exception):
    """A request that was refused or failed; `code` is one of those above."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
