"""How many connections there may be, and which of them make room."""

from __future__ import annotations

from controlplane.listener.bounds import MAX_REFUSED
from controlplane.listener.connections import ConnectionTable


class Connection:
    """A connection."""

    def __init__(self) -> None:
        self.has_made_room = False

    def check(self, now: float) -> None:
        """No time limits here."""

    def make_room(self) -> None:
        """It has lost."""
        self.has_made_room = True


def connections(most: int = 0, most_of_one: int = 0) -> ConnectionTable:
    """The trusted proxy is 192.0.2.1."""
    return ConnectionTable(most, most_of_one, lambda address: address == "192.0.2.1")


def test_the_address_with_most_idle_connections_makes_room() -> None:
    """And of its connections the one that has been idle longest; who is at work stays."""
    all_of_them = connections(most=4)
    lonely, busy, first, second, new = (Connection() for _ in range(5))
    all_of_them.admit(lonely, "198.51.100.1")
    for connection in (busy, first, second):
        all_of_them.admit(connection, "198.51.100.2")
    all_of_them.work(busy)
    assert all_of_them.admit(new, "198.51.100.3")
    assert [each.has_made_room for each in (lonely, busy, first, second)] == [False, False, True, False]
    assert len(all_of_them) == 4


def test_an_address_at_its_limit_loses_its_own() -> None:
    """Others are not asked."""
    all_of_them = connections(most_of_one=1)
    other, first, second = Connection(), Connection(), Connection()
    all_of_them.admit(other, "198.51.100.1")
    all_of_them.admit(first, "198.51.100.2")
    assert all_of_them.admit(second, "198.51.100.2")
    assert (other.has_made_room, first.has_made_room) == (False, True)
    all_of_them.work(second)
    assert not all_of_them.admit(Connection(), "198.51.100.2")
    all_of_them.remove(second)
    assert all_of_them.admit(Connection(), "198.51.100.2")


def test_a_trusted_proxy_has_no_limit_of_its_own() -> None:
    """All clients come from its address."""
    all_of_them = connections(most_of_one=1)
    proxied = [Connection() for _ in range(3)]
    assert all(all_of_them.admit(each, "192.0.2.1") for each in proxied)
    assert not any(each.has_made_room for each in proxied)


def test_refused_connections_are_few() -> None:
    """They wait to be told why; the oldest goes without."""
    all_of_them = connections(most=1)
    busy = Connection()
    all_of_them.admit(busy, "198.51.100.1")
    all_of_them.work(busy)
    refused = [Connection() for _ in range(MAX_REFUSED + 2)]
    assert not any(all_of_them.admit(each, "198.51.100.1") for each in refused)
    assert [each.has_made_room for each in refused[:3]] == [True, True, False]
    assert len(all_of_them) == 1


def test_a_connection_that_becomes_another_is_counted_once() -> None:
    """As WebSocket it is at work."""
    all_of_them = connections(most=1)
    http, socket = Connection(), Connection()
    all_of_them.admit(http, "198.51.100.1")
    all_of_them.replace(http, socket)
    assert not all_of_them.admit(Connection(), "198.51.100.1")
    all_of_them.remove(socket)
    assert all_of_them.admit(Connection(), "198.51.100.1")


def test_who_has_never_asked_anything_makes_room_first() -> None:
    """A client that keeps its connection for later is not disturbed by a flood of silent ones, even of its address."""
    all_of_them = connections(most_of_one=2)
    asked, silent = Connection(), Connection()
    all_of_them.admit(asked, "198.51.100.1")
    all_of_them.work(asked)
    all_of_them.rest(asked, is_new=False)
    all_of_them.admit(silent, "198.51.100.1")
    assert all_of_them.admit(Connection(), "198.51.100.1")
    assert (asked.has_made_room, silent.has_made_room) == (False, True)
