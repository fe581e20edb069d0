"""`noex-mp reload [NODE]`: new code for the servers of a running node, while they serve."""

from __future__ import annotations

import sys
from functools import partial
from time import monotonic

from noex_mp.cli import statuses
from noex_mp.cli.client import RunningNode, run_with_nodes
from noex_mp.cli.results import show
from noex_mp.cli.words import amount, listed
from noex_mp.core.reloaded import Reloaded
from noex_mp.errors import ConfigError, NodeDownError, NoexError

__all__ = ["reload"]


def reload(name: str | None, timeout: float | None) -> int:
    """Let a node replace its servers; return the exit status once that is done, or given up.

    Args:
        name: The node's name; None means the only one that runs.
        timeout: How long the import of the new code may take, in seconds, or None.
    """
    return run_with_nodes(name, partial(_reload, timeout))


async def _reload(timeout: float | None, nodes: list[RunningNode]) -> int:
    if len(nodes) > 1:
        running = listed(node.name for node in nodes)
        raise ConfigError(f"several nodes run: {running}\nSay which: noex-mp reload NODE")
    return await _reload_one(nodes[0], timeout)


async def _reload_one(node: RunningNode, timeout: float | None) -> int:
    begin = monotonic()
    try:
        done = await node.reload(timeout)
    except NodeDownError:
        print(f"noex-mp: {node} has stopped", file=sys.stderr)
        return statuses.FAILED
    except NoexError as error:
        # Also where a file needs a change: that is no mistake of this command line.
        print(f"noex-mp: {node}: {error}", file=sys.stderr)
        return statuses.FAILED
    show(_in_words(node, done, monotonic() - begin))
    return statuses.OK


def _in_words(node: RunningNode, done: Reloaded, seconds: float) -> str:
    servers = amount(done.replaced, "server")
    have = "has" if done.replaced == 1 else "have"
    lines = [f"{node}: {servers} {have} the new code, after {seconds:.1f} s"]
    if done.kept:
        kept = listed(done.kept)
        lines.append(f"With the old code until they end: {kept}")
    return "\n".join([*lines, *done.notes])
