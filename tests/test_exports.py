"""The public names: `from noex_mp import ...`."""

from __future__ import annotations

import inspect

import pytest

import noex_mp
import noex_mp.errors

PUBLIC = list(noex_mp.__all__)


def test_a_public_name_is_exported_once() -> None:
    assert len(PUBLIC) == len(set(PUBLIC))


def test_no_public_name_is_private() -> None:
    assert not [n for n in PUBLIC if n.startswith("_") and n != "__version__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_exists(name: str) -> None:
    assert hasattr(noex_mp, name)


@pytest.mark.parametrize("name", [n for n in PUBLIC if not n.startswith("_")])
def test_a_public_name_is_documented(name: str) -> None:
    thing: object = getattr(noex_mp, name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert inspect.getdoc(thing), f"{name} has no docstring"


def test_every_error_is_a_public_name() -> None:
    assert set(noex_mp.errors.__all__) <= set(PUBLIC)
