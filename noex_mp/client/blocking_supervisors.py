"""What threads without an event loop ask of supervisors: each method blocks until it is done.

Nothing is written twice: a thread drives the coroutine of the `SupervisorRef` itself, and lends it
its client.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar, overload

from noex_mp.client.blocking import refuse_in_a_loop, this_thread
from noex_mp.client.supervisors import ChildCounts, ChildInfo, SupervisorRef, speaker
from noex_mp.core.gen_server import GenServer
from noex_mp.core.reasons import ExitReason
from noex_mp.core.ref import Ref
from noex_mp.core.specs import ChildSpec, Tree

__all__ = ["BlockingSupervisor", "run_speaking"]

S = TypeVar("S", bound=GenServer[Any, Any, Any])
T = TypeVar("T")


class BlockingSupervisor:
    """A supervisor, in the hands of a thread without an event loop: its methods block.

    They do what those of `SupervisorRef` do, with the same arguments and errors, and raise
    `NoNodeError` where an event loop runs in this thread.

    Attributes:
        ref: The supervisor's address, to be sent or compared.
    """

    def __init__(self, ref: SupervisorRef) -> None:
        self.ref = ref

    def __repr__(self) -> str:
        return f"BlockingSupervisor({self.ref.name or self.ref.sid!r})"

    @overload
    def start_child(self, child: ChildSpec[S], /) -> Ref[S]: ...
    @overload
    def start_child(self, child: Tree, /) -> SupervisorRef: ...
    @overload
    def start_child(  # pyright: ignore[reportOverlappingOverload] - what `Any` may be is no overlap
        self, /, *args: Any, **kwargs: Any
    ) -> Ref[Any]: ...
    def start_child(self, /, *args: Any, **kwargs: Any) -> Any:
        """Start a child; return its address once it is ready."""
        return self._run(self.ref.start_child(*args, **kwargs))

    def terminate_child(self, child: str | Ref[Any] | SupervisorRef) -> None:
        """Stop a child for good; return once it has ended."""
        self._run(self.ref.terminate_child(child))

    def restart_child(self, child: str | Ref[Any] | SupervisorRef) -> Ref[Any]:
        """Start a child again that has ended or was terminated."""
        return self._run(self.ref.restart_child(child))

    def delete_child(self, child: str | Ref[Any] | SupervisorRef) -> None:
        """Forget a child that has ended or was terminated."""
        self._run(self.ref.delete_child(child))

    def which_children(self) -> list[ChildInfo]:
        """Return the children, in the order of their starts."""
        return self._run(self.ref.which_children())

    def count_children(self) -> ChildCounts:
        """Return how many children there are."""
        return self._run(self.ref.count_children())

    def get_child(self, id: str) -> Ref[Any] | SupervisorRef | None:
        """Return the address of a child, or None if there is no such child."""
        return self._run(self.ref.get_child(id))

    def partition(self, key: object) -> Ref[Any]:
        """Return the server of a `PartitionSupervisor` that a key belongs to."""
        return self._run(self.ref.partition(key))

    def is_running(self) -> bool:
        """Return whether it is up."""
        return self._run(self.ref.is_running())

    def state(self) -> str:
        """Return where it is: `running`, `starting`, `restarting`, `stopping` or `stopped`."""
        return self._run(self.ref.state())

    def stop(self, reason: ExitReason | None = None, timeout: float | None = None) -> None:
        """Stop all its children in reverse order, and it, for good."""
        self._run(self.ref.stop(reason, timeout))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        remedy = "Await noex_mp.supervisor(...) instead."
        return run_speaking("noex_mp.sync.supervisor", remedy, work, node=self.ref.node or None)


def run_speaking(
    what: str, remedy: str, work: Coroutine[Any, Any, T], *, node: str | None = None
) -> T:
    """Run in this thread what asks a node in the name of whoever speaks.

    Args:
        what: How the caller wrote it, for the error in a thread with an event loop.
        remedy: What to write there.
        work: Is closed if it cannot run.
        node: The node's id; None is the current one.

    Raises:
        NoNodeError: An event loop runs in this thread.
    """
    try:
        refuse_in_a_loop(what, remedy)
        end = this_thread()
        token = speaker.set(end.client(node))
    except BaseException:
        work.close()
        raise
    try:
        return end.run(work)
    finally:
        speaker.reset(token)
