"""The command line. `commands.py` has the table of commands; those that need this machine are here."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from controlplane.cli import commands
from controlplane.cli.parsing import MORE_FLAGS, Options, Parser, given_settings, settings_parser
from controlplane.cli.place import key_for, own_key
from controlplane.client.address import address_of
from controlplane.client.cures import cure
from controlplane.errors import ConfigError, EngineUnavailable, SandlotError
from controlplane.settings import load
from controlplane.settings.sections import Settings

# A shell reports this status for a program that SIGPIPE has ended.
UNREAD = 128 + 13
# The command behind the completion of shells: `sandlot complete -- WORDS`.
COMPLETE = "complete"
INTERRUPTED = 128 + 2


class _Unwritten(Exception):
    """The output cannot be written. This is no OSError, so that no handler takes it for an error of the engine."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason)
        self.reason = reason


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 failed, 2 bad settings or usage, 141 output unread."""
    _replace_closed_streams()
    try:
        with contextlib.ExitStack() as stack:
            # Flush also if argparse exits: a later failure could not be caught.
            stack.callback(_print, "", end="")
            return _run_command(argv)
    except _Unwritten as error:
        _abandon_output()
        if isinstance(error.reason, BrokenPipeError):
            return UNREAD
        print(f"sandlot: cannot write the output: {error.reason.strerror}", file=sys.stderr)
        return 1


def _replace_closed_streams() -> None:
    """Replace closed standard streams by /dev/null. The next open file would take their numbers."""
    while (lowest_free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(lowest_free)
    sys.stdout = sys.stdout or os.fdopen(1, "w")  # Python sets closed streams to None
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _abandon_output() -> None:
    """Print to /dev/null from here on: the interpreter would complain that it cannot flush the rest."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run_command(argv: Sequence[str] | None) -> int:
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == [COMPLETE]:
        from controlplane.cli.completion import complete

        return complete(given[2:], _parser, _print)
    parser = _parser(next((text for text in given if not text.startswith("-")), ""))
    options = parser.parse_args(given)
    if options.run is None and options.module is None:
        parser.print_help()
        return 0
    own_failure = getattr(options.module, "FAILED", 0)
    try:
        if options.module is not None:
            result: int = options.module.run(options, _print)
        else:
            result = options.run(_settings(options), options)
    except EngineUnavailable as error:
        _complain(f"{error.message}\n(`make engine` starts one; `sandlot doctor` checks it)")
        return 1
    except SandlotError as error:
        _complain(cure(error))
        return own_failure or (2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    return result


def _complain(message: str) -> None:
    print(f"sandlot: {message}", file=sys.stderr)


def _settings(options: Options) -> Settings:
    """Return the settings of this machine's server, and set the log up as they say. Raises ConfigError."""
    import structlog

    from controlplane import logs

    warnings: list[str] = []
    settings = load.load(options.config, os.environ, given_settings(options), warnings.append)
    logs.configure(settings.logs)
    for warning in warnings:
        structlog.get_logger().warning("config.deprecated", message=warning)
    return settings


class _TopParser(Parser):
    """The parser of `sandlot` itself, whose help has the commands by group."""

    def format_help(self) -> str:
        """Return the help."""
        return commands.help_text(self.prog, self.description or "", self.epilog or "")


def _parser(chosen: str) -> argparse.ArgumentParser:
    """Return the parser. Only the *chosen* command has its options."""
    parser = _TopParser(
        prog="sandlot",
        description="A self-hosted sandbox server for running code that nobody has reviewed.",
        epilog="Settings come from the file, then the environment, then flags. See docs/configuration.md.",
    )
    parser.add_argument("--version", action=commands.Version)
    parser.set_defaults(run=None, module=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    commands.add(subparsers, chosen)
    if chosen in commands.BY_NAME and not commands.BY_NAME[chosen].module:
        _add_own(subparsers)
    else:
        for command in commands.COMMANDS:
            if not command.module:
                subparsers.add_parser(command.name, help=command.help)
    return parser


def _add_own(subparsers: Any) -> None:
    """Add the commands of this module."""

    def add(name: str, **options: Any) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = subparsers.add_parser(name, help=commands.BY_NAME[name].help, **options)
        return parser

    command = functools.partial(add, parents=[settings_parser(are_shown=True)])
    serve = command("serve")
    serve.add_argument(
        "--build",
        action="store_true",
        help="build the images of the warm pools before serving, and the others meanwhile",
    )
    serve.set_defaults(run=_serve)
    doctor = command("doctor")
    doctor.set_defaults(run=_doctor)
    quiet = settings_parser(are_shown=False)
    command = functools.partial(add, parents=[quiet], epilog=MORE_FLAGS)
    attack = command("attack")
    attack.add_argument("--server", metavar="URL", help="the server's address [default: from the settings]")
    attack.add_argument(
        "--api-key", metavar="KEY", help="an admin key of the server [default: as `sandlot key` prints it]"
    )
    attack.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a category or an attack; repeatable"
    )
    attack.add_argument("--list", action="store_true", help="list the attacks without running them")
    attack.add_argument("--json", action="store_true", help="print the report as JSON")
    attack.add_argument("--record", action="store_true", help="store the report for [security] ready_needs_attack")
    attack.set_defaults(run=_attack)
    images = command("images")
    images.add_argument(
        "action",
        nargs="?",
        choices=("build", "list", "check"),
        default="build",
        help="check: start each image, and run code in every language that it declares",
    )
    images.add_argument("names", nargs="*", metavar="NAME", help="image folders [default: all]; check takes any image")
    images.set_defaults(run=_images)
    key = command("key")
    key.set_defaults(run=_key)
    _add_keys(add("keys"), quiet)


def _add_keys(keys: argparse.ArgumentParser, settings: Parser) -> None:
    """Add the actions of `sandlot keys`. docs/keys.md explains scopes, owners and quotas."""
    where = Parser(add_help=False)
    where.add_argument("--server", metavar="URL", help="the server's address [default: the server on this machine]")
    where.add_argument(
        "--api-key", metavar="KEY", help="an admin key of the server [default: as `sandlot key` prints it]"
    )
    where.add_argument("--json", action="store_true", help="print the answer of the API")
    actions = keys.add_subparsers(title="actions", metavar="ACTION", parser_class=Parser, required=True, dest="action")
    action = functools.partial(actions.add_parser, parents=[where, settings], epilog=MORE_FLAGS)
    create = action("create", help="create a key, and print it this once")
    change = action("change", help="change the name, scopes or quotas of a key")
    for parser in (create, change):
        parser.add_argument(
            "--scope",
            metavar="SCOPE",
            action="append",
            default=[],
            required=parser is create,
            help="admin, create, read or sandbox:ID; repeatable",
        )
        parser.add_argument(
            "--quota",
            metavar="NAME=AMOUNT",
            action="append",
            default=[],
            help="sandboxes, cpus, memory, disk, snapshots or creates (a minute); repeatable",
        )
    create.add_argument("--owner", metavar="KEY", help="a key whose sandboxes the new key shares, or admin")
    create.add_argument("--expires", metavar="WHEN", help="30m, 12h, 90d, or a moment such as 2027-01-31T12:00Z")
    change.add_argument("--rename", metavar="NAME", help="the new name")
    withdraw = action("withdraw", help="withdraw a key, and end its connections")
    withdraw.add_argument("--end-sandboxes", action="store_true", help="end its sandboxes too")
    for parser in (create, change, withdraw, action("show", help="print one key")):
        parser.add_argument(
            "name", metavar="NAME", help="name of the key" + ("" if parser is create else ", or its id")
        )
    for parser in (create, change, withdraw, actions.choices["show"], action("list", help="print all keys")):
        parser.set_defaults(run=_keys)


def _print(text: str, end: str = "\n") -> None:
    """Print a line and flush it. Raises _Unwritten."""
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        raise _Unwritten(error) from None


def _print_while_possible(text: str) -> None:
    """Print a line of a server. The server continues if nobody reads any more, or the disk is full."""
    try:
        print(text, flush=True)
    except OSError:
        _abandon_output()


def _run(work: Coroutine[object, object, int | None]) -> int:
    import uvloop

    try:
        return uvloop.run(work) or 0
    except KeyboardInterrupt:
        return INTERRUPTED


# Imports are inside the commands, so that `sandlot key` does not load a web server.


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    from controlplane.server.serve import serve

    return _run(serve(settings, _print_while_possible, show_key=sys.stdout.isatty(), build=options.build))


def _doctor(settings: Settings, options: argparse.Namespace) -> int:
    from controlplane.cli.doctor import examine

    return _run(examine(settings, _print))


def _attack(settings: Settings, options: argparse.Namespace) -> int:
    from controlplane.attack import command

    if options.list:
        return command.list_attacks(options.only, _print)
    if options.record and options.only:
        raise ConfigError("--record needs all attacks; leave out --only")
    own = functools.partial(own_key, settings)
    order = command.Order(
        server=options.server or address_of(settings.server.host, settings.server.port),
        key=key_for(options.server, options.api_key, own) if options.server else options.api_key or own(),
        image=settings.sandbox.image,
        only=tuple(options.only),
        as_json=options.json,
        record_in=Path(settings.paths.state_dir) if options.record else None,
        engine_url=None if options.server else settings.engine.url,
        images_dir=Path(settings.paths.images_dir),
    )
    return _run(command.attack(order, _print))


def _images(settings: Settings, options: argparse.Namespace) -> int:
    from controlplane.images import build, pages, publish, recipes
    from controlplane.images.versions import declared_versions
    from controlplane.runtime.docker.engine import connect

    if options.action == "check":
        from controlplane.cli.imagecheck import check_images

        found = recipes.read_recipes(Path(settings.paths.images_dir))
        runnable = [recipe.name for recipe in found if recipe.tag not in (publish.EXECD_IMAGE, pages.CONSOLE_IMAGE)]
        return _run(check_images(settings, options.names or runnable, _print))

    async def work() -> None:
        names = options.names or None
        engine = connect(settings.engine.url)
        try:
            if options.action == "build":
                results = await build.build_images(engine, Path(settings.paths.images_dir), names, _print)
                if names is None or "execd" in names:
                    await publish.publish_execd(engine, _print)
                if any(result.tag == pages.CONSOLE_IMAGE for result in results):
                    await pages.publish_pages(engine, _print)
            for status in await build.image_status(engine, Path(settings.paths.images_dir), names):
                size = "" if status.size is None else f"{status.size / 1e6:.0f} MB"
                there = {} if status.state == "missing" else await declared_versions(engine, status.tag)
                versions = "  ".join(f"{variable}={'|'.join(names)}" for variable, names in there.items())
                _print(f"{status.tag:36} {status.state:9} {size:>8}  {versions}".rstrip())
        finally:
            await engine.close()

    return _run(work())


def _key(settings: Settings, options: argparse.Namespace) -> int:
    _print(own_key(settings))
    return 0


def _keys(settings: Settings, options: argparse.Namespace) -> int:
    from controlplane.cli import keys

    address = address_of(settings.server.host, settings.server.port)
    return keys.run(settings, options, address, functools.partial(own_key, settings), _print)


if __name__ == "__main__":
    sys.exit(main())
