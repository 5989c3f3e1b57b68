"""What a run of the battery found: for people, for programs, and kept for the server's readiness."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from controlplane.attack.advisories import Standing
from controlplane.attack.age import Aged
from controlplane.attack.client.model import Result
from controlplane.attack.client.outcome import Verdict
from controlplane.errors import ConfigError

SCHEMA = 1
RECORD_FILE = "attack.json"  # in the state directory
WIDTH = 118
_INDENT = " " * 17

_SHOWN = {
    Verdict.HELD: "held",
    Verdict.BROKEN: "BROKEN",
    Verdict.NOT_APPLICABLE: "--",
    Verdict.UNCLEAR: "unclear",
}


class AttackView(msgspec.Struct, frozen=True):
    """One attack with what came of it."""

    id: str
    category: str
    tries: str
    outcome: str  # the required one
    verdict: Verdict
    seen: str  # what was seen, or why there is no verdict
    cure: str
    must_pass: bool
    known: str  # why it is broken in this release; "" if nobody expects it
    seconds: float


class Report(msgspec.Struct, frozen=True):
    """One run of the battery. New fields may be added; `schema` changes when one changes its meaning."""

    schema: int
    release: str  # of the battery
    server: str
    image: str
    began: datetime
    seconds: float
    attacks: tuple[AttackView, ...]
    age: tuple[Aged, ...] = ()  # empty where the engine cannot be asked

    @property
    def failed(self) -> list[AttackView]:
        """The attacks that must be held and were not, or did not run to their end."""
        return [view for view in self.attacks if view.must_pass and view.verdict in (Verdict.BROKEN, Verdict.UNCLEAR)]

    @property
    def exit_status(self) -> int:
        """0: nothing is broken but what is known; 1: something is; 2: an attack did not run to its end."""
        if any(part.standing is Standing.VULNERABLE for part in self.age) or any(
            view.verdict is Verdict.BROKEN and not view.known for view in self.attacks
        ):
            return 1
        return 2 if any(view.verdict is Verdict.UNCLEAR for view in self.attacks) else 0

    def summary(self) -> str:
        """Return one line that counts the verdicts."""
        counts = Counter(view.verdict for view in self.attacks)
        known = sum(view.verdict is Verdict.BROKEN and bool(view.known) for view in self.attacks)
        parts = [f"{counts[Verdict.HELD]} held", f"{counts[Verdict.BROKEN]} broken"]
        if known:
            parts[-1] += f" ({known} known)"
        others = (Verdict.NOT_APPLICABLE, Verdict.UNCLEAR)
        parts += [f"{counts[verdict]} {verdict}" for verdict in others if counts[verdict]]
        return f"{len(self.attacks)} attacks in {self.seconds:.0f} s: {', '.join(parts)}"


def view_of(result: Result) -> AttackView:
    """Return a result as the report has it."""
    attack = result.attack
    return AttackView(
        id=attack.id,
        category=attack.category,
        tries=attack.tries,
        outcome=attack.outcome,
        verdict=result.outcome.verdict,
        seen=result.outcome.text,
        cure=attack.cure,
        must_pass=attack.must_pass,
        known=attack.known,
        seconds=result.seconds,
    )


def make_report(
    results: Sequence[Result], *, release: str, server: str, image: str, began: datetime, age: Sequence[Aged] = ()
) -> Report:
    """Return the report of a run that has just ended."""
    seconds = (datetime.now(began.tzinfo) - began).total_seconds()
    views = tuple(view_of(result) for result in results)
    return Report(SCHEMA, release, server, image, began, round(seconds, 1), views, tuple(age))


def lines(result: Result) -> Iterator[str]:
    """Yield the lines of the scorecard for one result: the cure too, where there is something to cure."""
    attack, outcome = result.attack, result.outcome
    yield f"{_SHOWN[outcome.verdict]:8}{result.seconds:6.1f} s  {attack.id:32}{attack.tries}"
    if outcome.verdict is Verdict.HELD:
        return
    yield from _wrapped(outcome.text or "no reason was given")
    if outcome.verdict is Verdict.BROKEN:
        if attack.known:
            yield from _wrapped(f"known: {attack.known}")
        yield from _wrapped(f"→ {attack.cure}")


def age_lines(parts: Sequence[Aged]) -> Iterator[str]:
    """Yield the lines of the scorecard for what is known of the versions here."""
    shown = {Standing.FIXED: "ok", Standing.VULNERABLE: "BROKEN", Standing.UNKNOWN: "look"}
    for part in parts:
        first, *rest = textwrap.wrap(part.text, WIDTH - 49) or [""]
        yield f"{shown[part.standing]:17}{part.component:32}{first}"
        yield from (f"{'':49}{line}" for line in rest)
        if part.cure:
            yield from _wrapped(f"→ {part.cure}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)


def record(report: Report, state_dir: Path) -> Path:
    """Keep a report for the server; return where. Raises ConfigError."""
    path = state_dir / RECORD_FILE
    temporary = path.with_suffix(".new")
    try:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; run this as the server's user") from error
    return path


class Gate:
    """Tells from the recorded report whether the server may call itself ready."""

    def __init__(self, state_dir: Path, release: str) -> None:
        """Read the report of *release*, the server's own: reports of other releases do not count."""
        self._path = state_dir / RECORD_FILE
        self._release = release
        self._stamp: tuple[int, int] | None = None
        self._reason = ""

    def why_not_ready(self) -> str:
        """Return why the server is not ready, or "". The file is only read again when it has changed."""
        try:
            found = self._path.stat()
        except OSError:
            self._stamp = None
            return "no attack has been recorded: run `sandlot attack --record`"
        stamp = (found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            self._reason = self._judge()
            self._stamp = stamp
        return self._reason

    def _judge(self) -> str:
        try:
            report = msgspec.json.decode(self._path.read_bytes(), type=Report)
        except (OSError, msgspec.MsgspecError):
            return "the recorded attack cannot be read: run `sandlot attack --record` again"
        if report.release != self._release:
            return f"the recorded attack was on release {report.release}: run `sandlot attack --record` again"
        if not report.failed:
            return ""
        names = ", ".join(view.id for view in report.failed[:5])
        return f"attacks that must be held were not: {names}; `sandlot attack` tells the cure"
