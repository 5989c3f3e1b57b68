"""Sign-ins and links: how long they last, what ends them, and how many there may be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.access.key import Quotas, SignIn
from controlplane.access.keys import Keys
from controlplane.access.sign_ins import LINK_S, MAX_LINKS, MAX_SIGN_INS, MAX_TOKEN_CHARS, Links, SignIns
from controlplane.errors import StoreError
from tests.support.clock import Clock

KEY = "sandlot_test_key"


class MemoryStore:
    """A store of sign-ins; with `is_stuck`, one that can write nothing."""

    def __init__(self) -> None:
        self.kept: dict[str, SignIn] = {}
        self.is_stuck = False

    def put_sign_in(self, sign_in: SignIn) -> None:
        """Keep one."""
        self._write()
        self.kept[sign_in.id] = sign_in

    def delete_sign_in(self, sign_in_id: str) -> None:
        """Forget one."""
        self._write()
        self.kept.pop(sign_in_id, None)

    def sign_ins(self) -> list[SignIn]:
        """Return all."""
        return list(self.kept.values())

    def _write(self) -> None:
        if self.is_stuck:
            raise StoreError("stuck")


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock(1_700_000_000.0)


@pytest.fixture
def keys(clock: Clock) -> Keys:
    """One configured key."""
    return Keys({"key-1": KEY}, clock=clock)


def sign_ins_of(keys: Keys, clock: Clock, store: MemoryStore, on_ended: Callable[[str], None] = print) -> SignIns:
    """The sign-ins of a server that starts now."""
    return SignIns(keys, store, hours=12, on_ended=on_ended, clock=clock)


def test_a_sign_in_lasts_so_long(keys: Keys, clock: Clock) -> None:
    made = sign_ins_of(keys, clock, MemoryStore())
    token, caller = made.begin(keys.get("key-1"))
    assert (caller.name, caller.actor, caller.is_admin) == ("key-1", "console key-1", True)
    assert caller.expires_at == clock() + 12 * 3600
    assert made.seconds_left(caller) == 12 * 3600
    clock.now += 12 * 3600 - 1
    assert made.caller(token) == caller
    clock.now += 1
    assert made.caller(token) is None


def test_a_sign_in_ends_before_its_key(keys: Keys, clock: Clock) -> None:
    """The earlier end counts."""
    expires = datetime.fromtimestamp(clock(), UTC) + timedelta(hours=1)
    key, _ = keys.create("short", ("read",), Quotas(), expires_at=expires)
    token, caller = sign_ins_of(keys, clock, store := MemoryStore()).begin(key)
    assert caller.expires_at == expires.timestamp()
    clock.now += 3600
    assert sign_ins_of(keys, clock, store).caller(token) is None


def test_the_store_holds_no_cookie(keys: Keys, clock: Clock) -> None:
    """Who reads it cannot sign in."""
    store = MemoryStore()
    token, _ = sign_ins_of(keys, clock, store).begin(keys.get("key-1"))
    assert token not in repr(store.kept)
    (kept,) = store.kept.values()
    assert sign_ins_of(keys, clock, store).caller(kept.id) is None


def test_a_restart_keeps_sign_ins_and_their_ends(keys: Keys, clock: Clock) -> None:
    store = MemoryStore()
    first = sign_ins_of(keys, clock, store)
    (kept, _), (ended, caller) = first.begin(keys.get("key-1")), first.begin(keys.get("key-1"))
    told: list[str] = []
    sign_ins_of(keys, clock, store, told.append).end(caller.sign_in)
    after = sign_ins_of(keys, clock, store)
    assert after.caller(kept) is not None
    assert after.caller(ended) is None
    assert told == [caller.sign_in]


def test_an_end_that_cannot_be_written_down_is_told(keys: Keys, clock: Clock) -> None:
    """It holds until the next start all the same."""
    store = MemoryStore()
    made = sign_ins_of(keys, clock, store)
    token, caller = made.begin(keys.get("key-1"))
    store.is_stuck = True
    with pytest.raises(StoreError):
        made.end(caller.sign_in)
    assert made.caller(token) is None
    with pytest.raises(StoreError):
        made.begin(keys.get("key-1"))
    assert len(store.kept) == 1


def test_another_key_of_the_same_name_is_not_signed_in(keys: Keys, clock: Clock) -> None:
    """A configured key keeps its name when the operator changes its text."""
    store = MemoryStore()
    token, _ = sign_ins_of(keys, clock, store).begin(keys.get("key-1"))
    code, _ = Links(keys, clock).make("key-1")
    changed = Keys({"key-1": "sandlot_another_key"}, clock=clock)
    assert sign_ins_of(changed, clock, store).caller(token) is None
    assert Links(changed, clock).redeem(code) is None


def test_a_key_has_so_many_sign_ins(keys: Keys, clock: Clock) -> None:
    """The oldest ends for a new one; those of other keys stay."""
    other, _ = keys.create("other", ("read",), Quotas())
    ended: list[str] = []
    made = sign_ins_of(keys, clock, store := MemoryStore(), ended.append)
    others, _ = made.begin(other)
    tokens = []
    for _ in range(MAX_SIGN_INS + 2):
        clock.now += 1
        tokens.append(made.begin(keys.get("key-1"))[0])
    assert [made.caller(token) is None for token in tokens] == [True, True, *[False] * MAX_SIGN_INS]
    assert made.caller(others) is not None
    assert (len(ended), len(store.kept)) == (2, MAX_SIGN_INS + 1)


def test_what_opens_nothing_is_forgotten(keys: Keys, clock: Clock) -> None:
    """At the next sign-in, whoever it is; a look at the others is no use of their keys."""
    key, _ = keys.create("gone", ("read",), Quotas())
    made = sign_ins_of(keys, clock, store := MemoryStore())
    made.begin(key)
    keys.withdraw(key.id)
    used = keys.get("key-1").last_used_at
    made.begin(other := keys.create("other", ("read",), Quotas())[0])
    assert {each.key_id for each in store.kept.values()} == {other.id}
    assert keys.get("key-1").last_used_at == used


@pytest.mark.parametrize("text", ["", "x" * (MAX_TOKEN_CHARS + 1), "x" * 1_000_000, "\udcff", "é"])
def test_what_is_no_token_is_nobody(keys: Keys, clock: Clock, text: str) -> None:
    made = sign_ins_of(keys, clock, MemoryStore())
    made.begin(keys.get("key-1"))
    assert made.caller(text) is None
    assert Links(keys, clock).redeem(text) is None


# -- links ----------------------------------------


def test_a_link_opens_once_and_in_time(keys: Keys, clock: Clock) -> None:
    links = Links(keys, clock)
    (first, expires), (second, _), (long, _) = links.make("key-1"), links.make("key-1"), links.make("key-1", 3600)
    assert expires == clock() + LINK_S
    assert links.redeem(first) == keys.get("key-1")
    assert links.redeem(first) is None
    clock.now += LINK_S
    assert links.redeem(second) is None
    assert links.redeem(long) is not None


def test_a_link_ends_with_its_key(keys: Keys, clock: Clock) -> None:
    links = Links(keys, clock)
    key, _ = keys.create("gone", ("read",), Quotas())
    code, _ = links.make(key.id)
    keys.withdraw(key.id)
    assert links.redeem(code) is None


def test_a_key_has_so_many_links(keys: Keys, clock: Clock) -> None:
    """The oldest goes for a new one; those of other keys stay."""
    links = Links(keys, clock)
    other, _ = keys.create("other", ("read",), Quotas())
    others, _ = links.make(other.id)
    codes = [links.make("key-1")[0] for _ in range(MAX_LINKS + 1)]
    assert links.redeem(codes[0]) is None
    assert links.redeem(codes[1]) is not None
    assert links.redeem(others) is not None
