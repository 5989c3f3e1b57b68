"""What a program is started with: variables, working directory, user.

Variables, later ones win:

    1. execd's own, which are the container's, and a PATH where the image sets none
    2. HOME, USER and LOGNAME of the user, when the request names one
    3. the sandbox's, from its claim
    4. the lines of the file that $EXECD_ENVS names, read anew for every command: `commands.set_env` of the SDKs
       appends to it from inside
    5. the request's
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from execd.accounts import find_user, read_regular, supplementary_groups
from execd.errors import ExecdError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# /tmp is the one directory that is writable in every sandbox, also with a read-only root.
DEFAULT_ENV_FILE = "/tmp/.sandlot.env"  # noqa: S108 (read_regular checks its owner and follows no symlink)
ENV_FILE_VARIABLE = "EXECD_ENVS"
MAX_ID = (1 << 32) - 2  # -1 means "leave it" to the kernel

_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
# KEY='verbatim', KEY="escaped" or KEY=plain. Quoted values may hold newlines; a line that is none of these is skipped.
_ENTRY = re.compile(
    r"^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)="
    r"""(?:'([^']*)'|"((?:[^"\\]|\\.)*)"|([^\s'"][^\r\n]*?)?)[ \t]*\r?$""",
    re.MULTILINE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class Identity(NamedTuple):
    """Who a program runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary


class Launch(NamedTuple):
    """Everything about a start that is not the program itself."""

    env: dict[str, str]
    cwd: str  # absolute; it may not exist
    identity: Identity | None  # None: as execd


class Environment:
    """The sandbox's variables and working directory. One object, shared by all that starts programs."""

    def __init__(self, base: Mapping[str, str], cwd: str) -> None:
        """Take execd's own variables and working directory, which are those of the container."""
        self._base = {"PATH": DEFAULT_PATH, ENV_FILE_VARIABLE: DEFAULT_ENV_FILE, **base}
        for name in ("LD_PRELOAD", "LD_AUDIT"):  # emptied for execd's own sake, see controlplane/runtime/hardening.py
            if not self._base.get(name, "set"):
                del self._base[name]
        if "HOME" not in self._base:
            self._base["HOME"] = _home(os.geteuid())
        self._base_cwd = cwd
        self._claimed: dict[str, str] = {}
        self._cwd = cwd

    def bind(self, env: Mapping[str, str], cwd: str = "") -> None:
        """Set what the claim brings; everything that is started later has it.

        Raises:
            ExecdError: `request.invalid`, a variable or a working directory that cannot be. Nothing is bound then.
        """
        _check_variables(env)
        self._claimed = dict(env)
        try:
            self._cwd = self._expand(cwd, self._variables(None)) if cwd else self._base_cwd
        except ExecdError:
            self.unbind()
            raise

    def unbind(self) -> None:
        """Forget the claim."""
        self._claimed = {}
        self._cwd = self._base_cwd

    @property
    def cwd(self) -> str:
        """The sandbox's working directory; absolute, it may not exist."""
        return self._cwd

    @property
    def home(self) -> str:
        """What `~` means in a path: HOME as the claim or the container sets it."""
        return self._claimed.get("HOME") or self._base["HOME"] or "/"

    def prepare(
        self,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        uid: int | None = None,
        gid: int | None = None,
    ) -> Launch:
        """Resolve what a request asks for.

        Args:
            cwd: "" is the sandbox's; `~`, `~name`, `$NAME` and `${NAME}` are expanded, relative to the sandbox's.
            uid: a number that /etc/passwd need not know. Without *gid* the user's own groups are taken.
            gid: needs *uid*.

        Raises:
            ExecdError: `request.invalid`, for a variable or number that cannot be, or an unknown name in *cwd*.
        """
        _check_variables(env or {})
        identity = _identity(uid, gid)
        variables = self._variables(uid)
        variables.update(env or {})
        return Launch(variables, self._expand(cwd, variables) if cwd else self._cwd, identity)

    def _variables(self, uid: int | None) -> dict[str, str]:
        variables = dict(self._base)
        if uid is not None:
            user = find_user(uid)
            variables["HOME"] = user.home if user else "/"
            for name in ("USER", "LOGNAME"):
                variables.pop(name, None)
                if user:
                    variables[name] = user.name
        variables.update(self._claimed)
        # Another user of the sandbox must not decide what root's commands run with.
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
    """Return the variables of an environment file; the last one of a name wins, malformed lines are skipped."""
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
        raise ExecdError("request.invalid", f"the working directory names ~{name}, but there is no such user")
    return user.home


def _home(uid: int) -> str:
    user = find_user(uid)
    return user.home if user else "/"


def _identity(uid: int | None, gid: int | None) -> Identity | None:
    for name, number in (("uid", uid), ("gid", gid)):
        if number is not None and not 0 <= number <= MAX_ID:
            raise ExecdError("request.invalid", f"{name} {number} is not between 0 and {MAX_ID}")
    if uid is None:
        if gid is not None:
            raise ExecdError("request.invalid", "a gid needs a uid")
        return None
    user = find_user(uid)
    if gid is None:
        # A number without an account: a group of its own, never root's.
        gid = user.gid if user else uid
    identity = Identity(uid, gid, tuple(supplementary_groups(user.name)) if user else ())
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return None  # as execd: needs no right that execd may lack
    return identity


def _check_variables(env: Mapping[str, str]) -> None:
    for key, value in env.items():
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise ExecdError("request.invalid", f"environment variable {key!r}: a bad name, or a NUL byte in its value")
