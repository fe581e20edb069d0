"""What a root needs to know of its node, besides the tree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noex_mp.client.events import Listener, Wants
from noex_mp.node.output import Sink
from noex_mp.node.registry_files import SavedRegistry

__all__ = ["RootConfig"]


@dataclass(frozen=True, kw_only=True)
class RootConfig:
    """What a node is made of, besides its tree.

    Attributes:
        name: What the CLI calls it, or None: it has no control socket then.
        preload: The modules that the zygote imports.
        with_main: Whether the zygote runs the user's script too.
        allow_native_threads: Native threads that the preload may leave.
        allow_pickle: Whether pickle is the last resort for arguments.
        core_dumps: Whether a crashing worker may write a core file.
        debug: Whether exit reports hold what the last message was called with.
        spin: Whether loops do not go to sleep while an answer may be near.
        has_tree: Whether a tree is to be started; without one the node is ready at once.
        embedded: Whether the program around the root makes calls, with descriptors of its process.
        look_ahead: Looks at new code before a reload, is given the tree as it is described now, and
            returns sentences about what is new in it; or None.
        persist: The registries that outlive the node, by name.
        listener: Hears of every event that it wants.
        wants: Tells which events these are.
        sink: Gets what workers print.
    """

    name: str | None = None
    preload: Sequence[str] = ()
    with_main: bool = False
    allow_native_threads: Sequence[str] = ()
    allow_pickle: bool = True
    core_dumps: bool = False
    debug: bool = False
    spin: bool = False
    has_tree: bool = False
    embedded: bool = False
    look_ahead: Callable[[dict[str, Any]], Awaitable[Sequence[str]]] | None = None
    persist: Mapping[str, SavedRegistry] = field(default_factory=dict[str, SavedRegistry])
    listener: Listener = field(default=lambda event: None)
    wants: Wants = field(default=lambda kind: True)
    sink: Sink = field(default=lambda label, stream, line: None)
