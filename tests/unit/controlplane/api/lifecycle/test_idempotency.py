"""Work that is asked for again under the same key is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from controlplane.api.lifecycle.idempotency import KEPT_S, MAX_KEPT, Idempotency
from controlplane.errors import Conflict, InvalidRequest, RuntimeFailure
from tests.support.server.api_server import serving

BODY = {"image": {"uri": "python:3.11"}, "entrypoint": ["sleep", "inf"]}


class Work:
    """Counts how often it is done; waits for `gate`, then fails as often as it was told to."""

    def __init__(self, failures: int = 0) -> None:
        self.times = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._failures = failures

    async def __call__(self) -> int:
        self.times += 1
        await self.gate.wait()
        if self._failures:
            self._failures -= 1
            raise RuntimeFailure("not today")
        return self.times


def test_keys_are_independent_and_no_key_is_no_promise() -> None:
    async def main() -> None:
        once, work = Idempotency[int](), Work()
        assert [await once.once(key, b"", work) for key in ("a", "a", "b", None, None, "a")] == [1, 1, 2, 3, 4, 1]

    asyncio.run(main())


def test_who_comes_while_it_is_under_way_waits_for_the_same() -> None:
    """Also when the first one has hung up meanwhile."""

    async def main() -> None:
        once, work = Idempotency[int](), Work()
        work.gate.clear()
        first, second = (asyncio.ensure_future(once.once("a", b"", work)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        work.gate.set()
        assert (first.cancelled(), await second, work.times) == (True, 1, 1)

    asyncio.run(main())


def test_another_body_is_refused_and_a_failure_forgotten() -> None:
    async def main() -> None:
        once, work = Idempotency[int](), Work(failures=1)
        with pytest.raises(RuntimeFailure):
            await once.once("a", b"1", work)
        assert await once.once("a", b"2", work) == 2
        with pytest.raises(Conflict):
            await once.once("a", b"1", work)
        for key in ("", "x" * 256, "a\nb"):
            with pytest.raises(InvalidRequest):
                await once.once(key, b"", work)
        assert work.times == 2

    asyncio.run(main())


def test_keys_are_forgotten_after_a_day_and_when_there_are_too_many() -> None:
    async def main(times: Iterator[float]) -> None:
        now = next(times)
        once, work = Idempotency[int](lambda: now), Work()
        assert await once.once("a", b"", work) == 1
        now = next(times)
        assert await once.once("a", b"", work) == 1
        now = next(times)
        assert await once.once("a", b"", work) == 2
        for number in range(MAX_KEPT - 1):
            await once.once(f"{number}", b"", work)
        before = work.times
        await once.once("a", b"", work)
        assert work.times == before + 1

    asyncio.run(main(iter((0.0, KEPT_S - 1, KEPT_S + 1))))


async def test_a_create_that_is_repeated_makes_one_sandbox() -> None:
    async with serving() as edge, edge.client(**{"Idempotency-Key": "k"}) as client:
        answers = [await client.post("/sandboxes", json=BODY) for _ in range(2)]
        other = await client.post("/sandboxes", json=BODY | {"timeout": 60})
        bad = await client.post("/sandboxes", json=BODY, headers={"Idempotency-Key": "x" * 300})
        count = (await client.get("/sandboxes")).json()["pagination"]["totalItems"]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert (other.status_code, bad.status_code, count) == (409, 400, 1)
