"""Settings: sources, precedence, and errors that name the place, the key and what was expected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controlplane import reference
from controlplane.config import FOREIGN_VARIABLES, Settings, load, settings_table
from controlplane.errors import ConfigError

ROOT = Path(__file__).parents[2]


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
    text = "[sandbox]\npool_size = 1\ncpu_quota = 50000\nmemory_limit = 65536\n"
    environment = {"SANDBOX_POOL_SIZE": "2", "SANDBOX_CPU_QUOTA": "25000"}
    sandbox = loaded(text, tmp_path, environment, sandbox__pool_size="3").sandbox
    assert (sandbox.pool_size, sandbox.cpu_quota, sandbox.memory_limit) == (3, 25_000, 65_536)


def test_the_names_of_the_product_brief(tmp_path: Path) -> None:
    """[sandbox] and SANDBOX_… have the names and units that the brief gives them."""
    text = "[sandbox]\ntimeout_seconds = 30.5\nmax_lifetime = 3600\n"
    environment = {
        "SANDBOX_POOL_SIZE": "7",
        "SANDBOX_CPU_QUOTA": "150000",
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
        (
            "[zzz]",
            "FILE: there is no such section `zzz`; "
            "there are: server, sandbox, pools, engine, storage, paths, logs, aliases",
        ),
        ("server = 5", "FILE: [server]: expected `object`, got `int`"),
        ("[sandbox]\npool_size = 1.5", "FILE: [sandbox] pool_size: expected a whole number from 0 to 1000, got 1.5"),
        ("[sandbox]\npool_size = -1", "FILE: [sandbox] pool_size: expected a whole number from 0 to 1000, got -1"),
        ("[sandbox]\ncpu_quota = 10", "FILE: [sandbox] cpu_quota: expected 0 or at least 1000 µs, got 10"),
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
        ("[[pools]]\nimage = 'a'", "FILE: [[pools]] no. 1: object missing required field `size`"),
        (
            "[[pools]]\nimage = 'a'\nsize = 1\n[[pools]]\nimage = 'b'\nsize = -1",
            "FILE: [[pools]] no. 2 size: expected a whole number from 0 to 1000, got -1",
        ),
        ("[aliases]\na = 1", "FILE: [aliases]: expected `str`, got `int`"),
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
    message = refusal("", tmp_path, {"SANDBOX_CPU_QUOTA": "10"})
    assert message == "SANDBOX_CPU_QUOTA: [sandbox] cpu_quota: expected 0 or at least 1000 µs, got 10"


def test_an_error_in_a_flag_names_the_flag(tmp_path: Path) -> None:
    """As it was typed."""
    message = refusal("", tmp_path, sandbox__pool_size="x")
    assert message == "--pool-size: [sandbox] pool_size: expected a whole number from 0 to 1000, got 'x'"


@pytest.mark.parametrize("keys", ["['']", "['short']", "['has a blank in it but is long']", "'not-a-list-but-long'"])
def test_bad_api_keys_are_refused_and_not_shown(keys: str, tmp_path: Path) -> None:
    """An empty key would let everybody in. The message says what a key is, and does not repeat the one given."""
    message = refusal(f"[server]\napi_keys = {keys}", tmp_path)
    expected = "a list of texts, each of 16 visible ASCII characters or more"
    assert message == f"FILE: [server] api_keys: expected {expected}"


@pytest.mark.parametrize("name", ["SANDBOX_POOLSIZE", "SANDBOX_POOL_SIZ"])
def test_a_mistyped_variable_is_an_error(name: str, tmp_path: Path) -> None:
    """It would silently do nothing otherwise."""
    message = refusal("", tmp_path, {name: "5"})
    assert message == f"{name}: there is no such setting (did you mean SANDBOX_POOL_SIZE?); unset it, or rename it"


def test_an_unknown_variable_of_ours_is_an_error(tmp_path: Path) -> None:
    """Also when nothing is close to it."""
    assert refusal("", tmp_path, {"SANDLOT_Q": "5"}) == ("SANDLOT_Q: there is no such setting; unset it, or rename it")


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    """Those of the official clients begin otherwise, or are known not to be ours."""
    others = {"OPEN_SANDBOX_API_KEY": "x", "OPEN_SANDBOX_DOMAIN": "y", "IS_SANDBOX": "yes", "SANDBOX": "1"}
    assert loaded("", tmp_path, others | dict.fromkeys(FOREIGN_VARIABLES, "z")).server.port == 8194


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    """A missing ~/.sandbox.toml is normal, a missing --config is not."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "nowhere.toml", {}, {})


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8."""
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"settings\.toml: not valid TOML"):
        load(file, {}, {})


def test_two_pools_of_the_same_are_refused(tmp_path: Path) -> None:
    """Aliases resolved: they would be one pool, of a size that nobody wrote down."""
    message = refusal("[[pools]]\nimage = 'opensandbox/code-interpreter:v1'\nsize = 1", tmp_path)
    assert "[[pools]] no. 1: there is a pool of opensandbox/code-interpreter:v1 already" in message
    other_network = "[[pools]]\nimage = 'code-interpreter'\nsize = 1\nallow_network = true"
    assert len(loaded(other_network, tmp_path).pools) == 1


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
    ],
)
def test_aliases(typed: str, resolved: str, tmp_path: Path) -> None:
    """An alias without a tag counts with any tag, one with a tag only with that."""
    text = "[aliases]\nmine = 'somewhere/else:3'\n'exact:1' = 'another'\n"
    assert loaded(text, tmp_path).resolve_image(typed) == resolved


def test_every_flag_and_variable_is_unique() -> None:
    """Flags carry no section; two settings must not meet."""
    rows = settings_table()
    assert len({row.flag for row in rows}) == len(rows)
    assert len({row.environment_name for row in rows}) == len(rows)


def test_the_documentation_is_what_the_table_says() -> None:
    """docs/configuration.md is generated."""
    assert (ROOT / "docs/configuration.md").read_text() == reference.page(), f"run `{reference.REGENERATE}`"


def test_the_example_in_the_documentation_is_valid(tmp_path: Path) -> None:
    """What people copy loads."""
    example = re.search(r"```toml\n(.*?)```", reference.page(), re.DOTALL)
    assert example is not None
    assert loaded(example[1], tmp_path).pools[0].size == 2
