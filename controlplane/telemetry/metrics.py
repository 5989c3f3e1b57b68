"""What the server counts and times, for Prometheus: each family, and what other folders report.

What a moment's look can tell, such as sandboxes by state, is not counted here: `controlplane/server/metrics.py` reads
it when Prometheus asks. No label has an id, a path or a text of a client; see `families` for how labels are bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Literal

from prometheus_client.registry import Collector

from controlplane.telemetry.families import LIFE_S, LONG_S, OTHER, Counter, Gauge, Histogram, Names
from controlplane.telemetry.ports import PortTraffic

Start = Literal["warm", "cold"]

# Whether the claim found a warm container, in the order in which an operator looks at them.
WARM: Start = "warm"
COLD: Start = "cold"

NO_OPERATION = "none"  # of a request that reached none
SNAPSHOT = "snapshot"  # in place of an image: each snapshot is one
# Codes by which the edge refuses callers for their keys.
DENIALS = frozenset({"MISSING_API_KEY", "INVALID_API_KEY", "TOO_MANY_FAILED_ATTEMPTS", "INSUFFICIENT_SCOPE"})
# 101: a WebSocket was opened. 0: the client left before the answer.
_STATUSES = {status: str(status) for status in (0, *(each.value for each in HTTPStatus))}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET", "STREAM"})
# Languages that an image may add by a manifest are few; a client can ask for any.
# Causes of ends of runs; an agent that was hijacked can say any. docs/metrics.md has those that are no receipt's.
_CAUSES = frozenset(
    {
        "exit",
        "signal",
        "timeout",
        "oom",
        "killed",
        "link_lost",
        "ok",
        "error",
        "interrupted",
        "died",
        "refused",
        "abandoned",
        "left",
    }
)
MAX_COUNTED = 1e12  # of one run: s or bytes. More, less than 0, or NaN, is what such an agent has made up
_KINDS = {"process": "command", "context": "code", "session": "session"}


class Metrics:
    """The families that are written as things happen. One server has one of these."""

    def __init__(self, images: Iterable[str] = (), *, snapshots: str = "") -> None:
        """Make the families. *images* are those of the settings; *snapshots* is how names of snapshots begin."""
        self._images = Names(images)
        self._languages = Names()
        self._snapshots = snapshots
        self._fresh: dict[str, str] = {}  # sandboxes in which no code has run yet, with their images
        self.requests = Counter(
            "sandlot_requests", "Requests by operation, when their answer began.", "operation", "method", "status"
        )
        self.request_duration = Histogram(
            "sandlot_request_duration_seconds", "Time from a request to the beginning of its answer.", "operation"
        )
        self.requests_open = Gauge("sandlot_requests_open", "Requests and WebSockets that are being served.", "type")
        self.request_errors = Counter("sandlot_request_errors", "Errors that were answered, by code.", "code")
        self.denials = Counter("sandlot_auth_failures", "Requests that the edge denied, by code.", "code")
        self.claim_duration = Histogram(
            "sandlot_claim_duration_seconds",
            "Time until the pool gave a container to a create; an image may be pulled in it.",
            *("image", "start"),
        )
        self.create_duration = Histogram(
            "sandlot_create_duration_seconds", "Time of creates that succeeded.", "image", "start"
        )
        self.create_errors = Counter("sandlot_create_errors", "Creates that failed, by class of error.", "error")
        self.container_start_duration = Histogram(
            "sandlot_container_start_duration_seconds", "Time until a new container was ready to be claimed.", "image"
        )
        self.link_up_duration = Histogram(
            "sandlot_link_up_duration_seconds", "Time from the start of a container to its agent's link.", "image"
        )
        self.first_value_duration = Histogram(
            "sandlot_first_value_duration_seconds",
            "Time from the first run of code in a sandbox to the first that it said.",
            "image",
        )
        self.runs = Counter("sandlot_runs", "Runs and commands by the cause of their end.", "kind", "language", "cause")
        self.run_duration = Histogram(
            "sandlot_run_duration_seconds", "Time of runs and commands.", "kind", "language", bounds=LONG_S
        )
        self.run_cpu = Counter("sandlot_run_cpu_seconds", "CPU time of runs and commands that ended.", "kind")
        self.run_output = Counter("sandlot_run_output_bytes", "Output of runs and commands that ended.", "kind")
        self.ends = Counter("sandlot_sandbox_ends", "Ends of sandboxes by reason.", "reason")
        self.lifetime = Histogram(
            "sandlot_sandbox_lifetime_seconds", "Time from a sandbox's creation to its end.", bounds=LIFE_S
        )
        self.engine_calls = Counter(
            "sandlot_engine_calls",
            "Calls of the container engine by outcome: ok, cancelled, or a class of error.",
            *("call", "outcome"),
        )
        self.engine_call_duration = Histogram(
            "sandlot_engine_call_duration_seconds", "Time of calls of the container engine.", "call"
        )
        self.engine_calls_open = Gauge(
            "sandlot_engine_calls_open", "Calls that the engine has not answered yet.", "call"
        )
        self.engine_events = Counter("sandlot_engine_events", "Events that the engine told of, by kind.", "event")
        self.oom_kills = Counter("sandlot_oom_kills", "Out-of-memory events of containers.")
        self.loop_lag = Histogram(
            "sandlot_event_loop_lag_seconds", "Time by which a timer of the event loop came late, four times a second."
        )
        self.ports = PortTraffic()

    def collectors(self) -> Iterator[Collector]:
        """Yield the families."""
        yield from (each for each in vars(self).values() if isinstance(each, Counter | Histogram | PortTraffic))

    # -- requests

    def answered(self, operation: str, method: str, status: int, seconds: float, code: str) -> None:
        """Count a request whose answer begins. *status* is 0 if there is none, *code* that of an error, or ""."""
        operation = operation or NO_OPERATION
        self.requests.add(operation, method if method in _METHODS else OTHER, _STATUSES.get(status, OTHER))
        self.request_duration.observe(seconds, operation)
        if code:
            self.request_errors.add(code)
            if code in DENIALS:
                self.denials.add(code)

    # -- sandboxes

    def claimed(self, image: str, start: Start, seconds: float) -> None:
        """Note that a create has its container."""
        self.claim_duration.observe(seconds, self._image(image), start)

    def created(self, sandbox_id: str, image: str, start: Start, seconds: float) -> None:
        """Note that a sandbox was created."""
        name = self._image(image)
        self.create_duration.observe(seconds, name, start)
        self._fresh[sandbox_id] = name

    def create_failed(self, error: Exception) -> None:
        """Note that a create failed."""
        self.create_errors.add(type(error).__name__)

    def provisioned(self, image: str, seconds: float, *, linked_s: float) -> None:
        """Note that a container is ready to be claimed; *linked_s* of the time, its agent needed for its link."""
        name = self._image(image)
        self.container_start_duration.observe(seconds, name)
        self.link_up_duration.observe(linked_s, name)

    def ended(self, sandbox_id: str, reason: str, lived_s: float) -> None:
        """Note that the end of a sandbox was decided."""
        self._fresh.pop(sandbox_id, None)
        self.ends.add(reason)
        self.lifetime.observe(lived_s)

    # -- runs

    def is_first(self, sandbox_id: str) -> bool:
        """Return whether no code has run yet in a sandbox that was created since the start of this server."""
        return sandbox_id in self._fresh

    def first_value(self, sandbox_id: str, seconds: float) -> None:
        """Note that the first run of code in a sandbox said something, or ended."""
        if (image := self._fresh.pop(sandbox_id, None)) is not None:
            self.first_value_duration.observe(seconds, image)

    def run_ended(
        self, kind: str, language: str, cause: str, *, wall_s: float, cpu_s: float, output_bytes: int
    ) -> None:
        """Count a run or a command that ended, or that its client left."""
        kind, language = _KINDS[kind], self._languages.fold(language) if language else ""
        self.runs.add(kind, language, cause if cause in _CAUSES else OTHER)
        self.run_duration.observe(_sane(wall_s), kind, language)
        self.run_cpu.add(kind, by=_sane(cpu_s))
        self.run_output.add(kind, by=_sane(output_bytes))

    # -- inside

    def _image(self, image: str) -> str:
        if self._snapshots and image.startswith(self._snapshots):
            return SNAPSHOT
        return self._images.fold(image)


def _sane(number: float) -> float:
    """Return a number that an agent has told; 0 if no run can have that."""
    return number if 0 <= number <= MAX_COUNTED else 0.0
