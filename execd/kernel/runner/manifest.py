"""The languages that an image declares, in one manifest (`/etc/sandlot/kernels/*.toml`) each. See runner-protocol.md.

A wrong manifest never stops execd: a client that asks for the language is told what is wrong.
"""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from execd.errors import ExecdError
from execd.launch.declared import SUFFIX, Wrong, convert, files_of, line_of, read
from execd.launch.environment import is_variable

MAX_NAME_LENGTH = 64
INTERRUPTS = ("signal", "message")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest of one language. Names are in lower case."""

    language: str
    command: tuple[str, ...] = ()  # argv of the runner, or of the zygote; found through the sandbox's PATH
    aliases: tuple[str, ...] = ()
    zygote: bool = False  # start the command once, and have it fork a runner for each context
    eager: bool = False  # make the language ready while the container waits in a pool (`context.prepare`)
    spare: bool = False  # keep one runner ready for the next context
    preload: tuple[str, ...] = ()  # what the runner loads beforehand, in its own terms
    preload_mib: Annotated[int, msgspec.Meta(ge=0)] = 0  # the memory that this takes; not loaded where less is free
    env: dict[str, str] = {}  # variables of the runner; those of the sandbox win
    fork: bool = False  # the runner can copy itself: it knows the operation `fork`
    interrupt: str = "signal"  # how a run is interrupted: by SIGINT to the process group, or by a message only
    unavailable: str = ""  # why the image cannot run this language; every other key is then ignored
    check: tuple[str, ...] = ()  # code for `sandlot images check`, and what its output or value must contain


class Languages:
    """The languages that `load()` has found by name and alias, and the problems of the other manifests."""

    def __init__(self, manifests: dict[str, Manifest], problems: dict[str, str]) -> None:
        self._manifests = manifests  # by language
        self._names = {name: one for one in manifests.values() for name in (one.language, *one.aliases)}
        self.problems = problems  # language → its problem; the file name without suffix if the language is unknown

    def with_builtin(self, manifest: Manifest) -> Languages:
        """Return these languages and one that execd brings, unless the image declares that language itself."""
        if manifest.language in self._names or manifest.language in self.problems:
            return self
        return Languages({**self._manifests, manifest.language: manifest}, self.problems)

    @property
    def manifests(self) -> list[Manifest]:
        """The manifests without a problem."""
        return list(self._manifests.values())

    def find(self, name: str) -> Manifest:
        """Return a language by its name or an alias, in upper or lower case.

        Raises:
            ExecdError: `context.unsupported`. The message says why, or which languages the image has.
        """
        name = name.lower()
        if manifest := self._names.get(name):
            return manifest
        if problem := self.problems.get(name):
            raise ExecdError("context.unsupported", f"this image cannot run {name}: {problem}")
        known = ", ".join(sorted(self._manifests))
        has = f"it has {known}" if known else "it declares no language"
        raise ExecdError("context.unsupported", f"this image does not support {name[:MAX_NAME_LENGTH]!r}: {has}")


def load(directory: str) -> Languages:
    """Read all manifests of a directory, in the order of their names. A missing directory has none."""
    manifests: dict[str, Manifest] = {}
    problems: dict[str, str] = {}
    taken: dict[str, str] = {}  # name or alias → the file that declares it
    for name in files_of(directory):
        path = os.path.join(directory, name)
        language = name.removesuffix(SUFFIX).lower()
        try:
            text, content = read(path)
        except Wrong as wrong:
            problems[language] = f"{path}: {wrong}"
            continue
        try:
            if isinstance(declared := content.get("language"), str):
                language = declared.lower()
            manifest = _parse(content)
            _check_free(manifest, taken)
        except Wrong as wrong:
            problems[language] = f"{path}{line_of(text, wrong.key)}: {wrong}"
            continue
        if manifest.unavailable:
            problems |= dict.fromkeys((manifest.language, *manifest.aliases), manifest.unavailable)
            continue
        manifests[manifest.language] = manifest
        taken |= dict.fromkeys((manifest.language, *manifest.aliases), name)
    return Languages(manifests, problems)


def _parse(content: dict[str, object]) -> Manifest:
    manifest = convert(content, Manifest)
    if "command" not in content and not manifest.unavailable:
        raise Wrong("", "object missing required field `command`")
    _check(manifest)
    return msgspec.structs.replace(
        manifest,
        language=manifest.language.lower(),
        aliases=tuple(alias.lower() for alias in manifest.aliases),
    )


def _check_free(manifest: Manifest, taken: dict[str, str]) -> None:
    for key, words in (("language", (manifest.language,)), ("aliases", manifest.aliases)):
        for word in words:
            if word in taken:
                raise Wrong(key, f"{taken[word]} already declares {word!r}")


def _check(manifest: Manifest) -> None:
    for key, words in (("language", (manifest.language,)), ("aliases", manifest.aliases)):
        for word in words:
            if not word or len(word) > MAX_NAME_LENGTH or not word.isprintable() or " " in word:
                raise Wrong(key, f"{word!r} is not a name: expected 1 to {MAX_NAME_LENGTH} characters without spaces")
    if not (manifest.unavailable or (manifest.command and manifest.command[0])):
        raise Wrong("command", "names no program")
    if any("\0" in word for word in manifest.command):
        raise Wrong("command", "contains a NUL byte")
    for name, value in manifest.env.items():
        if not is_variable(name, value):
            raise Wrong("env", f"{name!r} is not a variable: the name is bad, or the value contains a NUL byte")
    for module in manifest.preload:
        if not module or module.split() != [module]:
            raise Wrong("preload", f"{module!r} is empty or contains a space")
    if manifest.interrupt not in INTERRUPTS:
        raise Wrong("interrupt", f"expected one of {', '.join(INTERRUPTS)}, got {manifest.interrupt!r}")
    if len(manifest.check) not in (0, 2):
        raise Wrong("check", "expected two texts: code, and what its output or value must contain")
    if manifest.eager and not (manifest.zygote or manifest.spare):
        raise Wrong("eager", "needs `zygote` or `spare`: otherwise there is nothing to start beforehand")
