"""`sandlot replay`: what was done in a sandbox, done again in a fresh one, and what differs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from controlplane.cli.parsing import Options, Parser, Say, add_place, pairs, seconds
from controlplane.cli.sandboxes.run import ENTRYPOINT
from controlplane.cli.sandboxes.target import server_of
from controlplane.client.answers import Refused
from controlplane.client.differences import Difference, compare
from controlplane.client.record import Record, of_sandbox, read_file, read_lines
from controlplane.client.replaying import Repeated, Replay
from controlplane.client.server import Json, Server, sandbox_path
from controlplane.client.stream import connected
from controlplane.client.text import safe
from controlplane.errors import InvalidRequest

DESCRIPTION = """Repeat the activity of a sandbox in a fresh one, and show where results differ: contexts, code,
commands and sessions, in the same order, with the same answers to prompts. Times, addresses, ids and durations are no
difference. RECORD is a file of JSON lines (a record), - for the input, or a sandbox, which may have ended."""
EXAMPLES = """examples:
  sandlot replay web --image my/image:next
  sandlot replay web --env PYTHON_VERSION=3.11
  sandlot replay record.jsonl --json
  curl -H "OPEN-SANDBOX-API-KEY: $KEY" $SERVER/v1/activities/ID | sandlot replay -

exit status:
  0 nothing differs, 1 something does, 2 the record could not be repeated
"""
FAILED = 2
TTL, PATIENCE = "1h", "60s"
SHOWN_LINES = 40  # of one difference


class Verdict:
    """An operation that was repeated, or was not."""

    def __init__(self, repeated: Repeated, differences: Sequence[Difference]) -> None:
        self.title = repeated.before.title
        self.seq = int(repeated.before.begun.get("seq", 0))
        self.what = repeated.before.what
        self.is_repeated = repeated.after is not None
        self.reason = "" if self.is_repeated else repeated.reason
        self.differences = list(differences)


def add(parser: Parser) -> None:
    """Add the options."""
    parser.status = FAILED
    parser.add_argument("record", metavar="RECORD", help="a file, -, or the beginning of an id or a name")
    parser.add_argument("--image", metavar="IMAGE", help="of the fresh sandbox [default: that of the record]")
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable, which records do not have"
    )
    parser.add_argument("--exact", action="store_true", help="times, addresses and the like are differences too")
    parser.add_argument("--keep", action="store_true", help="let the fresh sandbox go on afterwards")
    parser.add_argument("--ttl", default=TTL, metavar="TIME", help=f"the fresh sandbox ends after it [default: {TTL}]")
    parser.add_argument(
        "--patience", default=PATIENCE, metavar="TIME", help=f"for each operation at least [default: {PATIENCE}]"
    )
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """Repeat the record, and tell what differs."""
    patience_s, ttl = seconds(options.patience, "--patience"), max(60, int(seconds(options.ttl, "--ttl")))
    server = server_of(options)
    record = _record(server, options.record)
    image = options.image or record.image
    if not image:
        raise InvalidRequest("the record does not name its image; give --image")
    body: Json = {"image": {"uri": image}, "entrypoint": list(ENTRYPOINT), "timeout": ttl}
    if options.env:
        body["env"] = dict(pairs(options.env, "--env"))
    sandbox_id = str(server.ask("POST", "/v1/sandboxes", body)["id"])
    try:
        repeated, keep = asyncio.run(_replay(server, sandbox_id, record, patience_s))
    finally:
        if options.keep:
            sys.stderr.write(f"sandlot: kept {safe(sandbox_id)}\n")
        else:
            _end(server, sandbox_id)
    verdicts = _verdicts(repeated, exact=options.exact, with_output=record.keep == keep == "full")
    warnings = _warnings(record, keep)
    is_same = not any(each.differences for each in verdicts)
    say(_as_json(verdicts, warnings, image, is_same=is_same) if options.json else _shown(verdicts, warnings, image))
    return 0 if is_same else 1


async def _replay(server: Server, sandbox_id: str, record: Record, patience_s: float) -> tuple[list[Repeated], str]:
    async with connected(server, sandbox_id) as connection:
        return await Replay(server, sandbox_id, connection, patience_s=patience_s).run(record)


def _record(server: Server, text: str) -> Record:
    if text == "-":
        return read_lines(sys.stdin.buffer.read().splitlines(), "the input")
    if "/" in text or text.endswith(".jsonl") or os.path.isfile(text):
        return read_file(Path(text))
    return of_sandbox(server, text)


def _verdicts(repeated: Sequence[Repeated], *, exact: bool, with_output: bool) -> list[Verdict]:
    verdicts = []
    for each in repeated:
        differences: list[Difference] = []
        if each.after is not None:
            differences = compare(each.before, each.after, exact=exact, with_output=with_output)
        elif each.reason.startswith("it "):  # it was tried
            differences = [Difference("end", [f"+{each.reason}"])]
        verdicts.append(Verdict(each, differences))
    return verdicts


def _warnings(record: Record, keep: str) -> list[str]:
    warnings = []
    if not record.is_whole:
        warnings.append("the record has gaps: earlier entries were dropped from the memory of the sandbox")
    if record.keep != "full":
        warnings.append("the record has no output: only errors and ends are compared")
    elif keep != "full":
        warnings.append("the server keeps no output ([activity] keep = full does): only errors and ends are compared")
    return warnings


def _shown(verdicts: Sequence[Verdict], warnings: Sequence[str], image: str) -> str:
    lines = [f"note: {each}" for each in warnings]
    for verdict in verdicts:
        if verdict.differences:
            lines.append(f"≠ {verdict.seq} {safe(verdict.title)}")
            for difference in verdict.differences:
                lines.append(f"    {difference.part}")
                lines += [f"      {safe(line, keep=chr(9))}" for line in difference.lines[:SHOWN_LINES]]
                if len(difference.lines) > SHOWN_LINES:
                    lines.append(f"      … {len(difference.lines) - SHOWN_LINES} more lines")
        elif not verdict.is_repeated:
            lines.append(f"- {verdict.seq} {safe(verdict.title)}: {safe(verdict.reason or 'it was not told of')}")
    repeated = sum(each.is_repeated for each in verdicts)
    differing = sum(bool(each.differences) for each in verdicts)
    left_out = sum(not each.is_repeated for each in verdicts)
    ending = f", {left_out} could not be repeated" if left_out else ""
    lines.append(f"{repeated} operation(s) repeated in {safe(image)}, {differing} with another result{ending}")
    return "\n".join(lines)


def _as_json(verdicts: Sequence[Verdict], warnings: Sequence[str], image: str, *, is_same: bool) -> str:
    rows: list[Json] = [
        {
            "seq": each.seq,
            "what": each.what,
            "title": each.title,
            "repeated": each.is_repeated,
            "reason": each.reason,
            "differences": [{"part": one.part, "diff": one.lines} for one in each.differences],
        }
        for each in verdicts
    ]
    return json.dumps({"image": image, "same": is_same, "warnings": list(warnings), "operations": rows}, indent=2)


def _end(server: Server, sandbox_id: str) -> None:
    try:
        server.ask("DELETE", sandbox_path(sandbox_id))
    except Refused as refused:
        if refused.status != 404:
            sys.stderr.write(f"sandlot: {safe(sandbox_id)} was not ended: {safe(refused.said)}\n")
