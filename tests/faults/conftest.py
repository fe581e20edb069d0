"""What the tests of faults share."""

from __future__ import annotations

from tests.nodes.observed import whistles

__all__ = ["whistles"]
