"""What can be wrong with the answer of a server."""

from __future__ import annotations

from controlplane.errors import ConfigError, SandlotError


class NoAnswer(ConfigError):
    """No Sandlot server answers at the address."""


class Refused(SandlotError):
    """The server refused the request. `status` is HTTP's; `said` is the server's own message."""

    def __init__(self, address: str, status: int, code: str, said: str) -> None:
        super().__init__(f"{address} answers {status}: {said}", code=code)
        self.status = status
        self.said = said
