"""The order in which connections parse input: in rounds by address, and in a slow lane for costly input."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from controlplane.listener.bounds import LANE_SHARE, TURNS_A_ROUND

Turn = Callable[[], None]
_PAUSE_RATIO = 1 / LANE_SHARE - 1


class Rounds:
    """A few turns in each round of the event loop, of one client address after the other.

    A parsed request is handled in the same round. Requests on a thousand connections would make a round last for
    seconds, and each round accepts one new connection only. So rounds are short, and a client that sends requests on
    many connections makes only itself wait.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Turn]] = {}  # by address; the first one is next
        self._left = TURNS_A_ROUND
        self._is_planned = False

    def has_room(self) -> bool:
        """Return whether a turn may begin at once, and count it then."""
        if self._waiting or not self._left:
            return False
        self._left -= 1
        self._plan()
        return True

    def put(self, address: str, turn: Turn) -> None:
        """Call *turn* once, later."""
        self._waiting.setdefault(address, deque()).append(turn)
        self._plan()

    def _plan(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Begin a round with the waiting turns."""
        self._is_planned = False
        self._left = TURNS_A_ROUND
        if self._waiting:
            self._plan()  # first, so that a failing turn does not stop the others
        while self._waiting and self._left:
            self._left -= 1
            self._next()()

    def _next(self) -> Turn:
        address = next(iter(self._waiting))
        turns = self._waiting.pop(address)
        turn = turns.popleft()
        if turns:
            self._waiting[address] = turns  # behind the other addresses
        return turn


class SlowLane:
    """One turn at a time, for all connections whose turns end by the number of events in them.

    Chunks of one byte, empty fragments and pings are legal, so the server does not end a connection that sends nothing
    else. All such connections share LANE_SHARE of the event loop; all others have the rest.
    """

    def __init__(self) -> None:
        self._turns: deque[Turn] = deque()
        self._is_running = False

    def put(self, turn: Turn) -> None:
        """Call *turn* once, later."""
        self._turns.append(turn)
        if not self._is_running:
            self._is_running = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        if not self._turns:
            self._is_running = False
            return
        began = time.perf_counter()
        self._turns.popleft()()
        # The application handles the turn's events afterwards, which costs about as much as the turn.
        pause = 2 * _PAUSE_RATIO * (time.perf_counter() - began)
        asyncio.get_running_loop().call_later(max(pause, 0.001), self._run)
