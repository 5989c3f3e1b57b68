"""Amounts of CPU and memory in Kubernetes' notation, which the contract uses."""

from __future__ import annotations

import re
from fractions import Fraction

from controlplane.errors import InvalidRequest
from controlplane.sandbox import MAX_MEMORY_BYTES, MIN_CPUS, MIN_MEMORY_BYTES

_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,9})?|\.\d{1,9})([A-Za-z]*)", re.ASCII)
_CPU_UNITS = {"": Fraction(1), "m": Fraction(1, 1000)}
_MEMORY_UNITS = {
    "": 1,
    "B": 1,
    **{prefix: 1000**power for power, prefix in enumerate("kMGT", 1)},
    "K": 1000,
    **{f"{prefix}i": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
MAX_CPUS = 1024.0


def parse_cpus(text: str, name: str) -> float:
    """Return an amount of CPU in cores: "1", "0.5", "500m". Raises InvalidRequest."""
    number, unit = _split(text, name, 'such as "500m" or "1"')
    if unit not in _CPU_UNITS:
        raise InvalidRequest(f'{name}: {text!r} must be an amount such as "500m" or "1"')
    cpus = float(number * _CPU_UNITS[unit])
    if not MIN_CPUS <= cpus <= MAX_CPUS:
        raise InvalidRequest(f"{name}: {text!r} must be between {MIN_CPUS * 1000:g}m and {MAX_CPUS:g} cores")
    return cpus


def parse_memory(text: str, name: str) -> int:
    """Return an amount of memory in bytes: "512Mi", "2Gi", "1G", "1073741824". Raises InvalidRequest."""
    number, unit = _split(text, name, 'such as "512Mi" or "2Gi"')
    if unit not in _MEMORY_UNITS:
        raise InvalidRequest(f'{name}: {text!r} must be an amount such as "512Mi" or "2Gi"')
    size = int(number * _MEMORY_UNITS[unit])
    if not MIN_MEMORY_BYTES <= size <= MAX_MEMORY_BYTES:
        raise InvalidRequest(
            f"{name}: {text!r} must be between {MIN_MEMORY_BYTES >> 20}Mi and {MAX_MEMORY_BYTES >> 40}Ti"
        )
    return size


def _split(text: str, name: str, examples: str) -> tuple[Fraction, str]:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"{name}: {text!r} must be an amount {examples}")
    return Fraction(match[1]), match[2]
