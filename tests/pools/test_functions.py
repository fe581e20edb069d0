"""How functions are packed."""

from __future__ import annotations

import sys
import types
from weakref import ref

import pytest

from noex_mp.pools.functions import pack_function


def test_a_function_that_was_packed_is_not_kept() -> None:
    def triple(n: int) -> int:
        return 3 * n

    assert isinstance(pack_function(triple), bytes)
    gone = ref(triple)
    del triple
    assert gone() is None


def test_nor_is_one_that_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("short_lived")
    exec("def triple(n): return 3 * n", vars(module))
    monkeypatch.setitem(sys.modules, "short_lived", module)
    assert pack_function(module.triple) == pack_function(module.triple) == "short_lived:triple"
    gone = ref(module.triple)
    del vars(module)["triple"]
    assert gone() is None
