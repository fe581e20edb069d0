"""Patterns of names, by what they fit."""

from __future__ import annotations

import pytest

from noex_mp.core.globs import compile_glob


@pytest.mark.parametrize(
    ("glob", "name", "fits"),
    [
        ("visits", "visits", True),
        ("visits", "visits2", False),
        ("", "", True),
        ("", "x", False),
        # One star: any run that stops at a slash, also an empty one.
        ("*", "visits", True),
        ("*", "", True),
        ("*", "a/b", False),
        ("user:*", "user:1", True),
        ("user:*", "user:", True),
        ("user:*", "room:1", False),
        ("src/*", "src/file", True),
        ("src/*", "src/dir/file", False),
        ("*:*", "key:value", True),
        ("*:*", "key:val/ue", False),
        ("a*c", "abbbc", True),
        # Two: any run at all.
        ("**", "", True),
        ("**", "a/b/c", True),
        ("src/**", "src/dir/file", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/z", "a//z", True),
        ("a/**/z", "a/z", False),
        ("**/z", "a/b/z", True),
        ("***", "a/b", True),
        # One character, whichever.
        ("v?", "v1", True),
        ("v?", "v10", False),
        ("v?", "v", False),
        ("v?", "v/", True),
        ("??", "ab", True),
        # Everything else means itself.
        ("test.key[0]", "test.key[0]", True),
        ("test.key[0]", "testxkey0", False),
        ("a+b|c^$(){}\\d", "a+b|c^$(){}\\d", True),
        ("*.py", "a.py", True),
        ("*.py", "apy", False),
        ("**", "two\nlines", True),
        ("k?y", "k\ny", True),
        ("größe/*", "größe/€", True),
    ],
)
def test_a_pattern_fits_whole_names(glob: str, name: str, fits: bool) -> None:
    assert bool(compile_glob(glob)(name)) is fits


def test_a_pattern_is_compiled_once() -> None:
    assert compile_glob("rooms/*") == compile_glob("rooms/*")
