"""`Health`: what a node says of itself when somebody asks whether it is well. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Health", "NodeStatus"]

NodeStatus = Literal["starting", "running", "stopping"]
"""Where a node is in its life."""


@dataclass(frozen=True)
class Health:
    """How a node is, at one moment. That it answers at all says that it is alive.

    Attributes:
        ready: Its tree has started, all its applications run, and it does not stop.
        status: Where it is in its life.
        applications: Where each application is in its own.
        not_ready: What there is against its being ready, for people; empty if it is.
    """

    ready: bool
    status: NodeStatus
    applications: Mapping[str, str] = field(default_factory=dict[str, str])
    not_ready: tuple[str, ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {**asdict(self), "not_ready": list(self.not_ready)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Health:
        """Return what `as_plain` has made plain."""
        return cls(
            plain["ready"], plain["status"], plain["applications"], tuple(plain["not_ready"])
        )
