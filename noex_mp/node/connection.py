"""The root's end of one process's control link: a worker's, a client's, the CLI's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noex_mp.transport import fds
from noex_mp.transport.control_link import ControlLink

if TYPE_CHECKING:
    from noex_mp.node.workers import Worker

__all__ = ["Connection"]


class Connection:
    """One process (or event loop) that the root talks with.

    Attributes:
        label: Who it is, for people.
        trusted: It belongs to the node; others may not send pickles.
        worker: The worker at the other end, or None if it only is a client.
        links: The ids of its data links, by the worker they lead to.
        located: The servers that it has been told of and wants to hear about.
        requests: How many of its requests are in work.
        asks_again: It may not read for a long time, as a thread that does other things. Told of
            every restart meanwhile, with a new link each, it would have a heap of them to read. So
            it is told of the end of a server, and then no more until it asks again.
    """

    def __init__(
        self,
        label: str,
        *,
        trusted: bool,
        worker: Worker | None = None,
        asks_again: bool = False,
    ) -> None:
        self.label = label
        self.trusted = trusted
        self.worker = worker
        self.links: dict[Worker, int] = {}
        self.located: set[int] = set()
        self.requests = 0
        self.asks_again = asks_again
        self._control: ControlLink | None = None

    def attach(self, control: ControlLink) -> None:
        """Give the connection its link."""
        self._control = control

    @property
    def control(self) -> ControlLink:
        """The control link."""
        if self._control is None:
            raise RuntimeError("the connection has no link yet")
        return self._control

    @property
    def closed(self) -> bool:
        """Whether the process is gone."""
        return self._control is None or self._control.closed

    def post(self, frame: list[Any], *pass_fds: int) -> None:
        """Send a frame, unless the process is gone; `pass_fds` are closed in either case."""
        if self.closed:
            fds.close_all(pass_fds)
        else:
            self.control.post(frame, *pass_fds)

    def post_big(self, frame: list[Any]) -> None:
        """Send a frame that may hold big bytes, unless the process is gone."""
        if not self.closed:
            self.control.post_big(frame)

    def close(self) -> None:
        """Close the link, if it has got that far, and let go of it and its buffers."""
        if self._control is not None:
            self._control.close()
            self._control = None
