"""What a program is started with: variables, working directory, user.

The variables have these sources. Later ones override earlier ones:

    1. what follows from the CPU limit and the network: execd/launch/defaults.py
    2. execd's own variables, which are the container's, and a PATH if the image sets none
    3. the versions that the sandbox chooses: execd/launch/versions.py
    4. HOME, USER and LOGNAME of the user, if the request names one
    5. the claim; the directories of the chosen versions come first in its PATH
    6. the file that $EXECD_ENVS names, read for every command: `commands.set_env` of the SDKs appends to it from inside
    7. the request
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from execd.errors import ExecdError
from execd.launch.accounts import find_user, read_regular, supplementary_groups

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# /tmp is the one directory that is writable in every sandbox, even with a read-only root.
DEFAULT_ENV_FILE = "/tmp/.sandlot.env"  # noqa: S108 (read_regular checks its owner and follows no symlink)
ENV_FILE_VARIABLE = "EXECD_ENVS"
MAX_ID = (1 << 32) - 2  # the kernel takes -1 for "leave it unchanged"

_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
# KEY='verbatim', KEY="escaped" or KEY=plain. Quoted values may contain newlines. All other lines are skipped.
_ENTRY = re.compile(
    r"^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)="
    r"""(?:'([^']*)'|"((?:[^"\\]|\\.)*)"|([^\s'"][^\r\n]*?)?)[ \t]*\r?$""",
    re.MULTILINE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class Identity(NamedTuple):
    """The user and groups that a program runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary groups


class Launch(NamedTuple):
    """Everything about a start except the program itself."""

    env: dict[str, str]
    cwd: str  # absolute; it may not exist
    identity: Identity | None  # None: that of execd


class Choice(NamedTuple):
    """What all versions that the sandbox chooses set together: execd/launch/versions.py."""

    path: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    commands: Mapping[str, tuple[str, ...]] = {}  # by language
    names: Mapping[str, str] = {}  # language → its version; declared languages only
    notices: tuple[str, ...] = ()  # what was asked for and does not exist


class Environment:
    """The variables and the working directory of the sandbox. Everything that starts programs shares one object."""

    def __init__(
        self,
        base: Mapping[str, str],
        cwd: str,
        *,
        defaults: Callable[[], Mapping[str, str]] = dict,
        choose: Callable[[Mapping[str, str]], Choice] = lambda _: Choice(),
    ) -> None:
        """Take execd's own variables and working directory, which are those of the container.

        Args:
            defaults: Returns the variables that follow from the sandbox's limits. It is called again at the claim.
            choose: Returns what the versions that the given variables choose set.
        """
        self._base = {"PATH": DEFAULT_PATH, ENV_FILE_VARIABLE: DEFAULT_ENV_FILE, **base}
        for name in ("LD_PRELOAD", "LD_AUDIT"):  # set to "" for execd itself, see runtime/docker/hardening.py
            if not self._base.get(name, "set"):
                del self._base[name]
        if "HOME" not in self._base:
            self._base["HOME"] = _home(os.geteuid())
        self._base_cwd = cwd
        self._read_defaults = defaults
        self._choose = choose
        self._followers: list[Callable[[], None]] = []
        self._cwd = cwd
        self._bind({})

    def follow(self, follower: Callable[[], None]) -> None:
        """Call *follower* whenever a claim has set the variables."""
        self._followers.append(follower)

    def bind(self, env: Mapping[str, str], cwd: str = "") -> None:
        """Set the variables and the directory of a claim. They apply to everything that is started later.

        Raises:
            ExecdError: `request.invalid`: a variable or the working directory is invalid. Nothing is bound then.
        """
        _check_variables(env)
        self._bind(env)
        try:
            self._cwd = self._expand(cwd, self._variables(None)) if cwd else self._base_cwd
        except ExecdError:
            self.unbind()
            raise

    def unbind(self) -> None:
        """Forget the claim."""
        self._bind({})
        self._cwd = self._base_cwd

    def _bind(self, claimed: Mapping[str, str]) -> None:
        self._claimed = dict(claimed)
        self._defaults = dict(self._read_defaults())
        self.choice: Choice = self._choose({**self._base, **claimed})
        self._notices = list(self.choice.notices)
        for follower in self._followers:
            follower()

    def take_notice(self) -> str:
        """Return the notice about variables for the sandbox's first receipt. Later calls return ""."""
        notice = "; ".join(self._notices)
        self._notices = []
        return notice

    @property
    def cwd(self) -> str:
        """The working directory of the sandbox. It is absolute, and may not exist."""
        return self._cwd

    @property
    def home(self) -> str:
        """What `~` means in a path: HOME of the claim or of the container."""
        return self._claimed.get("HOME") or self._base["HOME"] or "/"

    def prepare(
        self,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        uid: int | None = None,
        gid: int | None = None,
    ) -> Launch:
        """Return how to start a program that a request asks for.

        Args:
            cwd: A directory, relative to that of the sandbox; "": that of the sandbox. `~`, `~name`, `$NAME` and
                `${NAME}` are expanded.
            uid: A number, which /etc/passwd need not contain. Without *gid*, the groups of that user are taken.
            gid: A number; it needs *uid*.

        Raises:
            ExecdError: `request.invalid`: a variable or a number is invalid, or *cwd* contains an unknown name.
        """
        _check_variables(env or {})
        identity = _identity(uid, gid)
        variables = self._variables(uid)
        variables.update(env or {})
        return Launch(variables, self._expand(cwd, variables) if cwd else self._cwd, identity)

    def _variables(self, uid: int | None) -> dict[str, str]:
        variables = {**self._defaults, **self._base, **self.choice.env}
        if uid is not None:
            user = find_user(uid)
            variables["HOME"] = user.home if user else "/"
            for name in ("USER", "LOGNAME"):
                variables.pop(name, None)
                if user:
                    variables[name] = user.name
        variables.update(self._claimed)
        variables["PATH"] = ":".join(filter(None, (*self.choice.path, variables["PATH"])))
        # Another user of the sandbox must not choose the variables of root's commands.
        owners = frozenset((0, os.geteuid(), os.geteuid() if uid is None else uid))
        if text := read_regular(variables[ENV_FILE_VARIABLE], owners):
            variables.update(parse_env_file(text))
        return variables

    def _expand(self, path: str, variables: Mapping[str, str]) -> str:
        if "\0" in path:
            raise ExecdError("request.invalid", "the working directory contains a NUL byte")
        if path.startswith("~"):
            name, slash, rest = path[1:].partition("/")
            path = _home_of(name, variables) + slash + rest
        return os.path.join(self._cwd, _VARIABLE.sub(lambda match: _value(match, variables), path))


def parse_env_file(text: str) -> dict[str, str]:
    """Return the variables of an environment file. The last line of a name counts; malformed lines are skipped."""
    variables: dict[str, str] = {}
    for key, verbatim, escaped, plain in _ENTRY.findall(text):
        value = verbatim or plain
        if escaped:
            value = _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), escaped)
        if "\0" not in value:
            variables[key] = value
    return variables


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name = match[1] or match[2]
    if name not in variables:
        raise ExecdError("request.invalid", f"the working directory names ${name}, which is not set")
    return variables[name]


def _home_of(name: str, variables: Mapping[str, str]) -> str:
    if not name:
        return variables.get("HOME") or "/"
    user = find_user(name)
    if user is None:
        raise ExecdError("request.invalid", f"the working directory names ~{name}, but no such user exists")
    return user.home


def _home(uid: int) -> str:
    user = find_user(uid)
    return user.home if user else "/"


def _identity(uid: int | None, gid: int | None) -> Identity | None:
    for name, number in (("uid", uid), ("gid", gid)):
        if number is not None and not 0 <= number <= MAX_ID:
            raise ExecdError("request.invalid", f"{name} is {number}: it must be from 0 to {MAX_ID}")
    if uid is None:
        if gid is not None:
            raise ExecdError("request.invalid", "a gid needs a uid")
        return None
    user = find_user(uid)
    if gid is None:
        # A number without an account gets a group of its own, never root's.
        gid = user.gid if user else uid
    identity = Identity(uid, gid, tuple(supplementary_groups(user.name)) if user else ())
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return None  # execd's own identity needs no right that execd may lack
    return identity


def is_variable(name: str, value: str = "") -> bool:
    """Return whether a program can be given a variable: the name has no `=`, and neither part holds a NUL byte."""
    return bool(name) and "=" not in name and "\0" not in name + value


def _check_variables(env: Mapping[str, str]) -> None:
    for key, value in env.items():
        if not is_variable(key, value):
            raise ExecdError("request.invalid", f"environment variable {key!r}: bad name, or NUL byte in its value")
