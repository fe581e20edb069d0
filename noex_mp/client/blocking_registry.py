"""What threads without an event loop ask of registries and groups: each method blocks.

Nothing is written twice: a thread drives the same methods, and lends them its client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from typing_extensions import ParamSpec

from noex_mp.client.blocking import ThreadEnd, refuse_in_a_loop, this_thread
from noex_mp.client.blocking_supervisors import run_speaking
from noex_mp.client.supervisors import SupervisorRef
from noex_mp.core.gen_server import GenServer
from noex_mp.core.ref import CALLBACK, Ref
from noex_mp.errors import CallError, MailboxFullError

if TYPE_CHECKING:
    from noex_mp.client.groups import Group, GroupChange
    from noex_mp.client.registry import Registry

__all__ = ["BlockingGroup", "BlockingRegistry"]

S = TypeVar("S", bound=GenServer[Any, Any, Any])
P = ParamSpec("P")
T = TypeVar("T")


class BlockingRegistry:
    """A registry, in the hands of a thread without an event loop.

    The methods do what those of `Registry` do, with the same arguments and errors, and raise
    `NoNodeError` where an event loop runs in this thread. They take a `ref` in any case: no thread
    is a server.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def register(self, key: str, ref: Ref[Any] | SupervisorRef, metadata: Any = None) -> None:
        """Register a server under a key, until its incarnation ends."""
        _run("register", self._registry.register, key, ref, metadata)

    def unregister(self, key: str, ref: Ref[Any] | SupervisorRef | None = None) -> None:
        """Free a key."""
        _run("unregister", self._registry.unregister, key, ref)

    def update_metadata(
        self,
        key: str,
        change: Callable[[Any], Any] | Any,
        ref: Ref[Any] | SupervisorRef | None = None,
    ) -> Any:
        """Change what was said with an entry; return what it is now."""
        return _run("update_metadata", self._registry.update_metadata, key, change, ref)

    @overload
    def await_name(self, key: str, *, timeout: float | None = 5.0) -> Ref[Any] | SupervisorRef: ...
    @overload
    def await_name(self, key: str, server: type[S], *, timeout: float | None = 5.0) -> Ref[S]: ...
    def await_name(
        self, key: str, server: type[S] | None = None, *, timeout: float | None = 5.0
    ) -> Any:
        """Return who is registered under a key, as soon as somebody is."""
        wait: Any = self._registry.await_name
        return _run("await_name", wait, key, server, timeout=timeout)

    def dispatch(
        self, key: str, message: Any = None, *, using: Callable[[Ref[Any]], Any] | None = None
    ) -> int:
        """Send a message to all that are registered under a key; return how many took it."""
        end = _end("dispatch")
        refs = self._registry.servers(key)
        if using is not None:
            return sum(_taken(using, ref) for ref in refs)
        # First those that have room: none of them waits for the others.
        waiting: list[Ref[Any]] = []
        taken = 0
        for ref in refs:
            try:
                taken += _taken(partial(_cast, end, message, at_once=True), ref)
            except MailboxFullError:
                waiting.append(ref)
        return taken + sum(_taken(partial(_cast, end, message), ref) for ref in waiting)


class BlockingGroup:
    """A group, in the hands of a thread without an event loop; see `Group`."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def join(self, ref: Ref[Any]) -> None:
        """Let a server be a member, until its incarnation ends."""
        _run("join", self._group.join, ref)

    def leave(self, ref: Ref[Any]) -> None:
        """Let a server be no member any more."""
        _run("leave", self._group.leave, ref)

    def watch(self) -> Iterator[GroupChange]:
        """Yield the members there are, as joined, and then every change."""
        from noex_mp.client.groups import watch_on

        end = _end("watch")
        return _changes_of(end, watch_on(end.client(), self._group))


def _cast(end: ThreadEnd, message: object, ref: Ref[Any], *, at_once: bool = False) -> None:
    end.cast(ref, CALLBACK, (message,), {}, at_once=at_once)


def _taken(send: Callable[[Ref[Any]], Any], ref: Ref[Any]) -> bool:
    try:
        send(ref)
    except MailboxFullError:
        raise
    except CallError:
        # It is dead, or had no room for too long.
        return False
    return True


def _changes_of(end: ThreadEnd, changes: Any) -> Iterator[GroupChange]:
    try:
        while True:
            yield end.run(changes.__anext__())
    finally:
        changes.close()


def _end(what: str) -> ThreadEnd:
    refuse_in_a_loop(f"sync.{what}", f"Await {what}(...) instead.")
    return this_thread()


def _run(what: str, method: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    async def work() -> T:
        # Not before this thread's client speaks.
        return await method(*args, **kwargs)

    return run_speaking(f"sync.{what}", f"Await {what}(...) instead.", work())
