"""For tests of commands against a server in the same process."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from controlplane import logs
from controlplane.settings.sections import Settings


@pytest.fixture
def log_of_the_server_apart() -> Iterator[None]:
    """The log of the server is not among what commands print."""
    handlers, level = logging.root.handlers[:], logging.root.level
    logs.configure(Settings().logs)
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
