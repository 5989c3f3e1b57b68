"""`/specs`: the specifications of this server, as they are in `specs/` of a clone, and in the wheel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import json_answer
from controlplane.api.server.schema import SpecList, SpecView
from controlplane.errors import NotFound

_CLONE = Path(__file__).parents[3] / "specs"
_MEDIA = {".yaml": "text/plain", ".json": "application/json"}  # a browser shows both
_TITLE = re.compile(r"^  title: (.+)$", re.MULTILINE)


class Specs:
    """The endpoints."""

    async def list(self, _: Request) -> Response:
        """List the specifications of this server."""
        return json_answer(SpecList(await asyncio.to_thread(_views)))

    async def get(self, request: Request) -> Response:
        """Return a specification, as YAML or JSON."""
        name = request.path_params["name"]
        path = next((path for path in files() if path.name == name), None)
        if path is None:
            raise NotFound(f"there is no specification {name[:100]}: GET /v1/specs lists them", code="spec.not_found")
        return Response(await asyncio.to_thread(path.read_bytes), media_type=_MEDIA[path.suffix])


def files() -> list[Path]:
    """Return the paths of all specifications: those of the clone, or those that were installed with the wheel."""
    is_clone = (_CLONE / "generate").is_dir()  # beside an installed package, there may be anything
    found = _CLONE.iterdir() if is_clone else _installed()
    return sorted(path for path in found if path.suffix in _MEDIA)


def _installed() -> Iterator[Path]:
    for each in metadata.files("sandlot") or ():
        if each.parent.as_posix().endswith("share/sandlot/specs"):
            yield Path(str(each.locate()))


def _views() -> list[SpecView]:
    return [SpecView(path.name, _title(path), path.stat().st_size) for path in files()]


def _title(path: Path) -> str:
    """Return the title of a document, as the head of its YAML has it; its name if it has none."""
    match = _TITLE.search(path.read_text()[:4096])
    return match[1].strip("\"'") if match else path.stem
