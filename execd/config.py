"""What execd is told at start: its command line, and nothing else. Everything later comes over the link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

VERSION = "0.1.0"  # of the distribution; a test compares it with pyproject.toml

USAGE = "usage: execd SOCKET [KERNELS_DIR]"


class Config(NamedTuple):
    """The command line."""

    socket_path: str  # Unix socket of the control plane, dialled until it answers
    kernels_dir: str = "/etc/sandlot/kernels"  # language manifests (*.toml)


def parse(argv: Sequence[str]) -> Config:
    """Read the command line (without the program's name). argparse would cost half a megabyte in every sandbox.

    Raises:
        SystemExit: with the usage, when it is wrong.
    """
    if not 1 <= len(argv) <= len(Config._fields) or argv[0].startswith("-"):
        raise SystemExit(USAGE)
    return Config(*argv)
