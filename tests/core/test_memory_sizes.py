"""Amounts of memory as people write them."""

from __future__ import annotations

import doctest

import pytest

from noex_mp.core import memory_sizes as module
from noex_mp.core.memory_sizes import in_bytes


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0, 0),
        (2**30, 2**30),
        ("512MB", 512 * 10**6),
        ("512MiB", 512 * 2**20),
        (" 1.5 gb ", 1_500_000_000),
        ("100KB", 100_000),
        ("2TiB", 2**41),
        ("512", None),
        ("512M", None),
        ("MB", None),
        ("-1MB", None),
        ("1e3MB", None),
        ("1,5GB", None),
        ("", None),
        (1.5, None),
        (True, None),
        (None, None),
        (b"512MB", None),
    ],
)
def test_an_amount_in_bytes(amount: object, expected: int | None) -> None:
    assert in_bytes(amount) == expected


def test_the_examples_hold() -> None:
    assert doctest.testmod(module).failed == 0
