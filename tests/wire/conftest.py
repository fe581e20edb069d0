"""What the tests of the wire have in common."""

from __future__ import annotations

import pytest

from noex_mp.wire.cut_over import here
from noex_mp.wire.values import BIG


@pytest.fixture(autouse=True)
def least_cut_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bytes leave their message as early as they can, whatever a node has measured here."""
    monkeypatch.setattr(here, "bytes_from", BIG)
