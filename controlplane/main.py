"""The command line: `sandlot serve`, `sandlot doctor`, `sandlot images`, `sandlot key`."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import uvloop

from controlplane import config, credentials, logs
from controlplane.config import Settings
from controlplane.errors import ConfigError, EngineUnavailable, SandlotError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 failed, 2 bad settings or usage."""
    options = _parser().parse_args(argv)
    try:
        settings = config.load(options.config, os.environ, _flags(options))
        result: int = options.run(settings, options)
    except ConfigError as error:
        print(f"sandlot: {error.message}", file=sys.stderr)
        return 2
    except EngineUnavailable as error:
        print(
            f"sandlot: {error.message}\n(`make engine` gets one running; `sandlot doctor` checks it)", file=sys.stderr
        )
        return 1
    except SandlotError as error:
        print(f"sandlot: {error.message}", file=sys.stderr)
        return 1
    return result


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings file (default: {config.DEFAULT_FILE}, where it exists)"
    )
    for row in config.settings_table():
        common.add_argument(
            row.flag,
            dest=f"{row.section}.{row.key}",
            metavar="VALUE",
            help=f"{row.help} [{row.environment_name}, default: {_shown(row.default)}]".replace("%", "%%"),
        )
    parser = argparse.ArgumentParser(
        prog="sandlot",
        description="A self-hosted sandbox server for running code that nobody has reviewed.",
        epilog="Settings come from the file, then the environment, then flags. See docs/configuration.md.",
    )
    parser.add_argument("--version", action="version", version=f"sandlot {version('sandlot')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    # A flag is written out: what an abbreviation means would change with every new setting.
    command = functools.partial(commands.add_parser, parents=[common], allow_abbrev=False)
    serve = command("serve", help="run the server until Ctrl-C or SIGTERM")
    serve.set_defaults(run=_serve)
    doctor = command("doctor", help="check this machine; say how to cure what fails")
    doctor.set_defaults(run=_doctor)
    images = command("images", help="build the images whose inputs changed, list them, or check them")
    images.add_argument(
        "action",
        nargs="?",
        choices=("build", "list", "check"),
        default="build",
        help="check: start each image and run something in every language that it declares",
    )
    images.add_argument(
        "names", nargs="*", metavar="NAME", help="image folders (default: all); check takes any other image as well"
    )
    images.set_defaults(run=_images)
    key = command("key", help="print the API key that the first start made")
    key.set_defaults(run=_key)
    return parser


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default) or "none"
    return "none" if default == "" else str(default).lower() if isinstance(default, bool) else str(default)


def _flags(options: argparse.Namespace) -> Mapping[tuple[str, str], str]:
    rows = config.settings_table()
    given = {(row.section, row.key): getattr(options, f"{row.section}.{row.key}") for row in rows}
    return {name: text for name, text in given.items() if text is not None}


def _announce(text: str) -> None:
    print(text, flush=True)


def _run(work: Coroutine[object, object, int | None]) -> int:
    try:
        return uvloop.run(work) or 0
    except KeyboardInterrupt:
        return 130


# Imports stand inside the commands: `sandlot key` need not load a web server.


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    from controlplane.server import serve

    logs.configure(settings.logs)
    return _run(serve(settings, _announce))


def _doctor(settings: Settings, options: argparse.Namespace) -> int:
    from controlplane.doctor import examine

    logs.configure(settings.logs)
    return _run(examine(settings, _announce))


def _images(settings: Settings, options: argparse.Namespace) -> int:
    from controlplane.runtime import images
    from controlplane.runtime.engine import connect

    logs.configure(settings.logs)
    if options.action == "check":
        from controlplane.imagecheck import check_images

        recipes = images.read_recipes(Path(settings.paths.images_dir))
        runnable = [recipe.name for recipe in recipes if recipe.tag != images.EXECD_IMAGE]
        return _run(check_images(settings, options.names or runnable, _announce))

    async def work() -> None:
        names = options.names or None
        engine = connect(settings.engine.url)
        try:
            if options.action == "build":
                await images.build_images(engine, Path(settings.paths.images_dir), names, _announce)
                await images.publish_execd(engine, _announce)
            for status in await images.image_status(engine, Path(settings.paths.images_dir), names):
                size = "" if status.size is None else f"{status.size / 1e6:.0f} MB"
                _announce(f"{status.tag:36} {status.state:9} {size}")
        finally:
            await engine.close()

    return _run(work())


def _key(settings: Settings, options: argparse.Namespace) -> int:
    if settings.server.api_keys:
        _announce(settings.server.api_keys[0])
        return 0
    state_dir = Path(settings.paths.state_dir)
    try:
        _announce(credentials.read_api_key(state_dir))
    except FileNotFoundError:
        raise ConfigError(f"there is no key in {state_dir} yet: the first `sandlot serve` makes one") from None
    except PermissionError:
        raise ConfigError(f"{state_dir}/api-key belongs to the user who runs the server") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{state_dir}/api-key: cannot be read: {error}") from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
