"""What the tests of whole nodes share."""

from __future__ import annotations

from tests.nodes.observed import shared_nodes, whistles

__all__ = ["shared_nodes", "whistles"]
