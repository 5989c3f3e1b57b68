"""The versions of a language or tool that a variable of the sandbox chooses: docs/extending-images.md.

An image declares them in files `/etc/sandlot/versions/*.toml`. A wrong file, or a version that does not exist, never
prevents a sandbox: the default is used, and a notice says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from execd.launch.declared import Wrong, convert, files_of, line_of, read
from execd.launch.environment import Choice, is_variable

MAX_ASKED_CHARS = 100  # of the value of a variable, in a notice


class Version(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the sandbox gets if this version is chosen."""

    path: str = ""  # absolute: a directory that PATH begins with
    env: dict[str, str] = {}  # override the image's variables; the sandbox's own variables override these
    commands: dict[str, tuple[str, ...]] = {}  # language → the command of its runner, instead of the manifest's


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file."""

    variable: str  # by which the sandbox chooses, such as PYTHON_VERSION
    default: str  # one of `versions`
    versions: dict[str, Version]  # name → what the version sets
    languages: tuple[str, ...] = ()  # their contexts run in the chosen version

    def match(self, asked: str) -> str:
        """Return the version that is asked for, or "". "3.11.9", "v3.11" and "python3.11" also ask for "3.11".

        If several versions fit, the default is returned, or else the first one: "3" may be any.
        """
        wanted = _parts(asked)
        names = sorted(self.versions, key=lambda name: name != self.default)
        return next((name for name in names if asked == name or (wanted and _agree(_parts(name), wanted))), "")


class Versions:
    """All versions that an image declares."""

    def __init__(self, declarations: Sequence[Declaration] = (), problems: Sequence[str] = ()) -> None:
        self.declarations = tuple(declarations)
        self.problems = tuple(problems)  # of files that cannot be used, one line each

    def choose(self, variables: Mapping[str, str]) -> Choice:
        """Return what the variables choose."""
        path: list[str] = []
        env: dict[str, str] = {}
        commands: dict[str, tuple[str, ...]] = {}
        names: dict[str, str] = {}
        notices = []
        for one in self.declarations:
            asked = variables.get(one.variable, "").strip()
            name = one.match(asked) if asked else one.default
            if not name:
                name = one.default
                notices.append(_notice(one, asked))
            version = one.versions[name]
            path += [version.path] if version.path else []
            env |= version.env
            commands |= version.commands
            names |= dict.fromkeys(one.languages, name)
        return Choice(tuple(path), env, commands, names, tuple(notices))

    def of(self, language: str) -> Declaration | None:
        """Return the declaration that sets the version of a language."""
        return next((one for one in self.declarations if language in one.languages), None)


def load(directory: str) -> Versions:
    """Read all files of a directory, in the order of their names. A missing directory has none."""
    declarations: dict[str, Declaration] = {}  # by variable
    problems = []
    for name in files_of(directory):
        path, line = os.path.join(directory, name), ""
        try:
            text, content = read(path)
            try:
                one = convert(content, Declaration)
                _check(one, declarations)
            except Wrong as wrong:
                line = line_of(text, wrong.key)
                raise
        except Wrong as wrong:
            problems.append(f"{path}{line}: {wrong}")
        else:
            declarations[one.variable] = one
    return Versions(tuple(declarations.values()), problems)


def _check(one: Declaration, others: Mapping[str, Declaration]) -> None:
    if not is_variable(one.variable):
        raise Wrong("variable", f"{one.variable!r} cannot be the name of a variable")
    if one.variable in others:
        raise Wrong("variable", f"another file already declares {one.variable}")
    if one.default not in one.versions:
        raise Wrong("default", f"{one.default!r} is not one of the versions: {', '.join(one.versions) or 'none'}")
    taken = {language for other in others.values() for language in other.languages}
    if twice := taken & set(one.languages):
        raise Wrong("languages", f"another file already declares {', '.join(sorted(twice))}")
    for name, version in one.versions.items():
        if version.path and not os.path.isdir(version.path):
            raise Wrong("versions", f"the path of {name}, {version.path}, is not a directory")
        if unknown := version.commands.keys() - set(one.languages):
            raise Wrong("versions", f"{name} has a command for {', '.join(sorted(unknown))}, not one of `languages`")
        if not all(version.commands.values()):
            raise Wrong("versions", f"a command of {name} names no program")
        for key, value in version.env.items():
            if not is_variable(key, value):
                raise Wrong("versions", f"{name} sets {key!r}: the name is bad, or the value contains a NUL byte")


def _parts(text: str) -> list[str]:
    """Return the numbers of a version, without a name or a "v" before them; nothing if there are none."""
    start = next((i for i, character in enumerate(text) if character.isdigit()), len(text))
    return text[start:].split(".") if text[start:] else []


def _agree(name: Sequence[str], wanted: Sequence[str]) -> bool:
    return all(one == other for one, other in zip(name, wanted, strict=False))


def _notice(one: Declaration, asked: str) -> str:
    there = ", ".join(one.versions)
    return f"{one.variable}={asked[:MAX_ASKED_CHARS]!r}: this image has {there}; {one.default} is used"
