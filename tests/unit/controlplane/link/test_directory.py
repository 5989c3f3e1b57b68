"""The directory of links: who waits gets the link, an error, or an end in time; nobody is forgotten in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from controlplane.errors import LinkLost, StartFailed
from controlplane.link.directory import Directory
from controlplane.link.link import Link
from execd.wire.messages import MetricsRead
from tests.support.agent.execd_link import ControlPlaneEnd, control_plane_of


@pytest.fixture
async def end() -> AsyncIterator[ControlPlaneEnd]:
    async with control_plane_of({MetricsRead: lambda stream, request: asyncio.sleep(0)}) as end:
        yield end


@pytest.fixture
def directory() -> Directory:
    return Directory()


def is_empty(directory: Directory) -> bool:
    """Whether nobody waits."""
    return not directory._waiters


async def test_a_link_that_is_there_is_returned_at_once(directory: Directory, link: Link) -> None:
    """Nobody waits for it."""
    directory.put(link)
    assert directory.get(link.sandbox_id) is link
    assert await directory.wait(link.sandbox_id, timeout_s=0) is link
    assert directory.get("another") is None


async def test_all_who_wait_get_the_link(directory: Directory, link: Link) -> None:
    """Of that sandbox, and no others."""
    waiting = [asyncio.ensure_future(directory.wait(link.sandbox_id, timeout_s=5)) for _ in range(3)]
    other = asyncio.ensure_future(directory.wait("other", timeout_s=5))
    await asyncio.sleep(0)
    directory.put(link)
    assert await asyncio.gather(*waiting) == [link] * 3
    assert not other.done()
    other.cancel()
    await asyncio.wait([other])
    assert is_empty(directory)


async def test_a_link_that_does_not_come(directory: Directory) -> None:
    """An error in time, and nothing kept."""
    with pytest.raises(LinkLost, match=r"the agent of sandbox x has not connected within 0\.01 s"):
        await directory.wait("x", timeout_s=0.01)
    assert is_empty(directory)


async def test_who_waits_hears_that_none_will_come(directory: Directory) -> None:
    """At once, and by what."""
    waiting = asyncio.ensure_future(directory.wait("x", timeout_s=5))
    await asyncio.sleep(0)
    directory.fail("other", StartFailed("other"))
    directory.fail("x", StartFailed("it died"))
    with pytest.raises(StartFailed, match="it died"):
        await waiting
    assert is_empty(directory)


async def test_one_who_stops_waiting_does_not_stop_others(directory: Directory, link: Link) -> None:
    """Also in the moment in which the link comes."""
    waiting = [asyncio.ensure_future(directory.wait(link.sandbox_id, timeout_s=5)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    directory.put(link)
    waiting[1].cancel()
    await asyncio.wait(waiting)
    assert [one.cancelled() for one in waiting] == [True, True, False]
    assert waiting[2].result() is link
    assert is_empty(directory)


async def test_what_happens_before_the_wait_is_not_missed(directory: Directory, link: Link) -> None:
    """Between the start of a container and the wait for it: its link, or its death."""
    with directory.expect(link.sandbox_id) as arrival:
        directory.put(link)
        assert await arrival.wait(timeout_s=0) is link
    with directory.expect("x") as arrival:
        directory.fail("x", StartFailed("it died at once"))
        with pytest.raises(StartFailed, match="it died at once"):
            await arrival.wait(timeout_s=0)
    assert is_empty(directory)


async def test_a_wait_that_is_never_made_leaves_nothing(directory: Directory) -> None:
    """The start failed; what came in between is nobody's. (An error that nobody looks at would fail this test.)"""
    with pytest.raises(KeyError), directory.expect("x"):
        raise KeyError
    with directory.expect("x"):
        directory.fail("x", StartFailed("died"))
    assert is_empty(directory)


async def test_an_old_link_does_not_take_a_new_one_away(end: ControlPlaneEnd, directory: Directory, link: Link) -> None:
    """execd has dialled again before the end of the first link was seen."""
    directory.put(link)
    await link.aclose()
    newer = await end.next_link()
    directory.put(newer)
    directory.remove(link)
    assert directory.get(link.sandbox_id) is newer
    directory.remove(newer)
    assert directory.get(link.sandbox_id) is None


async def test_statistics_keep_what_went_over_past_links(directory: Directory, link: Link) -> None:
    """Counters never go back."""
    assert directory.statistics().links == 0
    directory.put(link)
    before = directory.statistics()
    assert (before.links, before.streams) == (1, 0)
    assert before.bytes_in > 0
    directory.remove(link)
    after = directory.statistics()
    assert after.links == 0
    assert (after.bytes_in, after.bytes_out) == (before.bytes_in, before.bytes_out)
