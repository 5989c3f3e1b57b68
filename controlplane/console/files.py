"""The built pages of the console, in `dist`: which files there are, and what browsers must know of each.

Nothing here follows a path that a client sends: a name is looked up in the list of the files.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

DIST = Path(__file__).parent / "dist"
INDEX = "index.html"
ASSETS = "assets/"  # their names change with their contents
PACKED = ".gz"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".wasm": "application/wasm",
}


class PageFile(msgspec.Struct, frozen=True):
    """One file, as it is sent."""

    path: Path
    media_type: str
    is_packed: bool  # with gzip
    is_asset: bool  # never changes under its name

    def read(self) -> bytes:
        """Return the contents. Raises OSError: the file has gone."""
        return self.path.read_bytes()


class PageFiles:
    """The files below a folder. The folder may come, and may be built anew, while the server runs."""

    def __init__(self, dist: Path = DIST) -> None:
        self._dist = dist
        self._state: tuple[int, int] | None = None  # of the index when the list was made
        self._names: frozenset[str] = frozenset()

    def find(self, name: str, *, packed: bool) -> PageFile | None:
        """Return the file of that name; the index for a name that is none, because pages have names of their own.

        Args:
            name: Path below `/console/`.
            packed: The client takes gzip.

        Returns:
            None: there is no such asset, or nothing was built.
        """
        self._look()
        if not self._names:
            return None
        is_asset = name.startswith(ASSETS)
        if name not in self._names or name.endswith(PACKED):
            if is_asset:
                return None
            name = INDEX
        is_packed = packed and name + PACKED in self._names
        return PageFile(
            path=self._dist / (name + PACKED if is_packed else name),
            media_type=_TYPES.get(os.path.splitext(name)[1], "application/octet-stream"),
            is_packed=is_packed,
            is_asset=is_asset,
        )

    @property
    def are_built(self) -> bool:
        """Whether there are pages."""
        self._look()
        return bool(self._names)

    def _look(self) -> None:
        """List the files again if the index, which is written last, is another one."""
        try:
            status = (self._dist / INDEX).stat()
        except OSError:
            self._state, self._names = None, frozenset()
            return
        if (state := (status.st_mtime_ns, status.st_ino)) != self._state:
            files = (path for path in self._dist.rglob("[!.]*") if path.is_file() and not path.is_symlink())
            self._names = frozenset(path.relative_to(self._dist).as_posix() for path in files)
            self._state = state
