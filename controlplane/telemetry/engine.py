"""A driver that counts, times and traces what the container engine is asked, around the driver of any engine."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Collection, Iterator

from controlplane.runtime.abilities import Abilities
from controlplane.runtime.driver import (
    Container,
    Containers,
    ContainerSpec,
    DiskRoom,
    DiskUsage,
    Driver,
    EngineInfo,
    ImageInfo,
    Images,
    Load,
    VolumeInfo,
    Volumes,
)
from controlplane.runtime.events import EventKind, RuntimeEvent
from controlplane.sandbox import Credentials, Limits
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.tracing import SILENT, Tracer

OK, CANCELLED = "ok", "cancelled"


class Calls:
    """Counts calls of the engine."""

    def __init__(self, metrics: Metrics, tracer: Tracer) -> None:
        self.metrics = metrics
        self._tracer = tracer

    @contextlib.contextmanager
    def timed(self, call: str) -> Iterator[None]:
        """Count and time a call, which is made inside of the block."""
        metrics, outcome, began = self.metrics, OK, time.perf_counter()
        metrics.engine_calls_open.add(call)
        span = self._tracer.begin(f"engine {call}", {})
        try:
            yield
        except asyncio.CancelledError:
            outcome = CANCELLED
            raise
        except BaseException as error:
            outcome = type(error).__name__
            span.fail(error)
            raise
        finally:
            span.end()
            metrics.engine_calls_open.add(call, by=-1)
            metrics.engine_calls.add(call, outcome)
            metrics.engine_call_duration.observe(time.perf_counter() - began, call)


class MeasuredContainers:
    """The containers of a driver, with each call counted. See `Containers` for what each method promises."""

    def __init__(self, containers: Containers, calls: Calls) -> None:
        self._inner = containers
        self._calls = calls

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container."""
        with self._calls.timed("container.create"):
            return await self._inner.create(spec)

    async def start(self, container_id: str) -> None:
        """Start a container."""
        with self._calls.timed("container.start"):
            await self._inner.start(container_id)

    async def resize(self, container_id: str, limits: Limits) -> None:
        """Change the limits of a container."""
        with self._calls.timed("container.resize"):
            await self._inner.resize(container_id, limits)

    async def pause(self, container_id: str) -> None:
        """Pause a container."""
        with self._calls.timed("container.pause"):
            await self._inner.pause(container_id)

    async def resume(self, container_id: str) -> None:
        """Let a paused container go on."""
        with self._calls.timed("container.resume"):
            await self._inner.resume(container_id)

    async def destroy(self, container_id: str) -> None:
        """Remove a container."""
        with self._calls.timed("container.destroy"):
            await self._inner.destroy(container_id)

    async def inspect(self, container_id: str) -> Container | None:
        """Return what the engine knows of a container."""
        with self._calls.timed("container.inspect"):
            return await self._inner.inspect(container_id)

    async def list(self) -> list[Container]:
        """Return all containers."""
        with self._calls.timed("container.list"):
            return await self._inner.list()

    async def events(self) -> AsyncGenerator[RuntimeEvent, None]:
        """Yield events, each counted by its kind."""
        metrics = self._calls.metrics
        async with contextlib.aclosing(self._inner.events()) as events:
            async for event in events:
                metrics.engine_events.add(event.kind.value)
                if event.kind is EventKind.OOM:
                    metrics.oom_kills.add()
                yield event

    async def disk_usage(self, max_bytes: int, max_files: int) -> tuple[DiskUsage, ...]:
        """Return what containers take on the disk."""
        with self._calls.timed("container.disk_usage"):
            return await self._inner.disk_usage(max_bytes, max_files)

    async def load(self, container_ids: Collection[str]) -> dict[str, Load]:
        """Return what containers use. The engine is not asked."""
        return await self._inner.load(container_ids)


class MeasuredImages:
    """The images of a driver, with each call counted. See `Images`."""

    def __init__(self, images: Images, calls: Calls) -> None:
        self._inner = images
        self._calls = calls

    async def list(self) -> list[ImageInfo]:
        """Return all images with a name."""
        with self._calls.timed("image.list"):
            return await self._inner.list()

    async def commit(self, container_id: str, image: str) -> None:
        """Make an image of a container."""
        with self._calls.timed("image.commit"):
            await self._inner.commit(container_id, image)

    async def pull(self, image: str, credentials: Credentials | None) -> None:
        """Fetch an image."""
        with self._calls.timed("image.pull"):
            await self._inner.pull(image, credentials)

    async def remove(self, image: str) -> None:
        """Remove an image."""
        with self._calls.timed("image.remove"):
            await self._inner.remove(image)


class MeasuredVolumes:
    """The volumes of a driver, with each call counted. See `Volumes`."""

    def __init__(self, volumes: Volumes, calls: Calls) -> None:
        self._inner = volumes
        self._calls = calls

    async def list(self, *, measure: bool = False) -> list[VolumeInfo]:
        """Return the named volumes."""
        with self._calls.timed("volume.list"):
            return await self._inner.list(measure=measure)

    async def remove(self, name: str) -> None:
        """Remove a named volume."""
        with self._calls.timed("volume.remove"):
            await self._inner.remove(name)

    async def remove_unused(self) -> None:
        """Remove volumes that nobody uses."""
        with self._calls.timed("volume.remove_unused"):
            await self._inner.remove_unused()


class MeasuredDriver:
    """A driver with each call counted; `disk_room` has what the last look at the disk found."""

    def __init__(self, driver: Driver, metrics: Metrics, tracer: Tracer = SILENT) -> None:
        self._inner = driver
        self._calls = Calls(metrics, tracer)
        self.containers = MeasuredContainers(driver.containers, self._calls)
        self.images = MeasuredImages(driver.images, self._calls)
        self.volumes = MeasuredVolumes(driver.volumes, self._calls)
        self.room: DiskRoom | None = None  # when it was last looked at
        self.info: EngineInfo | None = None  # when it was last asked

    @property
    def abilities(self) -> Abilities:
        """What the engine can do."""
        return self._inner.abilities

    async def disk_room(self) -> DiskRoom | None:
        """Return what is left on the engine's disk. The engine is not asked."""
        self.room = await self._inner.disk_room()
        return self.room

    async def describe(self) -> EngineInfo:
        """Return what the engine is."""
        with self._calls.timed("engine.describe"):
            self.info = await self._inner.describe()
        return self.info

    async def aclose(self) -> None:
        """Close the connection to the engine."""
        await self._inner.aclose()
