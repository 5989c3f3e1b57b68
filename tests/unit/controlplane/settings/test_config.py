"""Settings: sources, precedence, and errors that name the place, the key and what was expected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controlplane.errors import ConfigError
from controlplane.sandbox import Limits, Network
from controlplane.settings.load import FOREIGN_VARIABLES, load
from controlplane.settings.sections import Settings
from controlplane.settings.table import settings_table
from controlplane.settings.upstream import UPSTREAM_SETTINGS
from specs.generate import configuration

ROOT = Path(__file__).parents[4]


def loaded(text: str, tmp_path: Path, environment: dict[str, str] | None = None, **flags: str) -> Settings:
    """Load a file with that text; flags are written `section__key="value"`."""
    file = tmp_path / "settings.toml"
    file.write_text(text)
    given = {tuple(name.split("__")): value for name, value in flags.items()}
    return load(file, environment or {}, given)  # type: ignore[arg-type]


def refusal(text: str, tmp_path: Path, environment: dict[str, str] | None = None, **flags: str) -> str:
    """The message with which those settings are refused, without the name of the temporary file."""
    with pytest.raises(ConfigError) as error:
        loaded(text, tmp_path, environment, **flags)
    return error.value.message.replace(str(tmp_path / "settings.toml"), "FILE")


def test_defaults_without_any_source(tmp_path: Path) -> None:
    """No file, no variable, no flag: the documented defaults, and absolute directories."""
    settings = load(None, {"HOME": str(tmp_path)}, {})
    assert settings.server.port == 8194
    assert settings.server.host == "127.0.0.1"
    assert settings.sandbox.pool_size == 5
    assert settings.sandbox.limits.cpus == 1.0
    assert settings.sandbox.limits.memory_bytes == 2 << 30
    assert settings.sandbox.allow_network is False
    assert all(Path(path).is_absolute() for path in (settings.paths.state_dir, settings.paths.run_dir))
    assert Path(settings.paths.images_dir) == ROOT / "images"


def test_the_file_in_the_home_directory_is_read(tmp_path: Path) -> None:
    """~/.sandbox.toml counts without being named."""
    (tmp_path / ".sandbox.toml").write_text("[server]\nport = 1234\n")
    assert load(None, {"HOME": str(tmp_path)}, {}).server.port == 1234


def test_the_last_source_wins(tmp_path: Path) -> None:
    """The environment overrides the file, a flag overrides both, and each only its own key."""
    text = "[sandbox]\npool_size = 1\ncpu_quota = 0.5\nmemory_limit = 65536\n"
    environment = {"SANDBOX_POOL_SIZE": "2", "SANDBOX_CPU_QUOTA": "0.25"}
    sandbox = loaded(text, tmp_path, environment, sandbox__pool_size="3").sandbox
    assert (sandbox.pool_size, sandbox.cpu_quota, sandbox.memory_limit) == (3, 0.25, 65_536)


def test_the_names_of_the_product_brief(tmp_path: Path) -> None:
    """[sandbox] and SANDBOX_… have the names and units that the brief gives them."""
    text = "[sandbox]\ntimeout_seconds = 30.5\nmax_lifetime = 3600\n"
    environment = {
        "SANDBOX_POOL_SIZE": "7",
        "SANDBOX_CPU_QUOTA": "1.5",
        "SANDBOX_MEMORY_LIMIT": "524288",
        "SANDBOX_ALLOW_NETWORK": "true",
    }
    sandbox = loaded(text, tmp_path, environment).sandbox
    assert sandbox.pool_size == 7
    assert sandbox.limits.cpus == 1.5
    assert sandbox.limits.memory_bytes == 512 << 20
    assert sandbox.allow_network is True
    assert (sandbox.timeout_seconds, sandbox.max_lifetime) == (30.5, 3600)


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes", "on"])
def test_words_for_true(text: str, tmp_path: Path) -> None:
    """What people write into an environment for yes."""
    assert loaded("", tmp_path, {"SANDBOX_HARDENED": text}).sandbox.hardened is True


@pytest.mark.parametrize("text", ["false", "0", "no", "Off"])
def test_words_for_false(text: str, tmp_path: Path) -> None:
    """… and for no, also against a file that says yes."""
    assert loaded("[sandbox]\nhardened = true", tmp_path, {"SANDBOX_HARDENED": text}).sandbox.hardened is False


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    """Compose files hand out empty variables; those change nothing."""
    settings = loaded("[server]\nport = 9", tmp_path, {"SANDLOT_SERVER_PORT": "", "SANDLOT_SERVER_HOST": ""})
    assert (settings.server.port, settings.server.host) == (9, "127.0.0.1")


def test_a_list_in_a_variable_is_separated_by_commas(tmp_path: Path) -> None:
    """API keys in one variable."""
    keys = "first-key-of-sixteen, second-key-of-sixteen,"
    settings = loaded("", tmp_path, {"SANDLOT_SERVER_API_KEYS": keys})
    assert settings.server.api_keys == ("first-key-of-sixteen", "second-key-of-sixteen")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nport = 99999", "FILE: [server] port: expected a whole number from 0 to 65535, got 99999"),
        ("[server]\nport = 'x'", "FILE: [server] port: expected a whole number from 0 to 65535, got 'x'"),
        ("[server]\nport = true", "FILE: [server] port: expected a whole number from 0 to 65535, got True"),
        ("[server]\nhost = ''", "FILE: [server] host: expected a text that is not empty, got ''"),
        ("[server]\nprot = 1", "FILE: [server]: there is no such key `prot` (did you mean port?)"),
        ("[serve]\nport = 1", "FILE: there is no such section `serve` (did you mean server?)"),
        ("[server]\nPORT = 1", "FILE: [server]: there is no such key `PORT` (did you mean port?)"),
        ("[SERVER]\nport = 1", "FILE: there is no such section `SERVER` (did you mean server?)"),
        (
            "[sandbox]\nmemory_limit = 99_999_999_999_999_999_999",
            "FILE: [sandbox] memory_limit: expected a whole number from 0 to 17179869184, got 99999999999999999999",
        ),
        (
            "[sandbox]\nmax_memory = 17_179_869_185",
            "FILE: [sandbox] max_memory: expected a whole number from 0 to 17179869184, got 17179869185",
        ),
        (
            "[sandbox]\npids_limit = 4_194_305",
            "FILE: [sandbox] pids_limit: expected a whole number from 16 to 4194304, got 4194305",
        ),
        (
            "[zzz]",
            "FILE: there is no such section `zzz`; "
            "there are: server, sandbox, pools, engine, storage, paths, security, logs, audit, console, activity, "
            "traces, aliases",
        ),
        ("server = 5", "FILE: server: expected a table: [server], then key = value"),
        ("port = 5", "FILE: there is no such section or key `port` (did you mean [server] port?)"),
        (
            "[server]\npool_size = 5",
            "FILE: [server]: there is no such key `pool_size` (did you mean [sandbox] pool_size?)",
        ),
        ("[pools]\nimage = 'a'", "FILE: pools: expected a table: [[pools]], once for each pool"),
        ("[sandbox]\npool_size = 1.5", "FILE: [sandbox] pool_size: expected a whole number from 0 to 1000, got 1.5"),
        ("[sandbox]\npool_size = -1", "FILE: [sandbox] pool_size: expected a whole number from 0 to 1000, got -1"),
        ("[sandbox]\ncpu_quota = 0.001", "FILE: [sandbox] cpu_quota: expected 0 or at least 0.01 CPUs, got 0.001"),
        ("[sandbox]\ncpu_quota = -1", "FILE: [sandbox] cpu_quota: expected a number from 0 to 100000000, got -1"),
        ("[sandbox]\nmax_cpus = 0.001", "FILE: [sandbox] max_cpus: expected 0 or at least 0.01 CPUs, got 0.001"),
        ("[sandbox]\nmax_memory = 512", "FILE: [sandbox] max_memory: expected 0 or at least 16384 KB, got 512"),
        ("[sandbox]\nmemory_limit = 512", "FILE: [sandbox] memory_limit: expected 0 or at least 16384 KB, got 512"),
        (
            "[sandbox]\ntimeout_seconds = inf",
            "FILE: [sandbox] timeout_seconds: expected a number from 0 to 315360000, got inf",
        ),
        (
            "[sandbox]\ntimeout_seconds = nan",
            "FILE: [sandbox] timeout_seconds: expected a number from 0 to 315360000, got nan",
        ),
        ("[logs]\nlevel = 'loud'", "FILE: [logs] level: expected one of debug, info, warning, error, got 'loud'"),
        (
            "[[pools]]\nimage = 'a'",
            "FILE: [[pools]] no. 1 size: is missing; expected a whole number from 0 to 1000",
        ),
        (
            "[[pools]]\nimage = 'a'\nsize = 1\nname = 'Big'",
            "FILE: [[pools]] no. 1 name: expected at most 63 lower-case letters, digits and '-', as in a host name, "
            "got 'Big'",
        ),
        (
            "[[pools]]\nimage = 'a'\nsize = 1\ncpu_quota = 0.001",
            "FILE: [[pools]] no. 1 cpu_quota: expected 0 or at least 0.01 CPUs, got 0.001",
        ),
        (
            "[[pools]]\nimage = 'a'\nsize = 1\nmemory_limit = 'big'",
            "FILE: [[pools]] no. 1 memory_limit: expected a whole number from 0 to 17179869184, got 'big'",
        ),
        (
            "[[pools]]\nimage = 'a'\nsize = 1\n[[pools]]\nimage = 'b'\nsize = -1",
            "FILE: [[pools]] no. 2 size: expected a whole number from 0 to 1000, got -1",
        ),
        ("[aliases]\na = 1", 'FILE: [aliases]: expected names of images, each a text in quotes: name = "image"'),
        ("[server", "FILE: not valid TOML: Expected ']' at the end of a table declaration (at end of document)"),
    ],
)
def test_an_error_in_a_file_names_the_file_the_key_and_what_was_expected(
    text: str, message: str, tmp_path: Path
) -> None:
    """Each kind of mistake, with the whole message."""
    assert refusal(text, tmp_path) == message


def test_an_error_in_a_variable_names_the_variable(tmp_path: Path) -> None:
    """Not the file, which is right."""
    message = refusal("[sandbox]\npool_size = 5", tmp_path, {"SANDBOX_POOL_SIZE": "many"})
    assert message == "SANDBOX_POOL_SIZE: [sandbox] pool_size: expected a whole number from 0 to 1000, got 'many'"
    message = refusal("", tmp_path, {"SANDBOX_ALLOW_NETWORK": "maybe"})
    assert message == "SANDBOX_ALLOW_NETWORK: [sandbox] allow_network: expected true or false, got 'maybe'"
    message = refusal("", tmp_path, {"SANDBOX_CPU_QUOTA": "0.001"})
    assert message == "SANDBOX_CPU_QUOTA: [sandbox] cpu_quota: expected 0 or at least 0.01 CPUs, got 0.001"


def test_an_error_in_a_flag_names_the_flag(tmp_path: Path) -> None:
    """As it was typed."""
    message = refusal("", tmp_path, sandbox__pool_size="x")
    assert message == "--pool-size: [sandbox] pool_size: expected a whole number from 0 to 1000, got 'x'"


@pytest.mark.parametrize("keys", ["['']", "['short']", "['has a blank in it but is long']", "'not-a-list-but-long'"])
def test_bad_api_keys_are_refused_and_not_shown(keys: str, tmp_path: Path) -> None:
    """An empty key would let everybody in. The message says what a key is, and does not repeat the one given."""
    message = refusal(f"[server]\napi_keys = {keys}", tmp_path)
    expected = "a list of texts, each of 16 visible ASCII characters or more"
    assert message == f"FILE: [server] api_keys: expected {expected}, or a table of names and such texts"


def test_api_keys_may_have_names(tmp_path: Path) -> None:
    """In a table; those of a list are numbered. A bad name or key is refused, and the key is not shown."""
    keys = loaded("[server.api_keys]\nada = 'first-key-of-sixteen'\nbob = 'second-key-of-sixteen'", tmp_path).server
    assert keys.named_keys == {"ada": "first-key-of-sixteen", "bob": "second-key-of-sixteen"}
    keys = loaded("", tmp_path, {"SANDLOT_SERVER_API_KEYS": "first-key-of-sixteen,second-key-of-sixteen"}).server
    assert keys.named_keys == {"key-1": "first-key-of-sixteen", "key-2": "second-key-of-sixteen"}
    for text in ("ada = 'short'", "'a b' = 'first-key-of-sixteen'"):
        message = refusal(f"[server.api_keys]\n{text}", tmp_path)
        assert message.startswith("FILE: [server] api_keys: expected a list of texts, each of 16")
        assert message.endswith("or a table of names and such texts")


@pytest.mark.parametrize("name", ["SANDBOX_POOLSIZE", "SANDBOX_POOL_SIZ"])
def test_a_mistyped_variable_is_an_error(name: str, tmp_path: Path) -> None:
    """It would silently do nothing otherwise."""
    message = refusal("", tmp_path, {name: "5"})
    assert message == f"{name}: there is no such setting (did you mean SANDBOX_POOL_SIZE?); unset it, or rename it"


def test_an_unknown_variable_of_ours_is_an_error(tmp_path: Path) -> None:
    """Also when nothing is close to it."""
    assert refusal("", tmp_path, {"SANDLOT_Q": "5"}) == ("SANDLOT_Q: there is no such setting; unset it, or rename it")


def test_a_variable_without_its_section_is_recognised(tmp_path: Path) -> None:
    """Which section a key is in, people do not know."""
    message = refusal("", tmp_path, {"SANDBOX_PORT": "5"})
    assert (
        message == "SANDBOX_PORT: there is no such setting (did you mean SANDLOT_SERVER_PORT?); unset it, or rename it"
    )


def test_a_variable_of_the_opensandbox_server(tmp_path: Path) -> None:
    """It says what there is instead."""
    message = refusal("", tmp_path, {"SANDBOX_TENANTS_CONFIG_PATH": "/etc/tenants.toml"})
    assert "is a variable of the OpenSandbox server" in message
    assert "makes a key whose sandboxes are its own" in message


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    """Those of the official clients begin otherwise, or are known not to be ours."""
    others = {"OPEN_SANDBOX_API_KEY": "x", "OPEN_SANDBOX_DOMAIN": "y", "IS_SANDBOX": "yes", "SANDBOX": "1"}
    assert loaded("", tmp_path, others | dict.fromkeys(FOREIGN_VARIABLES, "z")).server.port == 8194


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    """A missing ~/.sandbox.toml is normal, a missing --config is not."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "nowhere.toml", {}, {})


def test_a_variable_names_the_file(tmp_path: Path) -> None:
    """As for the OpenSandbox server; `--config` wins over it."""
    (tmp_path / ".sandbox.toml").write_text("[server]\nport = 1\n")
    (tmp_path / "other.toml").write_text("[server]\nport = 2\n")
    (tmp_path / "named.toml").write_text("[server]\nport = 3\n")
    environment = {"HOME": str(tmp_path), "SANDBOX_CONFIG_PATH": str(tmp_path / "other.toml")}
    assert load(None, environment, {}).server.port == 2
    assert load(None, environment | {"SANDBOX_CONFIG_PATH": "~/other.toml"}, {}).server.port == 2
    assert load(tmp_path / "named.toml", environment, {}).server.port == 3
    assert load(None, environment | {"SANDBOX_CONFIG_PATH": ""}, {}).server.port == 1
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        load(None, environment | {"SANDBOX_CONFIG_PATH": str(tmp_path / "nowhere.toml")}, {})


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8."""
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"settings\.toml: not valid TOML"):
        load(file, {}, {})


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors of Windows write it."""
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf[server]\r\nport = 1\r\n")
    assert load(tmp_path / "mine.toml", {}, {}).server.port == 1


def test_two_pools_of_the_same_are_refused(tmp_path: Path) -> None:
    """Aliases resolved: they would be one pool, of a size that nobody wrote down."""
    message = refusal("[[pools]]\nimage = 'opensandbox/code-interpreter:v1'\nsize = 1", tmp_path)
    assert message.startswith("FILE: [[pools]] no. 1: there is a pool of opensandbox/code-interpreter:v1 already")
    for other in ("allow_network = true", "cpu_quota = 2", "memory_limit = 65536", "runtime = 'runsc'"):
        text = f"[[pools]]\nimage = 'code-interpreter'\nsize = 1\n{other}"
        assert len(loaded(text, tmp_path).pools) == 1


def test_names_of_pools_name_one_pool(tmp_path: Path) -> None:
    """Nobody can take the name of the pool of [sandbox]; pools without a name are many."""
    pools = "".join(f"[[pools]]\nimage = '{image}'\nsize = 1\n" for image in "ab")
    assert [pool.name for pool in loaded(pools, tmp_path).warm_pools()] == ["default", "", ""]
    twice = "".join(f"[[pools]]\nname = 'x'\nimage = '{image}'\nsize = 1\n" for image in "ab")
    assert refusal(twice, tmp_path) == "FILE: [[pools]] no. 2 name: expected another name, 'x' names two pools"
    default = "[[pools]]\nname = 'default'\nimage = 'a'\nsize = 1"
    message = "FILE: [[pools]] no. 1 name: expected another name, 'default' is the name of the pool of [sandbox]"
    assert refusal(default, tmp_path) == message


def test_what_a_pool_leaves_out_is_as_in_sandbox(tmp_path: Path) -> None:
    """Each of its keys."""
    text = """
        [sandbox]
        cpu_quota = 2
        allow_network = true
        [[pools]]
        name = "big"
        image = "opensandbox/python:3"
        size = 3
        memory_limit = 4194304
        runtime = "runsc"
        when_exhausted = "refuse"
        [[pools]]
        image = "other"
        size = 1
        cpu_quota = 50000
    """
    first, big, other = loaded(text, tmp_path).warm_pools()
    assert (first.name, first.image, first.size, first.runtime) == ("default", "sandlot/code-interpreter", 5, "")
    assert (big.name, big.image, big.size, big.runtime) == ("big", "sandlot/python", 3, "runsc")
    assert big.limits == Limits(cpus=2, memory_bytes=4 << 30, pids=512)
    assert (big.network, big.refuses_when_exhausted) == (Network.BRIDGE, True)
    assert (other.limits, other.refuses_when_exhausted) == (Limits(cpus=0.5, memory_bytes=2 << 30, pids=512), False)


BRIEF = """
[server]
host = "0.0.0.0"
port = 8194

[sandbox]
pool_size = 5
cpu_quota = 2
memory_limit = 524288
allow_network = true
timeout_seconds = 300
max_lifetime = 21600
"""


def test_the_file_of_the_product_brief(tmp_path: Path) -> None:
    """`cpu_quota` is a number of CPUs; nothing is warned about."""
    warnings: list[str] = []
    file = tmp_path / "settings.toml"
    file.write_text(BRIEF)
    sandbox = load(file, {"SANDBOX_CPU_QUOTA": "2"}, {}, warnings.append).sandbox
    assert sandbox.limits == Limits(cpus=2, memory_bytes=512 << 20, pids=512)
    assert warnings == []


def test_half_a_cpu(tmp_path: Path) -> None:
    """In a file, a variable and a flag."""
    assert loaded("[sandbox]\ncpu_quota = 0.5", tmp_path).sandbox.limits.cpus == 0.5
    assert loaded("", tmp_path, {"SANDBOX_CPU_QUOTA": "0.5"}).sandbox.limits.cpus == 0.5
    assert loaded("", tmp_path, sandbox__cpu_quota=".5").sandbox.limits.cpus == 0.5


def test_microseconds_are_still_understood_with_a_warning(tmp_path: Path) -> None:
    """The warning names the place, the new unit, and what to write."""
    warnings: list[str] = []
    file = tmp_path / "settings.toml"
    file.write_text("[sandbox]\ncpu_quota = 150000\n[[pools]]\nimage = 'a'\nsize = 1\ncpu_quota = 1000\n")
    settings = load(file, {"SANDBOX_CPU_QUOTA": "50000"}, {}, warnings.append)
    assert [pool.limits.cpus for pool in settings.warm_pools()] == [0.5, 0.01]
    ending = "CPUs; the unit is CPUs now, write"
    assert [warning.replace(str(file), "FILE") for warning in warnings] == [
        f"FILE: [sandbox] cpu_quota = 150000 is read as µs in each 100 ms, which makes 1.5 {ending} 1.5",
        f"FILE: [[pools]] no. 1 cpu_quota = 1000 is read as µs in each 100 ms, which makes 0.01 {ending} 0.01",
        f"SANDBOX_CPU_QUOTA: [sandbox] cpu_quota = 50000 is read as µs in each 100 ms, which makes 0.5 {ending} 0.5",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_cpus = 0.5", "[sandbox] cpu_quota: expected at most max_cpus = 0.5, got 1"),
        ("max_cpus = 4\ncpu_quota = 0", "[sandbox] cpu_quota: expected at most max_cpus = 4, got 0, which is no limit"),
        ("max_memory = 65536", "[sandbox] memory_limit: expected at most max_memory = 65536, got 2097152"),
    ],
)
def test_a_default_above_the_maximum(text: str, message: str, tmp_path: Path) -> None:
    """It would refuse whoever asks for nothing. The message names where the default stands, or the maximum."""
    assert refusal(f"[sandbox]\n{text}", tmp_path) == f"FILE: {message}"


def test_a_contradiction_names_the_source_that_is_to_blame(tmp_path: Path) -> None:
    """A variable against the file, or a flag."""
    message = refusal("[sandbox]\nmax_cpus = 1", tmp_path, {"SANDBOX_CPU_QUOTA": "2"})
    assert message == "SANDBOX_CPU_QUOTA: [sandbox] cpu_quota: expected at most max_cpus = 1, got 2"
    message = refusal("", tmp_path, sandbox__max_cpus="0.5")
    assert message == "--max-cpus: [sandbox] cpu_quota: expected at most max_cpus = 0.5, got 1"
    message = refusal("", tmp_path, {"SANDLOT_STORAGE_ALLOWED_HOST_PATHS": "data"})
    assert message.startswith("SANDLOT_STORAGE_ALLOWED_HOST_PATHS: [storage] allowed_host_paths: expected absolute")


@pytest.mark.parametrize("key", ["public_address", "port_domain"])
@pytest.mark.parametrize("value", ["http://example.com", "example.com/path", "a b", "::1"])
def test_an_address_with_more_than_host_and_port(key: str, value: str, tmp_path: Path) -> None:
    """Clients put a scheme before it, and a path after it."""
    expected = f"FILE: [server] {key}: expected host or host:port, without a scheme and a path, got {value!r}"
    assert refusal(f"[server]\n{key} = '{value}'", tmp_path) == expected
    for good in ("example.com", "example.com:8443", "[::1]:80", "10.0.0.1", ""):
        assert getattr(loaded(f"[server]\n{key} = '{good}'", tmp_path).server, key) == good


@pytest.mark.parametrize("pattern", ["/data", "Data", "my_volume", ""])
def test_bad_names_of_volumes(pattern: str, tmp_path: Path) -> None:
    """A claim could never name them."""
    message = refusal(f"[storage]\nallowed_volumes = ['{pattern}']", tmp_path)
    assert "[storage] allowed_volumes: expected names such as data, or patterns such as data-*" in message


def test_a_file_of_the_opensandbox_server(tmp_path: Path) -> None:
    """It is refused at once, with our key for each of theirs; what both have is not named."""
    text = """
        [server]
        host = "0.0.0.0"
        api_key = "secret-of-the-operator"
        max_sandbox_timeout_seconds = 86400
        [runtime]
        type = "docker"
        execd_image = "opensandbox/execd:v1.1.0"
        [docker]
        pids_limit = 4096
        [storage]
        allowed_host_paths = []
        ossfs_mount_root = "/mnt"
        [renew_intent]
        redis.enabled = false
        [egress]
    """
    message = refusal(text, tmp_path)
    assert message.splitlines() == [
        "FILE: has settings of the OpenSandbox server. Write Sandlot's instead "
        "(see docs/migrating-from-opensandbox.md):",
        '  [server] api_key: [server] api_keys = ["…"]',
        "  [server] max_sandbox_timeout_seconds: [sandbox] max_lifetime, in s; renewals count too",
        "  [runtime] type: leave it out: Sandlot uses the Docker engine; [engine] url where it is not the default one",
        "  [runtime] execd_image: leave it out: Sandlot builds its agent itself (`make images`)",
        "  [docker] pids_limit: [sandbox] pids_limit",
        "  [storage] ossfs_mount_root: leave it out: there are no OSSFS volumes",
        "  [renew_intent] redis: leave it out: a sandbox renews by use if it asks for it: "
        'extensions {"access.renew.extend.seconds": "600"}',
        "  [egress]: leave it out: there are no egress rules; [sandbox] allow_network gives or takes the whole network",
    ]


def test_hints_for_the_opensandbox_server_name_keys_that_exist(tmp_path: Path) -> None:
    """Every `[section] key` in a hint is one of ours, and none of theirs hides one of ours."""
    ours = {(row.section, row.key) for row in settings_table()}
    named = {
        (section, key)
        for keys in UPSTREAM_SETTINGS.values()
        for hint in keys.values()
        for section, key in re.findall(r"\[(\w+)\] (\w+)", hint)
    }
    assert named
    assert named <= ours
    assert not {(section, key) for section, keys in UPSTREAM_SETTINGS.items() for key in keys} & ours


def test_the_migration_page_has_every_key() -> None:
    """Its table is generated, and its example of ours loads."""
    page = (ROOT / "docs/migrating-from-opensandbox.md").read_text()
    assert configuration.migration_table() in page


def test_the_example_of_the_migration_page_is_valid(tmp_path: Path) -> None:
    """Theirs is refused, ours loads."""
    page = (ROOT / "docs/migrating-from-opensandbox.md").read_text()
    theirs, ours = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert "has settings of the OpenSandbox server" in refusal(theirs, tmp_path)
    assert loaded(ours, tmp_path).sandbox.max_lifetime == 86400


def test_directories_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine mounts absolute paths only; `~` is the home directory."""
    monkeypatch.chdir(tmp_path)
    text = "[paths]\nstate_dir = 'state'\nrun_dir = '~/run'\n"
    paths = loaded(text, tmp_path, {"HOME": "/home/somebody"}).paths
    assert (paths.state_dir, paths.run_dir) == (f"{tmp_path}/state", "/home/somebody/run")


@pytest.mark.parametrize(
    ("typed", "resolved"),
    [
        ("opensandbox/code-interpreter:v1.0.2", "sandlot/code-interpreter"),
        ("code-interpreter", "sandlot/code-interpreter"),
        ("mine", "somewhere/else:3"),
        ("mine:4", "somewhere/else:3"),
        ("exact:1", "another"),
        ("exact:2", "exact:2"),
        ("debian:12", "debian:12"),
        ("mine@sha256:0123", "somewhere/else:3"),
        ("docker.io/library/mine:4", "somewhere/else:3"),
        ("reg.example/mine", "reg.example/mine"),  # an alias without a slash is no name in a registry
        ("reg.example:5000/own", "own-image"),
        ("reg.example:5000/own:7", "own-image"),
        ("reg.example/own:7", "reg.example/own:7"),
    ],
)
def test_aliases(typed: str, resolved: str, tmp_path: Path) -> None:
    """An alias without a tag counts with any tag or digest, one with a tag only with that."""
    text = "[aliases]\nmine = 'somewhere/else:3'\n'exact:1' = 'another'\n'reg.example:5000/own' = 'own-image'\n"
    assert loaded(text, tmp_path).resolve_image(typed) == resolved


@pytest.mark.parametrize(
    "name",
    [
        "opensandbox/code-interpreter:v1.0.2",
        "opensandbox/code-interpreter@sha256:133a3c17",
        "docker.io/opensandbox/code-interpreter:v1.1.0",
        "index.docker.io/opensandbox/code-interpreter",
        "ghcr.io/opensandbox-group/opensandbox/code-interpreter:latest",
        "sandbox-registry.cn-zhangjiakou.cr.aliyuncs.com/opensandbox/code-interpreter:v1.1.0",
        "opensandbox/code-interpreter-base:latest",
    ],
)
def test_published_names_of_the_code_interpreter(name: str, tmp_path: Path) -> None:
    """In the default table: they count whatever `alias_any_registry` says."""
    text = "[engine]\nalias_any_registry = false"
    assert loaded(text, tmp_path).resolve_image(name) == "sandlot/code-interpreter"


@pytest.mark.parametrize(
    "name",
    [
        "registry.example:5000/opensandbox/code-interpreter:v1.1.0",
        "localhost:5000/opensandbox/code-interpreter",
        "localhost/opensandbox/code-interpreter:v1",
        "10.0.0.1:443/opensandbox/code-interpreter@sha256:00",
        "harbor.example/mirror/opensandbox/code-interpreter:v1.1.0",
    ],
)
def test_an_alias_in_any_registry(name: str, tmp_path: Path) -> None:
    """With a port or below a project there, by setting."""
    assert loaded("", tmp_path).resolve_image(name) == "sandlot/code-interpreter"
    assert loaded("[engine]\nalias_any_registry = false", tmp_path).resolve_image(name) == name


def test_an_alias_is_not_a_part_of_a_name(tmp_path: Path) -> None:
    """Whole parts only, and no registry, no copy."""
    settings = loaded("", tmp_path)
    for name in (
        "reg.example/notopensandbox/code-interpreter",
        "my/opensandbox/code-interpreter",
        "x/code-interpreter",
    ):
        assert settings.resolve_image(name) == name


def test_every_flag_and_variable_is_unique() -> None:
    """Flags carry no section; two settings must not meet."""
    rows = settings_table()
    assert len({row.flag for row in rows}) == len(rows)
    assert len({row.environment_name for row in rows}) == len(rows)


def test_the_documentation_is_what_the_table_says() -> None:
    """docs/configuration.md is generated."""
    assert (ROOT / "docs/configuration.md").read_text() == configuration.page(), f"run `{configuration.REGENERATE}`"


def test_the_example_in_the_documentation_is_valid(tmp_path: Path) -> None:
    """What people copy loads."""
    example = re.search(r"```toml\n(.*?)```", configuration.page(), re.DOTALL)
    assert example is not None
    assert loaded(example[1], tmp_path).pools[0].size == 2


def test_trusted_proxies_are_addresses(tmp_path: Path) -> None:
    """A name would never match, and whoever believes in it would wonder."""
    assert loaded(
        "[server]\ntrusted_proxies = ['127.0.0.1', '10.0.0.0/8', 'fd00::/8']", tmp_path
    ).server.trusted_proxies
    message = refusal("[server]\ntrusted_proxies = ['proxy.example']", tmp_path)
    expected = "expected addresses or networks such as 10.0.0.0/8, got 'proxy.example'"
    assert message == f"FILE: [server] trusted_proxies: {expected}"


def test_a_collector_has_an_address_and_headers(tmp_path: Path) -> None:
    """A wrong header is not repeated: it may hold a key."""
    good = "[traces]\nendpoint = 'https://otel.example:4318/otlp'\ncollector_headers = ['Authorization: Bearer x']"
    assert loaded(good, tmp_path).traces.collector_headers == ("Authorization: Bearer x",)
    assert "Bearer" not in repr(loaded(good, tmp_path).traces)
    message = refusal("[traces]\nendpoint = 'localhost:4318'", tmp_path)
    assert message == "FILE: [traces] endpoint: expected an address such as http://localhost:4318, got 'localhost:4318'"
    message = refusal("[traces]\ncollector_headers = ['Bearer secret']", tmp_path)
    assert message == "FILE: [traces] collector_headers: expected texts such as 'Name: value', got another one"
    assert "sample_ratio" in refusal("[traces]\nsample_ratio = 2", tmp_path)
