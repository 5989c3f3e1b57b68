"""Whether there are traces: the tracer of the settings, whose libraries are an extra."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from controlplane.errors import ConfigError
from controlplane.settings.sections import TraceSettings
from controlplane.telemetry.tracing import SILENT, Tracer

LIBRARIES = "opentelemetry"
MISSING = (
    "[traces] endpoint is set, but the libraries for traces are not installed: `.venv/bin/pip install -e '.[traces]'` "
    "in the checkout, or `pip install 'sandlot[traces]'`, installs them"
)


@contextlib.asynccontextmanager
async def tracing(settings: TraceSettings) -> AsyncIterator[Tracer]:
    """Yield a tracer that sends to the collector of the settings; without one, a tracer that does nothing.

    Raises:
        ConfigError: the libraries are not installed.
    """
    if not settings.endpoint:
        yield SILENT
        return
    try:
        from controlplane.telemetry.otlp import OtlpTracer
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != LIBRARIES:
            raise
        raise ConfigError(MISSING) from error
    named = (header.partition(":") for header in settings.collector_headers)
    tracer = OtlpTracer(
        settings.endpoint, {name.strip(): value.strip() for name, _, value in named}, settings.sample_ratio
    )
    try:
        yield tracer
    finally:
        await tracer.aclose()
