"""API keys: made, looked up, changed and withdrawn, and what their scopes allow."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controlplane.access import keys as keys_module
from controlplane.access.key import Quotas
from controlplane.access.keys import MAX_KEY_CHARS, Keys
from controlplane.access.scopes import (
    MAX_SCOPES,
    OPERATOR,
    Caller,
    Needs,
    caller_for_sandbox,
    caller_of_key,
    check_scopes,
)
from controlplane.errors import Conflict, InvalidRequest, NotFound
from controlplane.store.store import Store
from tests.support.clock import Clock

NOW = datetime(2026, 11, 28, tzinfo=UTC).timestamp()
CONFIGURED = {"ada": "one-key-of-many", "key-2": "another-key"}


# -- configured keys ----------------------------------------


def test_configured_keys_are_administrators() -> None:
    """Each of them opens everything, under its name."""
    keys = Keys(CONFIGURED)
    for name, text in CONFIGURED.items():
        caller = keys.caller(text)
        assert caller is not None
        assert (caller.name, caller.is_admin, caller.owner) == (name, True, "admin")


@pytest.mark.parametrize("text", ["", "one-key-of-man", "one-key-of-many ", "\udcff", "ключ", "\0", "a" * 100_000])
def test_whatever_else_is_no_key(text: str) -> None:
    """Headers can hold anything; that is a refusal and no crash."""
    assert Keys(CONFIGURED).caller(text) is None
    assert Keys({}).caller(text) is None


@pytest.mark.attack("resources", "a key of 64 KiB is sent", "it is refused without being hashed")
def test_a_text_longer_than_any_key_is_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if it were the key: with the bound lifted, it is looked up."""
    long = "k" * (MAX_KEY_CHARS + 1)
    keys = Keys({"long": long})
    assert keys.caller(long) is None
    assert not keys.is_key(long)
    monkeypatch.setattr(keys_module, "MAX_KEY_CHARS", 1000)
    assert keys.caller(long) is not None


def test_configured_keys_are_not_changed(store: Store) -> None:
    """The settings say what they are."""
    keys = Keys(CONFIGURED, store)
    for change in (lambda: keys.change("ada", name="eve"), lambda: keys.withdraw("ada")):
        with pytest.raises(Conflict, match=r"key ada is not in the store: it comes from \[server\] api_keys"):
            change()
    assert keys.caller("one-key-of-many") is not None


# -- keys of the store ----------------------------------------


def test_a_key_is_made_and_known_after_a_restart(store: Store) -> None:
    """It is shown once, has a prefix that scanners know, and belongs to itself."""
    key, text = Keys(CONFIGURED, store).create("bot", ("create",), Quotas(sandboxes=3), created_by="ada")
    assert text.startswith("sandlot_")
    assert len(text) > 40
    assert (key.owner, key.created_by) == (key.id, "ada")
    again = Keys(CONFIGURED, store)
    caller = again.caller(text)
    assert caller == caller_of_key(key)
    assert [each.name for each in again.list()] == ["ada", "key-2", "bot"]
    assert again.get(key.id).quotas == Quotas(sandboxes=3)


@pytest.mark.attack("secrets", "the store is read for API keys", "it holds hashes only")
def test_no_key_is_in_the_store(tmp_path: Path) -> None:
    """The text stands in none of its files; the hash does, so the search would have found it."""
    store = Store(tmp_path)
    key, text = Keys({}, store).create("bot", ("admin",), Quotas())
    store.checkpoint()
    store.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert text.encode() not in content
    assert text.removeprefix("sandlot_").encode() not in content
    assert key.digest.encode() in content


def test_an_older_store_gets_the_table(tmp_path: Path) -> None:
    """A store of the version before has no keys; what is in it stays, and belongs to the administrator."""
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "sandlot.db") as database:
        database.execute("DROP TABLE keys")
        database.execute("DROP TABLE sign_ins")
        database.execute("PRAGMA user_version=2")
    database.close()
    store = Store(tmp_path)
    assert store.api_keys() == []
    Keys({}, store).create("bot", ("read",), Quotas())
    store.close()


def test_a_withdrawn_key_opens_nothing_any_more(store: Store) -> None:
    """Now, and after a restart; whoever holds its connections hears of it."""
    ended: list[str] = []
    keys = Keys(CONFIGURED, store, on_narrowed=ended.append)
    key, text = keys.create("bot", ("create",), Quotas())
    assert keys.may_use(key.id, "a")
    assert keys.withdraw(key.id).name == "bot"
    assert ended == [key.id]
    assert keys.caller(text) is None
    assert not keys.may_use(key.id, "a")
    with pytest.raises(NotFound, match=f"there is no key {key.id}"):
        keys.withdraw(key.id)
    assert Keys(CONFIGURED, store).caller(text) is None


def test_a_key_is_changed(store: Store) -> None:
    """What is not said stays as it is; only other scopes end its connections."""
    ended: list[str] = []
    keys = Keys(CONFIGURED, store, on_narrowed=ended.append)
    key, text = keys.create("bot", ("create",), Quotas(cpus=1.0))
    keys.change(key.id, name="robot", quotas=Quotas(cpus=2.0))
    assert ended == []
    keys.change(key.id, scopes=("read",))
    assert ended == [key.id]
    for each in (keys, Keys(CONFIGURED, store)):
        found = each.get(key.id)
        assert (found.name, found.scopes, found.quotas) == ("robot", ("read",), Quotas(cpus=2.0))
        caller = each.caller(text)
        assert caller is not None
        assert caller.scopes == {"read"}


def test_a_key_expires(store: Store) -> None:
    """At its time, not before."""
    clock = Clock(NOW)
    keys = Keys({}, store, clock=clock)
    moment = datetime.fromtimestamp(clock.now, UTC) + timedelta(seconds=60)
    key, text = keys.create("bot", ("create",), Quotas(), expires_at=moment)
    assert keys.caller(text) is not None
    assert keys.may_use(key.id, "a")
    clock.now += 60
    assert keys.caller(text) is None
    assert not keys.may_use(key.id, "a")
    assert keys.is_key(text)  # it is still kept from services behind a port
    with pytest.raises(InvalidRequest, match="must be in the future"):
        keys.create("late", ("read",), Quotas(), expires_at=moment)


def test_the_last_use_is_kept_by_the_minute(store: Store) -> None:
    """A busy key writes the store once a minute."""
    clock = Clock(NOW)
    keys = Keys({}, store, clock=clock)
    key, text = keys.create("bot", ("read",), Quotas())
    assert keys.get(key.id).last_used_at is None
    for seconds, used_at in ((0, 0), (59, 0), (61, 61)):
        clock.now = NOW + seconds
        keys.caller(text)
        (kept,) = store.api_keys()
        assert kept.last_used_at == datetime.fromtimestamp(NOW + used_at, UTC)


def test_names_are_taken_once(store: Store) -> None:
    """Those of the settings too."""
    keys = Keys(CONFIGURED, store)
    key, _ = keys.create("bot", ("read",), Quotas())
    for name in ("bot", "ada"):
        with pytest.raises(Conflict, match=f"name: there is a key {name} already"):
            keys.create(name, ("read",), Quotas())
    with pytest.raises(Conflict, match="there is a key ada already"):
        keys.change(key.id, name="ada")
    keys.change(key.id, name="bot")


def test_there_are_not_too_many_keys(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator's script that goes wild fills nothing."""
    monkeypatch.setattr(keys_module, "MAX_KEYS", 2)
    keys = Keys(CONFIGURED, store)
    for name in ("a", "b"):
        keys.create(name, ("read",), Quotas())
    with pytest.raises(Conflict, match="there are 2 keys already: withdraw one"):
        keys.create("c", ("read",), Quotas())


# -- scopes ----------------------------------------


@pytest.mark.parametrize("scopes", [(), ("root",), ("sandbox:",), ("sandbox:a/b",), ("Admin",), ("create", "")])
def test_what_is_no_scope(scopes: tuple[str, ...]) -> None:
    """The message names those there are."""
    with pytest.raises(InvalidRequest, match="admin, create, read and sandbox:ID"):
        check_scopes(scopes)


def test_scopes_are_sorted_and_bounded() -> None:
    """Each once."""
    assert check_scopes(("read", "create", "read")) == ("create", "read")
    assert len(check_scopes([f"sandbox:{number}" for number in range(MAX_SCOPES)])) == MAX_SCOPES
    with pytest.raises(InvalidRequest, match="a key has 1 to 32"):
        check_scopes([f"sandbox:{number}" for number in range(MAX_SCOPES + 1)])


def a_caller(*scopes: str, owner: str = "me") -> Caller:
    """Somebody with these scopes."""
    keys = Keys({})
    key, _ = keys.create("k", scopes, Quotas(), owner=owner)
    return caller_of_key(key)


@pytest.mark.parametrize(
    ("scopes", "needs"),
    [
        ("admin", {Needs.KEY, Needs.READ, Needs.USE, Needs.CREATE, Needs.WATCH, Needs.ADMIN}),
        ("create", {Needs.KEY, Needs.READ, Needs.USE, Needs.CREATE}),
        ("read", {Needs.KEY, Needs.READ, Needs.WATCH}),
        ("sandbox:s", {Needs.KEY, Needs.READ, Needs.USE}),
    ],
)
def test_what_a_scope_allows_with_a_sandbox(scopes: str, needs: set[Needs]) -> None:
    """With sandbox s."""
    caller = a_caller(scopes)
    assert {need for need in Needs if caller.may(need, "s")} - {Needs.NOTHING} == needs


def test_scopes_add_up() -> None:
    """A reader of everything may own one sandbox."""
    caller = a_caller("read", "sandbox:s")
    assert caller.may(Needs.USE, "s")
    assert not caller.may(Needs.USE, "t")
    assert caller.may(Needs.READ, "t")


def test_who_sees_what() -> None:
    """One's owner's; everything, for an administrator and who has the administrator as owner; one sandbox alone."""
    assert a_caller("create").sees("me", "s")
    assert not a_caller("create").sees("other", "s")
    assert not a_caller("create").sees("admin", "s")
    for caller in (a_caller("admin"), a_caller("read", owner="admin"), OPERATOR):
        assert caller.sees("other", "s")
    for caller in (a_caller("sandbox:s"), caller_for_sandbox("s", "token")):
        assert caller.sees("other", "s")
        assert not caller.sees("other", "t")
        assert not caller.sees("me", "t")
        assert not caller.sees("", "t")
