"""What the tests of pools share."""

from __future__ import annotations

from tests.nodes.observed import whistles

__all__ = ["whistles"]
