"""Credit, in exact numbers."""

from __future__ import annotations

import pytest

from execd.wire.errors import LocalProtocolError, RemoteProtocolError
from execd.wire.flow import INITIAL_WINDOW_BYTES, MAX_LARGE_BYTES, LargeMessages, ReceiveWindow, SendWindow

WINDOW = 524288


def test_a_window_is_512_kib() -> None:
    """Part of generation 1."""
    assert INITIAL_WINDOW_BYTES == WINDOW


def test_a_sender_may_use_its_window_to_the_last_byte() -> None:
    """And not one more."""
    window = SendWindow()
    window.spend(WINDOW - 1)
    window.spend(1)
    assert window.available == 0
    with pytest.raises(LocalProtocolError):
        window.spend(1)
    assert window.available == 0


def test_credit_gives_back_what_was_spent() -> None:
    """Spend 100,000, get 100,000 back: the window is whole again."""
    window = SendWindow()
    window.spend(100_000)
    window.grant(100_000)
    assert window.available == WINDOW


@pytest.mark.parametrize("amount", [0, 11, (1 << 32) - 1])
def test_a_peer_cannot_grant_nothing_or_more_than_was_spent(amount: int) -> None:
    """A window never grows: a peer's word cannot make us send, and keep, gigabytes."""
    window = SendWindow()
    window.spend(10)
    with pytest.raises(RemoteProtocolError):
        window.grant(amount)


def test_a_receiver_takes_its_window_to_the_last_byte() -> None:
    """One byte more is a breach."""
    window = ReceiveWindow()
    window.take(WINDOW)
    with pytest.raises(RemoteProtocolError):
        window.take(1)


def test_credit_goes_back_in_halves_of_a_window() -> None:
    """262,143 bytes taken in give nothing yet; one more gives all of them."""
    window = ReceiveWindow()
    window.take(400_000)
    assert window.give_back(262_143) == 0
    assert window.available == WINDOW - 400_000
    assert window.give_back(1) == 262_144
    assert window.available == WINDOW - 400_000 + 262_144
    assert window.give_back(262_143) == 0


def test_a_frame_that_fits_always_gets_through() -> None:
    """However the receiver holds credit back, when it has taken all in there is room for a full frame."""
    send, receive = SendWindow(), ReceiveWindow()
    for size in [65_546] * 50 + [11] * 5_000 + [65_546] * 50:
        send.spend(size)
        receive.take(size)
        if credit := receive.give_back(size):
            send.grant(credit)
        assert send.available == receive.available
        assert send.available >= 65_546


def test_large_messages_may_grow_until_the_limit_and_then_only_the_oldest() -> None:
    """One of them always goes on, so that all end some time."""
    large = LargeMessages()
    large.hold(5, MAX_LARGE_BYTES - 1)
    assert large.may_grow(6)
    large.hold(6, 1)
    assert large.may_grow(5)
    assert not large.may_grow(6)
    assert not large.may_grow(7)
    assert large.release(5)
    assert large.total_bytes == 1
    assert large.may_grow(7)
    assert not large.release(5)
    assert large.release(6)
    assert large.total_bytes == 0
