"""A server that serves the ports of its sandbox by host name too."""

from __future__ import annotations

import pytest

from controlplane.api.app import ApiSettings
from tests.support.server.port_services import DOMAIN


@pytest.fixture
def settings() -> ApiSettings:
    """Settings with a domain for the host names of ports."""
    return ApiSettings(port_domain=DOMAIN)
