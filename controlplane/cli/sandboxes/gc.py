"""`sandlot gc`: what nobody needs any more is shown, and removed after a question."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote

from controlplane.cli.parsing import Options, Parser, Say, add_place, seconds
from controlplane.cli.sandboxes.target import confirm, image_of, server_of
from controlplane.client.answers import Refused
from controlplane.client.cures import cure
from controlplane.client.names import SHORT, listed
from controlplane.client.server import Json, Server, sandbox_path
from controlplane.client.text import duration, moment, safe, size, table
from controlplane.errors import InvalidRequest

DESCRIPTION = """Show what is probably needed no more, and remove it after a question: records of sandboxes that have
ended, and snapshots, volumes and images that are old and that no sandbox and no pool uses. Sandlot's own images stay;
builds, and starts of the server, remove earlier images and agents by themselves."""
EXAMPLES = """examples:
  sandlot gc
  sandlot gc --dry-run --json
  sandlot gc --only ended --only snapshots --older 7d --yes
"""
OLDER = "30d"


class Item(NamedTuple):
    """Something that can be removed. Its size is None if the server does not tell it."""

    kind: str
    name: str
    what: str
    created_at: datetime | None
    size: int | None
    path: str


def add(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("--only", action="append", default=[], choices=tuple(KINDS), help="repeatable")
    parser.add_argument(
        "--older", default=OLDER, metavar="TIME", help=f"the age of snapshots, volumes and images [default: {OLDER}]"
    )
    parser.add_argument("--dry-run", action="store_true", help="show, and remove nothing")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask; name what is to go by --only")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    add_place(parser)


def run(options: Options, say: Say) -> int:
    """Show the list, ask, and remove."""
    before = datetime.now(UTC) - timedelta(seconds=seconds(options.older, "--older"))
    if options.yes and not options.only:
        raise InvalidRequest(f"--yes: name what is to go by --only ({', '.join(KINDS)})")
    server = server_of(options)
    found: list[Item] = []
    for kind in options.only or KINDS:
        try:
            found += KINDS[kind](server, before)
        except Refused as refused:
            if options.only or refused.status not in (403, 404):
                raise
            sys.stderr.write(f"sandlot: {kind} are left out: {safe(refused.said)}\n")
    say(_as_json(found) if options.json else _shown(found))
    if not found or options.dry_run:
        return 0
    confirm(f"Remove these {len(found)}?", is_given=options.yes)
    return _remove(server, found, say)


def _ended(server: Server, before: datetime) -> Iterator[Item]:
    """Yield the records of sandboxes that have ended, of any age."""
    for each in listed(server, ("Failed", "Terminated")):
        status = each["status"]
        ended = moment(status.get("lastTransitionAt")) or moment(each.get("createdAt"))
        what = f"{status['state']}, {status.get('reason', '')}, of {image_of(each)}"
        yield Item("ended", str(each["id"]), what, ended, None, sandbox_path(str(each["id"])))


def _snapshots(server: Server, before: datetime) -> Iterator[Item]:
    for each in server.pages("/v1/snapshots"):
        created = moment(each.get("createdAt"))
        if created is not None and created < before and each["status"]["state"] in ("Ready", "Failed"):
            what = f"{each.get('name', '') or 'without a name'}, of {str(each.get('sandboxId', ''))[:SHORT]}"
            yield Item("snapshots", str(each["id"]), what, created, None, f"/v1/snapshots/{quote(each['id'], safe='')}")


def _volumes(server: Server, before: datetime) -> Iterator[Item]:
    for each in server.ask("GET", "/v1/volumes?sizes=true")["items"]:
        created = moment(each["created_at"])
        if created is not None and created < before and not each["in_use_by"]:
            path = f"/v1/volumes/{quote(each['name'], safe='')}"
            yield Item("volumes", str(each["name"]), "in use by none", created, each.get("size_bytes"), path)


def _images(server: Server, before: datetime) -> Iterator[Item]:
    for each in server.ask("GET", "/v1/images")["items"]:
        created = moment(each["created_at"])
        is_needed = each["is_ours"] or each["pooled"] or each["sandboxes"]
        if created is not None and created < before and not is_needed:
            path = f"/v1/images/{quote(each['name'], safe='/')}"
            yield Item("images", str(each["name"]), "in use by none", created, each["size_bytes"], path)


# The kinds, in the order in which they are removed: what ended sandboxes hold on to comes after them.
KINDS: dict[str, Callable[[Server, datetime], Iterator[Item]]] = {
    "ended": _ended,
    "snapshots": _snapshots,
    "volumes": _volumes,
    "images": _images,
}


def _shown(found: list[Item]) -> str:
    if not found:
        return "nothing to remove"
    now = datetime.now(UTC)
    rows = [
        (
            each.kind,
            each.name[:SHORT] if each.kind in ("ended", "snapshots") else each.name,
            duration((now - each.created_at).total_seconds()) if each.created_at else "",
            "" if each.size is None else size(each.size),
            each.what,
        )
        for each in found
    ]
    total = sum(each.size or 0 for each in found)
    sum_line = f"\n{size(total)} in all, where the server tells a size" if total else ""
    return table(("KIND", "NAME", "AGE", "SIZE", "WHAT IT IS"), rows) + sum_line


def _as_json(found: list[Item]) -> str:
    rows: list[Json] = [
        {
            "kind": each.kind,
            "name": each.name,
            "what": each.what,
            "created_at": each.created_at.isoformat() if each.created_at else None,
            "size_bytes": each.size,
        }
        for each in found
    ]
    return json.dumps(rows, indent=2)


def _remove(server: Server, found: list[Item], say: Say) -> int:
    removed = freed = failures = 0
    for each in found:
        try:
            server.ask("DELETE", each.path)
        except Refused as refused:
            if refused.status != 404:  # another client was quicker
                failures += 1
                sys.stderr.write(f"sandlot: {safe(each.name)}: {cure(refused)}\n")
            continue
        removed += 1
        freed += each.size or 0
    say(f"removed {removed}" + (f", {size(freed)}" if freed else ""))
    return int(failures > 0)
