"""The languages that an image declares: one manifest (`/etc/sandlot/kernels/*.toml`) each. See docs/runner-protocol.md.

A manifest that is wrong never stops execd: whoever asks for that language is told what is wrong with it.
"""

from __future__ import annotations

import os
import re

import msgspec

from execd.errors import ExecdError

SUFFIX = ".toml"
MAX_FILE_BYTES = 64 * 1024
MAX_NAME_LENGTH = 64
INTERRUPTS = ("signal", "message")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One language, as its file says; names are in lower case."""

    language: str
    command: tuple[str, ...]  # argv of its runner, or of its zygote; found through the sandbox's PATH
    aliases: tuple[str, ...] = ()
    zygote: bool = False  # the command is started once and forks a runner for each context
    eager: bool = False  # make it ready while the container waits in a pool (`context.prepare`)
    spare: bool = False  # keep one runner ready for the next context
    preload: tuple[str, ...] = ()  # for the runner to load beforehand, in its own terms
    env: dict[str, str] = {}  # for the runner; the sandbox's variables win
    fork: bool = False  # its runner can copy itself: it knows the operation `fork`
    interrupt: str = "signal"  # how a run is interrupted: SIGINT to the process group, or only a message
    check: tuple[str, ...] = ()  # code for `sandlot images check`, and what its output or value must contain


class Languages:
    """What `load()` found: manifests by name and alias, and what is wrong with the others."""

    def __init__(self, manifests: dict[str, Manifest], problems: dict[str, str]) -> None:
        self._manifests = manifests  # by language
        self._names = {name: one for one in manifests.values() for name in (one.language, *one.aliases)}
        self.problems = problems  # language, or file name without suffix where that is unknown → what is wrong

    def with_builtin(self, manifest: Manifest) -> Languages:
        """Return these, and one more that execd brings itself, unless the image declares that language."""
        if manifest.language in self._names or manifest.language in self.problems:
            return self
        return Languages({**self._manifests, manifest.language: manifest}, self.problems)

    @property
    def manifests(self) -> list[Manifest]:
        """All that are right."""
        return list(self._manifests.values())

    def find(self, name: str) -> Manifest:
        """Return a language by its name or an alias, in upper or lower case.

        Raises:
            ExecdError: `context.unsupported`; the message says why, or what there is.
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
    """Read all manifests of a directory, in the order of their names; a missing directory has none."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX) and not name.startswith("."))
    except OSError:
        return Languages({}, {})
    manifests: dict[str, Manifest] = {}
    problems: dict[str, str] = {}
    taken: dict[str, str] = {}  # name or alias → the file that has it
    for name in names:
        path = os.path.join(directory, name)
        language = name.removesuffix(SUFFIX).lower()
        try:
            text, content = _read(path)
        except _Wrong as wrong:
            problems[language] = f"{path}: {wrong}"
            continue
        try:
            if isinstance(declared := content.get("language"), str):
                language = declared.lower()
            manifest = _parse(content)
            _check_free(manifest, taken)
        except _Wrong as wrong:
            problems[language] = f"{path}{_line_of(text, wrong.key)}: {wrong}"
            continue
        manifests[manifest.language] = manifest
        taken |= dict.fromkeys((manifest.language, *manifest.aliases), name)
    return Languages(manifests, problems)


class _Wrong(Exception):
    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key


def _line_of(text: str, key: str) -> str:
    """Return ":3" when a key stands in the third line; "" when nobody wrote it, which may be what is wrong."""
    name = key.partition("[")[0].partition(".")[0]
    # `name = …`, `"name" = …`, `name.more = …`, `[name]`, `[name.more]`
    written = re.compile(rf"""\s*(\[\[?\s*)?(["']?){re.escape(name)}\2\s*[.=\]]""")
    for number, line in enumerate(text.splitlines(), 1):
        if name and written.match(line):
            return f":{number}"
    return ""


def _read(path: str) -> tuple[str, dict[str, object]]:
    import tomllib  # noqa: PLC0415 (an image without languages never needs it)

    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise _Wrong("", f"larger than {MAX_FILE_BYTES} bytes")
        text = data.decode()
        return text, tomllib.loads(text)
    except OSError as error:
        raise _Wrong("", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Wrong("", f"not UTF-8: {error.reason} at byte {error.start} (at line {line})") from error
    except tomllib.TOMLDecodeError as error:
        end = f"at line {len(text.splitlines())}, the last one"
        raise _Wrong("", f"not TOML: {error}".replace("at end of document", end)) from error


def _parse(content: dict[str, object]) -> Manifest:
    try:
        manifest = msgspec.convert(content, Manifest)
    except msgspec.ValidationError as error:
        # msgspec says "Expected `str`, got `int` - at `$.command[0]`".
        problem, _, place = str(error).partition(" - at `$.")
        unknown = _UNKNOWN.match(problem)
        key = unknown[1] if unknown and not place else place.removesuffix("`")
        raise _Wrong(key, problem[0].lower() + problem[1:]) from error
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
                raise _Wrong(key, f"{taken[word]} has {word!r} already")


def _check(manifest: Manifest) -> None:
    for key, words in (("language", (manifest.language,)), ("aliases", manifest.aliases)):
        for word in words:
            if not word or len(word) > MAX_NAME_LENGTH or not word.isprintable() or " " in word:
                raise _Wrong(key, f"{word!r} is no name: 1 to {MAX_NAME_LENGTH} characters without spaces")
    if not manifest.command or not manifest.command[0]:
        raise _Wrong("command", "names no program")
    if any("\0" in word for word in manifest.command):
        raise _Wrong("command", "contains a NUL byte")
    for name, value in manifest.env.items():
        if not name or "=" in name or "\0" in name + value:
            raise _Wrong("env", f"{name!r} is no variable: a bad name, or a NUL byte in its value")
    for module in manifest.preload:
        if not module or module.split() != [module]:
            raise _Wrong("preload", f"{module!r} is empty or contains a space")
    if manifest.interrupt not in INTERRUPTS:
        raise _Wrong("interrupt", f"expected one of {', '.join(INTERRUPTS)}, got {manifest.interrupt!r}")
    if len(manifest.check) not in (0, 2):
        raise _Wrong("check", "expected two texts: code, and what its output or value must contain")
    if manifest.eager and not (manifest.zygote or manifest.spare):
        raise _Wrong("eager", "needs `zygote` or `spare`: there is nothing to start beforehand")
