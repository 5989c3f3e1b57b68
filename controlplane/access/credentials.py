"""Sandbox tokens and signatures, and the API key of the first start. `keys.py` has all other keys.

A sandbox's token is derived from one secret and the sandbox's id. The server need not store the token, computes the
same one after a restart, and accepts it for no other sandbox.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from controlplane.errors import ConfigError

KEY_FILE = "api-key"
SECRET_FILE = "secret"  # noqa: S105 - the name of a file
SIGNATURE_CHARS = 16  # base32 digits: 80 bits, and a signed host name keeps within 63 characters


class Credentials:
    """The secret that makes and checks tokens and signatures, in constant time."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sandbox_token(self, sandbox_id: str) -> str:
        """Return the token of a sandbox: 43 characters, URL-safe."""
        digest = hmac.digest(self._secret, sandbox_id.encode(errors="replace"), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def is_sandbox_token(self, sandbox_id: str, token: str) -> bool:
        """Return whether *token* is the token of that sandbox."""
        return hmac.compare_digest(self.sandbox_token(sandbox_id).encode(), token.encode(errors="replace"))

    def sign(self, sandbox_id: str, port: str, expires: str) -> str:
        """Return the signature of a port's address: 16 characters (80 bits) that a host name may contain."""
        return self._signature(sandbox_id, port, expires)[:SIGNATURE_CHARS]

    def _signature(self, sandbox_id: str, port: str, expires: str) -> str:
        # Ids, ports and times hold no slash, and the sandbox's token is of another form: no text is signed as two.
        digest = hmac.digest(self._secret, f"port/{sandbox_id}/{port}/{expires}".encode(errors="replace"), "sha256")
        return base64.b32encode(digest[:16]).decode().rstrip("=").lower()

    def is_signature(self, sandbox_id: str, port: str, expires: str, signature: str) -> bool:
        """Return whether this server has signed an address. The expiry is not checked."""
        expected = self._signature(sandbox_id, port, expires)
        if len(signature) != len(expected):  # earlier releases gave out all 26 characters
            expected = expected[:SIGNATURE_CHARS]
        return hmac.compare_digest(expected.encode(), signature.encode(errors="replace"))


def load(state_dir: Path) -> Credentials:
    """Read the secret, or create it in a file of mode 0600.

    Call this under the lock of the store: one process at a time may create the secret.

    Raises:
        ConfigError: the file cannot be read or written, or is empty.
    """
    secret, _ = _read_or_make(state_dir / SECRET_FILE, lambda: secrets.token_hex(32))
    return Credentials(secret.encode())


def first_key(state_dir: Path) -> tuple[str, bool]:
    """Return the API key of the first start, and whether this call created it. Raises ConfigError, as `load` does."""
    return _read_or_make(state_dir / KEY_FILE, lambda: "sandlot_" + secrets.token_urlsafe(32))


def read_api_key(state_dir: Path) -> str:
    """Return the key that the first start created. Raises FileNotFoundError, PermissionError."""
    return (state_dir / KEY_FILE).read_text().strip()


def _read_or_make(path: Path, make: Callable[[], str]) -> tuple[str, bool]:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _write(path, make()), True
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: does not contain a key; remove it, and the server creates a new one") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not text:
        # Any client could use an empty key, and forge signatures with an empty secret.
        raise ConfigError(f"{path}: is empty; remove it, and the server creates a new one")
    return text, False


def _write(path: Path, text: str) -> str:
    # The file gets its name when it is complete on the disk: a crash at any point leaves no empty key behind.
    temporary = path.with_suffix(".new")
    try:
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    return text
