"""API keys and sandbox tokens.

API keys are held as SHA-256 hashes (they are long and random, so a slow hash would protect nothing). A sandbox's
token is derived from one secret and the sandbox's id: nothing to store, the same after a restart, no good for another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from controlplane.errors import ConfigError

KEY_FILE = "api-key"
SECRET_FILE = "secret"  # noqa: S105 - the name of a file


class Credentials:
    """Checks keys and tokens, in constant time."""

    def __init__(self, key_hashes: Sequence[bytes], secret: bytes) -> None:
        self._key_hashes = tuple(key_hashes)
        self._secret = secret

    def is_api_key(self, key: str) -> bool:
        """Whether *key* is one of the API keys."""
        digest = hash_key(key)
        # All are compared, so that the time tells nothing about which one matched.
        return bool(sum(hmac.compare_digest(digest, known) for known in self._key_hashes))

    def sandbox_token(self, sandbox_id: str) -> str:
        """Return the token of a sandbox: 43 characters, URL-safe."""
        digest = hmac.digest(self._secret, sandbox_id.encode(errors="replace"), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def is_sandbox_token(self, sandbox_id: str, token: str) -> bool:
        """Whether *token* opens that sandbox."""
        return hmac.compare_digest(self.sandbox_token(sandbox_id).encode(), token.encode(errors="replace"))

    def sign(self, sandbox_id: str, port: str, expires: str) -> str:
        """Return the signature of an address of a port: 26 characters that may stand in a host name."""
        # Ids, ports and times hold no slash, and the sandbox's token is of another form: no text is signed as two.
        digest = hmac.digest(self._secret, f"port/{sandbox_id}/{port}/{expires}".encode(errors="replace"), "sha256")
        return base64.b32encode(digest[:16]).decode().rstrip("=").lower()

    def is_signature(self, sandbox_id: str, port: str, expires: str, signature: str) -> bool:
        """Whether an address was signed by us. Whether it has expired is not looked at."""
        expected = self.sign(sandbox_id, port, expires)
        return hmac.compare_digest(expected.encode(), signature.encode(errors="replace"))


def hash_key(key: str) -> bytes:
    """Return what is kept of an API key."""
    return hashlib.sha256(key.encode(errors="replace")).digest()


def load(state_dir: Path, configured_keys: Sequence[str]) -> tuple[Credentials, str]:
    """Read the keys, making what is missing. Returns also the key that was made just now, or "".

    `api-key` is for the people on this machine (mode 0600); `secret` signs sandbox tokens. One process at a time may
    do this: the lock of the store sees to it.

    Raises:
        ConfigError: a file cannot be read or written, or is empty.
    """
    secret, _ = _read_or_make(state_dir / SECRET_FILE, lambda: secrets.token_hex(32))
    if configured_keys:
        return Credentials([hash_key(key) for key in configured_keys], secret.encode()), ""
    key, made = _read_or_make(state_dir / KEY_FILE, lambda: "sandlot_" + secrets.token_urlsafe(32))
    return Credentials([hash_key(key)], secret.encode()), key if made else ""


def read_api_key(state_dir: Path) -> str:
    """Return the key that the first start made. Raises FileNotFoundError, PermissionError."""
    return (state_dir / KEY_FILE).read_text().strip()


def _read_or_make(path: Path, make: Callable[[], str]) -> tuple[str, bool]:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _write(path, make()), True
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: holds something else than a key; remove it, and a new one is made") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not text:
        # An empty key would be everybody's key, an empty secret everybody's signature.
        raise ConfigError(f"{path}: is empty; remove it, and a new one is made")
    return text, False


def _write(path: Path, text: str) -> str:
    # Whole and on the disk under another name first: a crash at any point leaves no empty key behind.
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
