"""Answers of the listener itself, for requests that do not reach the application."""

from __future__ import annotations

import secrets
from http import HTTPStatus

import msgspec


class Refusal(Exception):
    """A refusal of a request: an answer after which the connection ends."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def answer(self, request_id: str = "") -> bytes:
        """Return the whole response."""
        body = msgspec.json.encode({"code": self.code, "message": self.message})
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"X-Request-ID: {request_id or secrets.token_hex(16)}",
            "Connection: close",
            *([f"Retry-After: {self.retry_after_s}"] if self.retry_after_s else []),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
