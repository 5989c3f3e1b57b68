"""The command line of execd, which is all that execd knows at the start. Everything else comes over the link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

VERSION = "0.1.0"  # of the distribution; a test compares it with pyproject.toml

USAGE = "usage: execd SOCKET [KERNELS_DIR [VERSIONS_DIR]]"


class Config(NamedTuple):
    """The command line."""

    socket_path: str  # Unix socket of the control plane; execd dials until the control plane answers
    kernels_dir: str = "/etc/sandlot/kernels"  # language manifests (*.toml)
    versions_dir: str = "/etc/sandlot/versions"  # files that declare versions (*.toml)


def parse(argv: Sequence[str]) -> Config:
    """Parse the command line (without the program's name). argparse would cost half a megabyte in every sandbox.

    Raises:
        SystemExit: The command line is wrong; the exception holds the usage.
    """
    if not 1 <= len(argv) <= len(Config._fields) or argv[0].startswith("-"):
        raise SystemExit(USAGE)
    return Config(*argv)
