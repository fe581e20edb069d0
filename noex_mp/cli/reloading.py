"""`noex-mp run --reload`: the tree is started anew when its files change."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import msgpack

from noex_mp.cli.load import Loaded
from noex_mp.cli.target import Target
from noex_mp.cli.watch import Watch
from noex_mp.cli.words import amount, listed
from noex_mp.errors import ConfigError, NodeDownError, NoexError
from noex_mp.node.root import Root
from noex_mp.wire.values import FROZENSET, SET

__all__ = ["Reloading", "what_has_changed", "write_no_bytecode"]

# So many files are named that have changed.
MAX_NAMED: Final = 3


def write_no_bytecode() -> None:
    """Let Python keep no compiled modules, here and in all processes that come from here.

    To Python, a file that is saved twice within a second, and is as long as before, has not changed
    since it was compiled.
    """
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


class Reloading:
    """Watches the application's files, and starts its tree anew with each change."""

    def __init__(
        self,
        target: Target,
        load: Callable[[], Awaitable[Loaded]],
        root: Root,
        watch: Watch,
        say: Callable[..., None],
    ) -> None:
        """Make what keeps a tree up to date.

        Args:
            target: The tree.
            load: Loads it anew.
            root: Runs it.
            watch: Knows its files.
            say: Writes to the log.
        """
        self._target = target
        self._load = load
        self._root = root
        self._watch = watch
        self._say = say

    async def run(self) -> None:
        """Take one change after the other, until the node stops."""
        while True:
            loaded = await self._load_what_changed()
            self._watch.follow(loaded.files)
            try:
                await self._take(loaded)
            except NodeDownError:
                return

    async def _load_what_changed(self) -> Loaded:
        """Load the next version; if another is saved meanwhile, that: an import may never end."""
        changed = await self._watch.change()
        while True:
            self._say("info", "reloading", f"{_named(changed)} changed: loading {self._target}")
            loading = asyncio.ensure_future(self._load())
            changing = asyncio.ensure_future(self._watch.change())
            both = (loading, changing)
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not changing.done():
                    return loading.result()
                changed = changing.result()
            finally:
                for each in both:
                    each.cancel()
                await asyncio.wait(both)

    async def _take(self, loaded: Loaded) -> None:
        if loaded.tree is None:
            self._refuse("the new version cannot be loaded; the old one runs on", loaded.error)
            return
        try:
            await self._root.restart_tree(loaded.tree, loaded.preload)
        except NodeDownError:
            raise
        except ConfigError as error:
            self._refuse("the new version cannot be loaded; the old one runs on", str(error))
        except NoexError as error:
            trace = "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else ""
            is_up = self._root.health().status == "running"
            old = "is started again" if is_up else "does not start any more either"
            self._refuse(f"the old version {old}; in the new one {error}", trace)
        else:
            servers = amount(len(self._root.servers()), "server")
            self._say("info", "reloaded", f"the new version is up with {servers}")

    def _refuse(self, what: str, trace: str) -> None:
        self._say("error", "not_reloaded", what, trace)


def what_has_changed(before: dict[str, Any] | None, now: dict[str, Any] | None) -> list[str]:
    """Return sentences about children that a reload does not change: it starts those there are."""
    old, new = dict(_paths(before)), dict(_paths(now))
    both = [path for path in new if path in old]
    found = {
        "added": [path for path in new if path not in old],
        "removed": [path for path in old if path not in new],
        "described in another way": [path for path in both if old[path] != new[path]],
    }
    return [
        f"The tree has changed, and that comes with the next start of the node; {how}: "
        f"{listed(paths)}"
        for how, paths in found.items()
        if paths
    ]


def _paths(entry: dict[str, Any] | None, path: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield the path of each entry of a tree, and its own description."""
    if entry is None:
        return
    # As it comes from another process: there are no tuples then.
    yield path or "/", msgpack.packb(_own(entry))
    for inner in entry.get("children", ()):
        yield from _paths(inner, f"{path}/{inner['id']}")


def _own(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what an entry says of itself; each process has its own order of sets."""
    own = {key: value for key, value in entry.items() if key != "children"}
    if "payload" in own:
        own["payload"] = _arguments(own["payload"])
    if own.get("template"):
        own["template"] = _own(own["template"])
    return own


def _arguments(payload: bytes) -> Any:
    """Return packed arguments as text, and the big buffers behind them; no class is loaded."""
    unpacker = msgpack.Unpacker(ext_hook=_extension, strict_map_key=False, max_buffer_size=0)
    unpacker.feed(payload)
    try:
        text = repr(unpacker.unpack())
    except (ValueError, msgpack.UnpackException):
        return payload
    return [text, payload[unpacker.tell() :]]


def _extension(code: int, payload: bytes) -> Any:
    if code in (SET, FROZENSET):
        elements = msgpack.unpackb(payload, ext_hook=_extension, strict_map_key=False)
        return msgpack.ExtType(code, repr(sorted(map(repr, elements))).encode())
    return msgpack.ExtType(code, repr(_arguments(payload)).encode())


def _named(files: list[str]) -> str:
    names = [os.path.relpath(file) for file in files]
    more = [f"{len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return listed([*names[:MAX_NAMED], *more])
