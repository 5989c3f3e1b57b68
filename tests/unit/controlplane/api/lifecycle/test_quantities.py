"""Amounts of CPU and memory."""

from __future__ import annotations

import pytest

from controlplane.api.lifecycle.quantities import parse_cpus, parse_memory
from controlplane.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("1", 1.0), ("500m", 0.5), ("0.5", 0.5), (".25", 0.25), (" 2 ", 2.0), ("1500m", 1.5), ("10m", 0.01)],
)
def test_cpus(text: str, cpus: float) -> None:
    """Cores, or thousandths of one."""
    assert parse_cpus(text, "cpu") == cpus


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512Mi", 512 << 20),
        ("2Gi", 2 << 30),
        ("1G", 1_000_000_000),
        ("1.5Gi", 3 << 29),
        ("134217728", 128 << 20),
        ("134217728B", 128 << 20),
        ("200000k", 200_000_000),
        ("200000K", 200_000_000),
        ("65536Ki", 64 << 20),
        ("1Ti", 1 << 40),
    ],
)
def test_memory(text: str, size: int) -> None:
    """Bytes, decimal and binary multiples of them."""
    assert parse_memory(text, "memory") == size


@pytest.mark.parametrize(
    "text",
    [
        "lots",
        "",
        " ",
        "-1",
        "0",
        "0m",
        "1e3",
        "1,5",
        "1 m",
        "m",
        "1Mi",
        "NaN",
        "inf",
        "٣",
        "1" * 30,
        "99999999",
        "1.",
        "1M",
    ],
)
def test_what_is_no_amount_of_cpu(text: str) -> None:
    """The message names the field."""
    with pytest.raises(InvalidRequest, match=r"resourceLimits\.cpu"):
        parse_cpus(text, "resourceLimits.cpu")


@pytest.mark.parametrize(
    "text", ["lots", "", "-512Mi", "0", "0Gi", "1mi", "5 Gi", "512MiB", "1Pi", "1m", "16", "9999Ti"]
)
def test_what_is_no_amount_of_memory(text: str) -> None:
    """Also what is far too little or too much."""
    with pytest.raises(InvalidRequest, match=r"resourceLimits\.memory"):
        parse_memory(text, "resourceLimits.memory")
