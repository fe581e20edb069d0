"""Refs by name: what is sent before it is known who has the name.

The first message to a name asks the root who has it and waits; the answer turns it, and what
follows it, into messages of that server's route, in their order. From then on a `Ref` by name
costs what any other costs. When the server is gone for good, the next message asks again.
"""

from __future__ import annotations

import asyncio
from _thread import get_ident
from typing import TYPE_CHECKING, Any, Final

from noex_mp.errors import NoServerError

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.client.route import Route
    from noex_mp.core.ref import SentOperation

__all__ = ["NamedRoute"]


class NamedRoute:
    """The way to whoever has a name, until that is known.

    Attributes:
        thread: The thread of its event loop; 0 once the name is resolved, so that a `Ref` asks
            the client again, which then has the route itself.
        is_running: Tells whether its event loop runs.
        link: None, as long as nobody knows where to.
    """

    link: Final = None

    def __init__(self, client: Client, name: str) -> None:
        self.thread = get_ident()
        self.is_running = client.loop.is_running
        self._client = client
        self._name = name
        self._waiting: list[tuple[asyncio.Future[Any], str, tuple[Any, ...]]] = []
        client.request("whereis", name).add_done_callback(self._resolved)

    def invoke(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> asyncio.Future[Any]:
        """Keep a call until the name is resolved."""
        return self._keep("invoke", operation, args, kwargs, timeout)

    def cast(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> asyncio.Future[None]:
        """Keep a cast until the name is resolved."""
        return self._keep("cast", operation, args, kwargs, timeout)

    def cast_nowait(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> None:
        """Keep a cast until the name is resolved: nobody knows of any window yet."""
        self._keep("cast", operation, args, kwargs, timeout)

    def _keep(self, method: str, *message: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._client.loop.create_future()
        self._waiting.append((future, method, message))
        return future

    def _resolved(self, answer: asyncio.Future[Any]) -> None:
        self.thread = 0
        waiting, self._waiting = self._waiting, []
        error = answer.exception()
        if error is None and answer.result() is None:
            error = NoServerError(repr(self._name))
        for future, method, message in waiting:
            if future.done():
                continue
            if error is not None:
                _fail(future, method, error)
            else:
                sid, label = answer.result()
                self._pass_on(future, method, self._client.name(self._name, sid, label), message)

    def _pass_on(
        self, future: asyncio.Future[Any], method: str, route: Route, message: tuple[Any, ...]
    ) -> None:
        try:
            sent: asyncio.Future[Any] = getattr(route, method)(*message)
        except Exception as error:
            _fail(future, method, error)
        else:
            _chain(sent, future, method)


def _fail(future: asyncio.Future[Any], method: str, error: BaseException) -> None:
    future.set_exception(error)
    if method == "cast":
        # Whoever does not wait for it has said that its fate is no matter: no log entry.
        future.exception()


def _chain(source: asyncio.Future[Any], target: asyncio.Future[Any], method: str) -> None:
    def copy(_: asyncio.Future[Any]) -> None:
        if target.done():
            source.exception()
        elif source.cancelled():
            target.cancel()
        elif error := source.exception():
            _fail(target, method, error)
        else:
            target.set_result(source.result())

    source.add_done_callback(copy)
