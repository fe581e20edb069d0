"""What the tests of pools share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from noex_mp import sync
from tests.nodes.observed import shared_nodes, whistles

__all__ = ["own_node", "shared_nodes", "whistles"]


@pytest.fixture
def own_node() -> Iterator[None]:
    """Stop the node behind an executor that has started one, at the end of the test."""
    yield
    sync.shutdown()
