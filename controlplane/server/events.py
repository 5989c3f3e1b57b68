"""The events of a control plane: who reports what to the bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from controlplane.api.server.messages import encode
from controlplane.lifecycle.events.bus import Bus
from controlplane.lifecycle.events.counters import Ticker, Totals
from controlplane.lifecycle.events.news import EngineNews, ImageNews, News, PoolNews, sandbox_news, snapshot_news
from controlplane.lifecycle.events.pools import PoolWatch
from controlplane.lifecycle.pulls import PullEvent, Pulls
from controlplane.lifecycle.records.registry import Registry
from controlplane.lifecycle.recovery import Recovery
from controlplane.lifecycle.resolve import template_of_pool
from controlplane.lifecycle.snapshots import Snapshots
from controlplane.pool.plan import Template
from controlplane.pool.pool import Pool
from controlplane.settings.sections import Settings
from controlplane.tasks import Background
from controlplane.telemetry.metrics import Metrics

T = TypeVar("T")


class ServerEvents(msgspec.Struct, frozen=True):
    """The bus, and the present states of the warm pools."""

    bus: Bus
    pools: Callable[[], Sequence[PoolNews]]


def follow(
    settings: Settings,
    background: Background,
    *,
    registry: Registry,
    snapshots: Snapshots,
    pulls: Pulls,
    recovery: Recovery,
    pool: Pool,
    metrics: Metrics,
) -> ServerEvents:
    """Have these objects report their changes from now on."""
    bus = Bus(encode)

    def tell_pull(image: str, event: PullEvent, message: str) -> None:
        bus.publish(ImageNews(name=image, event=event, message=message))

    registry.on_change = _telling(bus, sandbox_news)
    snapshots.on_change = _telling(bus, snapshot_news)
    pulls.on_pull = tell_pull
    recovery.on_engine = lambda problem: bus.publish(EngineNews(up=not problem, message=problem))
    pools = PoolWatch(pool, bus, _names(settings))
    Ticker(bus, background, lambda: _totals(registry, pool, metrics))
    return ServerEvents(bus, pools.states)


def _telling(bus: Bus, news_of: Callable[[T | None, T | None], News | None]) -> Callable[[T | None, T | None], None]:
    """Return a listener to changes of records, which costs next to nothing while nobody hears the events."""

    def tell(before: T | None, after: T | None) -> None:
        if bus.is_heard and (news := news_of(before, after)) is not None:
            bus.publish(news)

    return tell


def _totals(registry: Registry, pool: Pool, metrics: Metrics) -> Totals:
    return Totals(
        sandboxes={state.value: count for state, count in registry.count().items() if count},
        warm=pool.statistics().warm,
        requests=round(metrics.requests.total),
        runs=round(metrics.runs.total),
    )


def _names(settings: Settings) -> dict[Template, str]:
    """Return the name of each pool, in their order; of pools with the same template the first one's."""
    names: dict[Template, str] = {}
    for pool in settings.warm_pools():
        names.setdefault(template_of_pool(settings, pool), pool.name)
    return names
