"""The root process: the control plane of a node."""

from __future__ import annotations

__all__ = ["implicit_node"]


async def implicit_node(preload: str | None = None, if_possible: bool = False) -> str:
    """Return the id of the running loop's implicit node, and start it on first use.

    Args:
        preload: A module that it imports ahead, if it is to be started.
        if_possible: It may do without.
    """
    # Loaded on demand: most of the package is only needed by whoever starts a node.
    from noex_mp.node import implicit

    return await implicit.implicit_node(preload, if_possible)
