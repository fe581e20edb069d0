"""The public names: `from noex_mp import ...`."""

from __future__ import annotations

import inspect
import subprocess
import sys

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


def test_what_is_loaded_on_demand_is_listed_and_imported_like_the_rest() -> None:
    assert set(PUBLIC) <= set(dir(noex_mp))
    everything: dict[str, object] = {}
    exec("from noex_mp import *", everything)
    assert set(PUBLIC) <= everything.keys()


def test_a_name_that_does_not_exist_is_not_there() -> None:
    assert not hasattr(noex_mp, "nothing")


def test_an_import_loads_nothing_of_what_only_a_running_node_needs() -> None:
    heavy = ["numpy", "uvloop", "msgpack", "ctypes", "tempfile", "noex_mp.client.client"]
    code = f"import sys, noex_mp; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
