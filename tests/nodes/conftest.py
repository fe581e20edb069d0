"""What the tests of whole nodes share."""

from __future__ import annotations

from tests.nodes.observed import whistles

__all__ = ["whistles"]
