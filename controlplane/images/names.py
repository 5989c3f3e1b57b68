"""Names of images: their parts, and the aliases by which callers name Sandlot's images.

The grammar is that of the distribution project: `[registry/]path[:tag][@digest]`, where the first part is a registry if
it has a dot or a colon in it, or is `localhost`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

REPOSITORY = "sandlot"
# Sandlot builds these images itself. It never pulls them, since a stranger may own the name.
OUR_IMAGES = f"{REPOSITORY}/"

# Names of the default registry.
_DEFAULT_REGISTRIES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
# The default registry keeps images without an organisation under this one.
_NO_ORGANISATION = "library/"
# Engines take such a text for the id of an image, or the beginning of one, if no image has this name.
_ID = re.compile(r"[0-9a-f]{1,64}")
_ID_ALGORITHM = "sha256"
_ID_DIGITS = 64


def with_tag(name: str) -> str:
    """Return a name as engines list it: without a tag and a digest, the tag is `latest`."""
    return name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"


class ImageName(NamedTuple):
    """The parts of a name; each but `path` may be empty."""

    registry: str  # host, or host:port; empty for the default registry
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """The name without tag and digest."""
        return f"{self.registry}/{self.path}" if self.registry else self.path


def parse_image_name(text: str) -> ImageName:
    """Return the parts of a name, without the default registry. No text is refused."""
    name, _, digest = text.partition("@")
    registry, path = _split_registry(name)
    head, colon, tag = path.rpartition(":")
    if not colon:
        head, tag = path, ""
    if registry in _DEFAULT_REGISTRIES:
        registry, head = "", head.removeprefix(_NO_ORGANISATION)
    return ImageName(registry, head, tag, digest)


def without_id(text: str) -> str:
    """Return a form of the name that no engine takes for the id of an image; "" if the text can only be an id.

    Engines take hexadecimal digits for the beginning of an id, but not if a tag follows.
    """
    if parse_image_name(text).path == _ID_ALGORITHM or (len(text) == _ID_DIGITS and _ID.fullmatch(text)):
        return ""
    return f"{text}:latest" if _ID.fullmatch(text) else text


def resolve_alias(text: str, aliases: Mapping[str, str], *, any_registry: bool) -> str:
    """Return the image that an alias stands for, or *text* if no alias matches.

    An alias with a tag matches that tag only, and one without a tag every tag and digest. With *any_registry*, an alias
    with a slash and without a registry also matches a path that ends with the alias, in every other registry.
    """
    asked = parse_image_name(text)
    general = ""
    for alias, target in aliases.items():
        known = parse_image_name(alias)
        if known.tag and known.tag != asked.tag:
            continue
        if known.repository == asked.repository:
            if known.tag:
                return target
            general = target
        elif not general and any_registry and _is_copy(asked, known):
            general = target
    return general or text


def nearest_image(text: str, known: Iterable[str]) -> str:
    """Return the known image whose name is nearest to *text*, without tags; "" if none is close, or it is equal."""
    asked = parse_image_name(text)
    names = {parse_image_name(name).repository: name for name in known}
    if asked.repository in names:
        return ""
    close = difflib.get_close_matches(asked.repository, names, n=1, cutoff=0.8)
    if not close:  # another organisation, or none
        by_last = {name.rpartition("/")[2]: name for name in names}
        close = [by_last[last] for last in difflib.get_close_matches(_last(asked), by_last, n=1, cutoff=0.8)]
    return names[close[0]] if close else ""


def _last(name: ImageName) -> str:
    return name.path.rpartition("/")[2]


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return "", name


def _is_copy(asked: ImageName, known: ImageName) -> bool:
    """Return whether *asked* is the image *known* in another registry, perhaps below a project there."""
    if not asked.registry or known.registry or "/" not in known.path:
        return False
    return f"/{asked.path}".endswith(f"/{known.path}")
