"""Settings: a TOML file, then the environment, then flags; the last one wins.

The Structs below are the one table of names, units, defaults and help texts. Flags, environment names and
`docs/configuration.md` come from them. A setting `[server] port` is `SANDLOT_SERVER_PORT` in the environment; those of
`[sandbox]` are `SANDBOX_…`, as the product brief has them.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from controlplane.errors import ConfigError
from controlplane.sandbox import Limits

DEFAULT_FILE = "~/.sandbox.toml"
CPU_PERIOD_US = 100_000  # the kernel's usual accounting period, in which `cpu_quota` is counted
MIN_CPU_QUOTA_US = 1000  # the kernel takes no less
MIN_MEMORY_KB = 16 * 1024  # the agent alone takes 12 MB
LONGEST_S = 10 * 365 * 86400  # beyond ten years no calendar is safe
# OpenSandbox users type the names of the official images; these are ours that do the same work.
DEFAULT_ALIASES = {
    "opensandbox/code-interpreter": "sandlot/code-interpreter",
    "opensandbox/python": "sandlot/python",
    "code-interpreter": "sandlot/code-interpreter",
}
# Not ours although they look like it: examples of the official clients, and `make engine`, read them.
FOREIGN_VARIABLES = frozenset({"SANDBOX_DOMAIN", "SANDBOX_API_KEY", "SANDLOT_DOCKERD_LOG"})


def _help(text: str, **limits: Any) -> Meta:
    return Meta(description=text, **limits)


ApiKey = Annotated[str, Meta(pattern=r"^[!-~]{16,}$")]


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[server]"""

    host: Annotated[str, _help("Address to listen on.", min_length=1)] = "127.0.0.1"
    port: Annotated[int, _help("TCP port to listen on; 0 takes a free one.", ge=0, le=65535)] = 8194
    public_address: Annotated[
        str, _help("host[:port] put into endpoints; empty: as the client called us, by its Host header.")
    ] = ""
    port_domain: Annotated[
        str,
        _help(
            "host[:port] under which every port of a sandbox has a host name of its own, {port}-{id}.{domain}; "
            "needs a wildcard DNS entry. Names below localhost work always."
        ),
    ] = ""
    api_keys: Annotated[
        tuple[ApiKey, ...],
        _help("API keys, separated by commas in a variable or flag. None: one is made at the first start."),
    ] = ()
    open_metrics: Annotated[bool, _help("Serve Prometheus' /metrics without a key.")] = False


class SandboxSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[sandbox]"""

    image: Annotated[str, _help("Image of the warm pool.", min_length=1)] = "sandlot/code-interpreter"
    pool_size: Annotated[int, _help("Warm containers to keep of that image.", ge=0, le=1000)] = 5
    cpu_quota: Annotated[
        int,
        _help("CPU time a sandbox gets, in µs in each 100 ms: 100000 is one core, 1000 the least. 0: no limit.", ge=0),
    ] = 100_000
    memory_limit: Annotated[
        int, _help("Memory of a sandbox, in KB, swap included; 16384 is the least. 0: no limit.", ge=0)
    ] = 2 << 20
    pids_limit: Annotated[int, _help("Processes and threads of a sandbox at once.", ge=16)] = 512
    max_contexts: Annotated[int, _help("Contexts of a sandbox at once.", ge=1, le=4096)] = 64
    output_limit: Annotated[
        int, _help("Output of one run of code, in KB; the rest is dropped, which is said where. 0: no limit.", ge=0)
    ] = 256 << 10
    allow_network: Annotated[bool, _help("Give sandboxes a network. false: no interface but loopback.")] = False
    timeout_seconds: Annotated[
        float, _help("Time limit of a command or run that names none, in s. 0: no limit.", ge=0, le=LONGEST_S)
    ] = 0
    max_lifetime: Annotated[
        int, _help("Longest lifetime a sandbox may ask for, in s. 0: no limit.", ge=0, le=LONGEST_S)
    ] = 0
    allow_user_namespaces: Annotated[
        bool, _help("Let a sandbox ask for isolated sessions in it, for which it may make user namespaces.")
    ] = False
    runtime: Annotated[str, _help("Engine runtime, such as runsc. Empty: the engine's default.")] = ""
    hardened: Annotated[bool, _help("Read-only root, non-root user, tmpfs work directories.")] = False

    @property
    def limits(self) -> Limits:
        """The limits of a sandbox that asks for none."""
        return Limits(cpus=self.cpu_quota / CPU_PERIOD_US, memory_bytes=self.memory_limit * 1024, pids=self.pids_limit)


class PoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[[pools]]: further warm pools, beside the one of `[sandbox]`."""

    image: Annotated[str, _help("Image to keep warm.", min_length=1)]
    size: Annotated[int, _help("Warm containers to keep.", ge=0, le=1000)]
    allow_network: Annotated[bool | None, _help("As in [sandbox]; absent: the same as there.")] = None


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[engine]"""

    url: Annotated[str, _help("Docker Engine API, such as unix:///var/run/docker.sock. Empty: DOCKER_HOST.")] = ""
    concurrent_starts: Annotated[
        int, _help("Containers to start at once; more than 4 gives no more throughput.", ge=1, le=64)
    ] = 4
    pull: Annotated[
        Literal["missing", "never"],
        _help("Images of others that the engine does not have: fetch them when a sandbox asks, or refuse."),
    ] = "missing"


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[storage]"""

    allowed_host_paths: Annotated[
        tuple[str, ...],
        _help("Directories of the host that volumes may be in, separated by commas in a variable or flag. None: none."),
    ] = ()
    max_snapshots: Annotated[int, _help("Snapshots to keep at most; each takes what its sandbox wrote.", ge=0)] = 100


class PathSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[paths]"""

    state_dir: Annotated[str, _help("Store and keys. Empty: /var/lib/sandlot, or in the home of who is not root.")] = ""
    run_dir: Annotated[str, _help("Sockets; must be on the engine's host. Empty: /run/sandlot, or likewise.")] = ""
    images_dir: Annotated[str, _help("Image folders to build from. Empty: those that came with Sandlot.")] = ""


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[logs]"""

    format: Annotated[Literal["auto", "console", "json"], _help("auto: console on a terminal, JSON otherwise.")] = (
        "auto"
    )
    level: Annotated[Literal["debug", "info", "warning", "error"], _help("Least level to print.")] = "info"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    server: ServerSettings = ServerSettings()
    sandbox: SandboxSettings = SandboxSettings()
    pools: tuple[PoolSettings, ...] = ()
    engine: EngineSettings = EngineSettings()
    storage: StorageSettings = StorageSettings()
    paths: PathSettings = PathSettings()
    logs: LogSettings = LogSettings()
    aliases: dict[str, str] = {}

    def resolve_image(self, name: str) -> str:
        """Return the engine's name for an image as a caller typed it; an alias counts with any tag."""
        aliases = DEFAULT_ALIASES | self.aliases
        return aliases.get(name) or aliases.get(name.partition(":")[0]) or name


class Setting(msgspec.Struct, frozen=True):
    """One row of the table of settings."""

    section: str
    key: str
    help: str
    expected: str  # what a value must be
    default: Any

    @property
    def environment_name(self) -> str:
        """The variable that sets it."""
        prefix = "SANDBOX" if self.section == "sandbox" else f"SANDLOT_{self.section.upper()}"
        return f"{prefix}_{self.key.upper()}"

    @property
    def flag(self) -> str:
        """The flag that sets it."""
        return f"--{self.key.replace('_', '-')}"


# Sections whose settings also have a variable and a flag each; pools and aliases only fit a file.
_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerSettings,
    "sandbox": SandboxSettings,
    "engine": EngineSettings,
    "storage": StorageSettings,
    "paths": PathSettings,
    "logs": LogSettings,
}


def settings_table() -> list[Setting]:
    """Return all settings that a variable or a flag can set, in order."""
    return [row for section, struct in _SECTIONS.items() for row in _rows(section, struct)]


def pool_table() -> list[Setting]:
    """Return the settings of one of the `[[pools]]`. Those without a default must be there."""
    return _rows("pools", PoolSettings)


def _rows(section: str, struct: type[msgspec.Struct]) -> list[Setting]:
    hints = get_type_hints(struct, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(struct):
        kind, meta = get_args(hints[field.name])[:2]
        rows.append(Setting(section, field.name, meta.description, _expected(kind, meta), field.default))
    return rows


def _expected(kind: Any, meta: Meta) -> str:
    if kind in (int, float):
        number = "a whole number" if kind is int else "a number"
        return f"{number} from {meta.ge}" + (f" to {meta.le}" if meta.le is not None else "")
    if kind is str:
        return "a text that is not empty" if meta.min_length else "a text"
    if kind in (bool, bool | None):
        return "true or false"
    options = get_args(kind)
    if options[0] == ApiKey:
        return "a list of texts, each of 16 visible ASCII characters or more"
    return "a list of texts" if options[0] is str else f"one of {', '.join(options)}"


def load(file: Path | None, environment: Mapping[str, str], flags: Mapping[tuple[str, str], str]) -> Settings:
    """Read the settings. *file* None: `~/.sandbox.toml` where it exists.

    *flags* maps (section, key) to the text given on the command line. An empty variable counts as not set.

    Raises:
        ConfigError: naming where the setting stands, its key, and what was expected.
    """
    tree: dict[str, Any] = {}
    home = Path(environment.get("HOME") or "~").expanduser()
    path = file or home / DEFAULT_FILE.removeprefix("~/")
    if file is not None or os.path.exists(path):
        tree = _read(path)
        _convert(tree, str(path))  # so that an error names the file and not a variable
    _refuse_unknown(environment)
    for row in settings_table():
        for text, source in (
            (environment.get(row.environment_name) or None, row.environment_name),
            (flags.get((row.section, row.key)), row.flag),
        ):
            if text is not None:
                value = _parse(row, text)
                _convert({row.section: {row.key: value}}, source)
                tree.setdefault(row.section, {})[row.key] = value
    settings = _convert(tree, "settings")
    _refuse_twins(settings)
    for allowed in settings.storage.allowed_host_paths:
        if not os.path.isabs(allowed) or os.path.normpath(allowed) != allowed or allowed == "/":
            raise ConfigError(
                f"[storage] allowed_host_paths: expected absolute paths without '..', and not the root, got {allowed!r}"
            )
    return msgspec.structs.replace(settings, paths=_absolute(settings.paths, environment, home))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {row.environment_name for row in settings_table()}
    for name in sorted(environment.keys() - known - FOREIGN_VARIABLES):
        if name.startswith(("SANDBOX_", "SANDLOT_")):
            raise ConfigError(f"{name}: there is no such setting{_meant(name, known)}; unset it, or rename it")


def _meant(name: str, known: Iterable[str]) -> str:
    """Return the name that was probably meant, as the end of a sentence."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _parse(row: Setting, text: str) -> Any:
    """Turn a variable's or flag's text into what TOML would have given; `_convert` checks the rest."""
    if isinstance(row.default, bool):
        words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False}
        return (words | {"off": False}).get(text.strip().lower(), text)
    if isinstance(row.default, tuple):
        return [item.strip() for item in text.split(",") if item.strip()]
    if isinstance(row.default, int | float):
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
    return text


_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")


def _convert(tree: dict[str, Any], source: str) -> Settings:
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), tree)}") from error
    for key, least, unit in (("cpu_quota", MIN_CPU_QUOTA_US, "µs"), ("memory_limit", MIN_MEMORY_KB, "KB")):
        value = getattr(settings.sandbox, key)
        if 0 < value < least:
            raise ConfigError(f"{source}: [sandbox] {key}: expected 0 or at least {least} {unit}, got {value}")
    return settings


def _explain(message: str, tree: Mapping[str, Any]) -> str:
    """Say what msgspec found in the words of our table."""
    text, _, where = message.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    section, _, key = path.partition(".")
    if section.startswith("aliases"):
        section, key = "aliases", ""
    struct = PoolSettings if section.startswith("pools[") else _SECTIONS.get(section)
    if (unknown := _UNKNOWN.match(text)) is not None:
        known = struct.__struct_fields__ if struct is not None else Settings.__struct_fields__
        meant = _meant(unknown[1], known) or f"; there are: {', '.join(known)}"
        return f"{_place(section, '')}there is no such {'key' if section else 'section'} `{unknown[1]}`{meant}"
    name = key.partition("[")[0]
    row = next((row for row in _rows(section, struct) if row.key == name), None) if struct is not None else None
    if row is None:
        return f"{_place(section, key)}{text[:1].lower()}{text[1:]}"
    value = "" if isinstance(row.default, tuple) else f", got {_value(tree, path)!r:.60}"  # keys are secret
    return f"{_place(section, name)}expected {row.expected}{value}"


def _value(tree: Any, path: str) -> Any:
    for key, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        tree = tree[key or int(index)]
    return tree


def _place(section: str, key: str) -> str:
    """Name a section, and a key in it, as the beginning of a message."""
    if not section:
        return ""
    if (pool := re.fullmatch(r"pools\[(\d+)\]", section)) is not None:
        place = f"[[pools]] no. {int(pool[1]) + 1}"
    else:
        place = f"[{section}]"
    return f"{place}{' ' + key if key else ''}: "


def _refuse_twins(settings: Settings) -> None:
    """Two pools of the same image and network would be one, of a size that nobody wrote down."""
    network = settings.sandbox.allow_network
    seen = {(settings.resolve_image(settings.sandbox.image), network)}
    for number, pool in enumerate(settings.pools, 1):
        one = (settings.resolve_image(pool.image), network if pool.allow_network is None else pool.allow_network)
        if one in seen:
            raise ConfigError(f"[[pools]] no. {number}: there is a pool of {pool.image} already, with the same network")
        seen.add(one)


def _absolute(paths: PathSettings, environment: Mapping[str, str], home: Path) -> PathSettings:
    """Fill in default directories; make all absolute, because the engine takes no others."""
    root = os.geteuid() == 0
    state = "/var/lib/sandlot" if root else f"{environment.get('XDG_STATE_HOME') or home / '.local/state'}/sandlot"
    run = "/run/sandlot" if root else f"{environment.get('XDG_RUNTIME_DIR') or state}/sandlot"
    images = str(Path(__file__).parents[1] / "images")

    def absolute(path: str) -> str:
        return str((home / path.removeprefix("~/") if path.startswith("~/") else Path(path)).absolute())

    return PathSettings(
        state_dir=absolute(paths.state_dir or state),
        run_dir=absolute(paths.run_dir or run),
        images_dir=absolute(paths.images_dir or images),
    )
