"""The commands of `sandlot`: which there are, in which group of the help, and which module each one is."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Collection
from typing import Any, NamedTuple

SERVER, SANDBOXES, KEYS, SHELL = "server", "sandboxes", "keys", "shell"
GROUPS = {
    SERVER: "the server",
    SANDBOXES: "sandboxes",
    KEYS: "keys",
    SHELL: "your shell",
}


class Command(NamedTuple):
    """A command. Its module has `DESCRIPTION`, `EXAMPLES`, `add(parser)` and `run(options, say)`.

    The module is imported only when the command is used. Commands without one are in `main.py`.
    """

    name: str
    group: str
    help: str
    module: str = ""

    def load(self) -> Any:
        """Return the module."""
        return importlib.import_module(f"controlplane.cli.{self.module}")


COMMANDS = (
    Command("serve", SERVER, "run the server until Ctrl-C or SIGTERM"),
    Command("doctor", SERVER, "check this machine, and print a cure for each failure"),
    Command("images", SERVER, "build the images whose inputs changed, list them, or check them"),
    Command("attack", SERVER, "attack a running server as its users could, and print a cure for each success"),
    Command("console", SERVER, "print a link that signs a browser in to the console", "sandboxes.console"),
    Command("gc", SERVER, "remove what nobody needs any more, after it was shown", "sandboxes.gc"),
    Command("down", SERVER, "end all sandboxes, and stop the server of this machine", "sandboxes.down"),
    Command("ps", SANDBOXES, "list sandboxes", "sandboxes.ps"),
    Command("run", SANDBOXES, "make a sandbox, and run a command or a shell in it", "sandboxes.run"),
    Command("exec", SANDBOXES, "run a command in a sandbox", "sandboxes.exec"),
    Command("shell", SANDBOXES, "open a terminal in a sandbox", "sandboxes.shell"),
    Command("logs", SANDBOXES, "print what a sandbox's entrypoint has said", "sandboxes.logs"),
    Command("cp", SANDBOXES, "copy files to and from a sandbox", "sandboxes.cp"),
    Command("replay", SANDBOXES, "repeat what was done in a sandbox, and show what differs", "sandboxes.replay"),
    Command("pause", SANDBOXES, "freeze sandboxes", "sandboxes.pauses"),
    Command("resume", SANDBOXES, "let paused sandboxes go on", "sandboxes.pauses"),
    Command("rm", SANDBOXES, "end sandboxes", "sandboxes.rm"),
    Command("key", KEYS, "print the API key that the first start created"),
    Command("keys", KEYS, "create, list, change and withdraw API keys"),
    Command("completion", SHELL, "print what makes your shell complete commands, options and ids", "completion"),
)
BY_NAME = {command.name: command for command in COMMANDS}


def add(commands: Any, chosen: str) -> None:
    """Add the commands that are modules to the subparsers *commands*; only the *chosen* one gets its options."""
    for command in COMMANDS:
        if not command.module:
            continue
        if command.name != chosen:
            commands.add_parser(command.name, help=command.help)
            continue
        module = command.load()
        parser = commands.add_parser(
            command.name,
            help=command.help,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add(parser)
        parser.set_defaults(module=module)


def help_text(prog: str, description: str, epilog: str) -> str:
    """Return the help of `sandlot` itself: the commands by group."""
    lines = [f"usage: {prog} COMMAND …", "", description]
    for group, title in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"    {each.name:<12}{each.help}" for each in COMMANDS if each.group == group]
    lines += ["", f"`{prog} COMMAND --help` explains a command, with examples.", epilog]
    return "\n".join(lines) + "\n"


class Version(argparse.Action):
    """Prints the version. It is looked up only when it is asked for, because that takes long."""

    def __init__(self, option_strings: Collection[str], dest: str, **_: object) -> None:
        super().__init__(list(option_strings), argparse.SUPPRESS, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the version and end the program."""
        from importlib.metadata import version  # noqa: PLC0415 - slow

        sys.stdout.write(f"sandlot {version('sandlot')}\n")
        parser.exit()
