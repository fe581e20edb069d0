"""Whoever makes calls: one event loop, in the user's program or in a worker.

A `Client` holds the routes to the servers it has called, the direct links to their workers,
and the control link to the root, which tells it where servers are. The root is asked once per
server; after that it only speaks up when a server ends or starts again.

`Client` knows no node and no worker: it is given a control link and lives on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from noex_mp.client import current
from noex_mp.client.named import NOBODY_YET
from noex_mp.client.route import Route, died_in_words
from noex_mp.core.reasons import RootDied
from noex_mp.core.ref import Ref
from noex_mp.errors import NodeDownError, RemoteError, RemoteProtocolError
from noex_mp.transport import fds, lifeline
from noex_mp.transport.blocking_link import BlockingLink
from noex_mp.transport.control_link import NO_FD, ControlLink
from noex_mp.transport.link import Link, send_all
from noex_mp.transport.loops import keep_apart
from noex_mp.transport.platform import peer_of
from noex_mp.transport.spin import Spinner
from noex_mp.transport.ticker import Ticker
from noex_mp.wire.classes import path_of
from noex_mp.wire.codec import Encoder
from noex_mp.wire.envelopes import (
    BUFFERS,
    CHANGED,
    DOWN,
    DROPPED,
    END,
    ERROR,
    GONE,
    GRANT,
    LINK_DOWN,
    LINK_LOST,
    LOCATE,
    LOCATED,
    LOST,
    MONITORED,
    REPLY,
    REQUEST,
    RESPONSE,
    RESPONSES,
    STOPPED,
    TAKEN,
)
from noex_mp.wire.payload import unpack_error
from noex_mp.wire.stream import FrameReader

if TYPE_CHECKING:
    from noex_mp.client.key_watches import KeyWatches
    from noex_mp.client.monitors import Watcher, Watching

__all__ = ["Client", "connect_client", "raisable"]

# While calls are out, their deadlines are looked at so often, in seconds: a limit is late by one
# of these, and never early.
TICK: Final = 0.015

# That messages wait for a full mailbox is told once in so many seconds.
FULL_AGAIN: Final = 1.0

# How often the tick looks whether anybody waits at all, in ticks.
IDLE_CHECK: Final = 16

# A route with more pending calls than this is looked at more rarely, unless one is out of time.
SWEPT_AT_ONCE: Final = 1000

# Those of this process, for its forks.
_clients: WeakSet[Client] = WeakSet()


class Client:
    """One event loop's end of everything.

    Attributes:
        loop: The event loop.
        node: The node's id; refs carry it.
        encoder: Packs the messages of this client.
        done: A future that is done, for casts that had no need to wait.
        routes: The way to each server that it has called, by sid.
        serving: Returns the sid of the server in whose name the current task runs, or 0.
        root_died: Whether the root has died, and which it was; None while it runs, and where the
            node was stopped.
    """

    route_class: type[Route] = Route

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        control: ControlLink,
        node: str,
        *,
        allow_pickle: bool = True,
        asks_again: bool = False,
        spinner: Spinner | None = None,
    ) -> None:
        self.loop = loop
        self.node = node
        self._asks_again = asks_again
        self._spinner = spinner
        self.encoder = Encoder(allow_pickle=allow_pickle)
        self.done: asyncio.Future[None] = loop.create_future()
        self.done.set_result(None)
        self.serving: Callable[[], int] = int
        self.root_died: RootDied | None = None
        fds.call_in_forks(_after_fork)
        _clients.add(self)
        self._ticks = 0
        self._ticking = False
        self._ticker = Ticker(loop, TICK, self._on_tick)
        self._dropped: dict[int, int] = {}
        self._told_full: dict[int, float] = {}
        self._allow_pickle = allow_pickle
        self._control = control
        self.routes: dict[int, Route] = {}
        # The highest number of a route that was forgotten: no other has a number twice.
        self._last_number = 0
        self._names: dict[str, int] = {}
        # What waits until the root has told who has a name.
        self._named: dict[str, Route] = {}
        self._links: dict[int, Link] = {}
        # END marks whose DOWN has not come yet: link id, sid, incarnation.
        self._marks: set[tuple[int, int, int]] = set()
        # What the root says of a server whose END has not come yet, the DOWN first; by sid.
        self._held: dict[int, list[list[Any]]] = {}
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._request_id = 0
        # Made when somebody watches.
        self._watching: Watching | None = None
        self._key_watches: KeyWatches | None = None
        self._handlers: dict[int, Callable[[list[Any]], None]] = {
            LOCATED: self._on_located,
            LINK_DOWN: self._on_link_down,
            DOWN: self._on_down,
            GONE: self._on_gone,
            RESPONSE: self._on_response,
            RESPONSES: self._on_responses,
            MONITORED: self._on_monitored,
            STOPPED: self._on_stopped,
            CHANGED: self._on_changed,
        }
        self._has_stopped = False

    # --- routes ------------------------------------------------------------------------

    def route(self, sid: int, label: str) -> Route:
        """Return the route to a server, and make it on first use."""
        route = self.routes.get(sid)
        if route is None:
            route = self.routes[sid] = self.route_class(self, sid, label)
            route.seq = self._last_number
        return route

    def way_to(self, ref: Ref[Any]) -> Route:
        """Return the route that a ref's messages take."""
        if ref.sid:
            return self.route(ref.sid, ref.label)
        name = ref.name or ""
        sid = self._names.get(name)
        if sid is not None:
            return self.routes[sid]
        claim = current.claimed_at_run_time(self.node, name)
        if claim is not None:
            return self.route(claim.sid, claim.label)
        return self._named.get(name) or self._ask_for(name)

    def _ask_for(self, name: str) -> Route:
        """Ask the root who has a name; return the route for what is sent there meanwhile."""
        route = self._named[name] = self.route_class(self, NOBODY_YET, repr(name))
        route.incarnation = -1
        self.request("whereis", name).add_done_callback(partial(self._told_who_has, name))
        return route

    def _told_who_has(self, name: str, answer: asyncio.Future[list[Any] | None]) -> None:
        route = self._named.pop(name, None)
        if route is None:
            return
        error = answer.exception()
        found = None if error else answer.result()
        if self._control.closed:
            route.node_down(self.root_died)
        elif found is None:
            route.gone(None, error)
        else:
            sid, label, is_own = found
            if is_own:
                # It is the server's as long as that is there. Else it is looked up each time.
                self._names[name] = sid
            self.route(sid, label).adopt(route)

    def _forget_names_of(self, sid: int) -> None:
        self._names = {name: known for name, known in self._names.items() if known != sid}

    def _all_routes(self) -> list[Route]:
        return [*self.routes.values(), *self._named.values()]

    def locate(self, route: Route) -> None:
        """Ask the root where the server is; it answers now and after every restart."""
        if self._control.closed:
            route.node_down(self.root_died)
        elif route.incarnation == 0:
            route.incarnation = -1
            self._control.post([LOCATE, route.sid])

    def _known_route(self, ref: Ref[Any]) -> Route | None:
        name = ref.name or ""
        sid = ref.sid or self._names.get(name, 0)
        if not sid and (claim := current.claimed_at_run_time(self.node, name)) is not None:
            sid = claim.sid
        return self.routes.get(sid)

    def sent(self, ref: Ref[Any]) -> asyncio.Future[None]:
        """Return a future that is done once the socket has what the window of a server took."""
        route = self._known_route(ref)
        if route is None or route.link is None:
            return self.done
        return route.link.wait_until_drained(0)

    async def drained(self, ref: Ref[Any]) -> None:
        """Wait until what was sent to a server has left this process."""
        await self._hear()
        route = self._known_route(ref)
        if route is not None and route.link is not None:
            await route.all_sent()
        if route is not None and route.link is not None:
            route.link.flush()
            await route.link.wait_until_drained(0)

    async def all_drained(self) -> None:
        """Wait until everything that was sent has left this process."""
        with contextlib.suppress(NodeDownError):
            await self._hear()
        for route in list(self.routes.values()):
            if route.link is not None:
                await route.all_sent()
        for link in list(self._links.values()):
            link.flush()
            await link.wait_until_drained(0)

    async def _hear(self) -> None:
        # Messages may wait until we know who has a name, and then until we know where that one
        # is. The root answers in order, so what it is about to tell us comes before this.
        for _ in range(2):
            if self._named or any(
                route.link is None and route.pending for route in self.routes.values()
            ):
                await self.request("names")

    def when_sent(self, then: Callable[[], object], limit: float) -> None:
        """Do something once the sockets have taken what was sent before.

        Args:
            then: Is called, at once if nothing waits.
            limit: How long it may take, in seconds; whoever does not read holds nobody up.
        """
        for link in self._links.values():
            link.flush()
        behind = [link.wait_until_drained(0) for link in self._links.values() if link.backlog]
        if not behind:
            then()
            return
        # Each is done also when its link is closed.
        waiting = asyncio.gather(*behind, return_exceptions=True)
        timer = self.loop.call_later(limit, waiting.cancel)

        def is_over(waiting: asyncio.Future[Any]) -> None:
            timer.cancel()
            if not waiting.cancelled():
                # One that was cut short has an exception, which goes into the log if nobody looks.
                waiting.exception()
            then()

        waiting.add_done_callback(is_over)

    def next_turn(self) -> asyncio.Future[None]:
        """Return a future that is done when the loop has run once."""
        future: asyncio.Future[None] = self.loop.create_future()
        self.loop.call_soon(_set_done, future)
        return future

    def request(self, method: str, *parameters: Any) -> asyncio.Future[Any]:
        """Ask the root to do something, and return the future of its answer."""
        future: asyncio.Future[Any] = self.loop.create_future()
        if self._control.closed:
            future.set_exception(NodeDownError(self._end_in_words))
            return future
        self._request_id += 1
        self._control.post_big([REQUEST, self._request_id, method, *parameters])
        # Behind that: what cannot be sent gets no answer.
        self._requests[self._request_id] = future
        return future

    def request_soon(self, method: str, *parameters: Any) -> asyncio.Future[Any]:
        """Ask the same of the root, together with what else is asked in this turn of the loop."""
        future: asyncio.Future[Any] = self.loop.create_future()
        if self._control.closed:
            future.set_exception(NodeDownError(self._end_in_words))
            return future
        self._request_id += 1
        self._control.post_request([self._request_id, method, *parameters])
        self._requests[self._request_id] = future
        return future

    # --- deadlines ---------------------------------------------------------------------

    def tick(self) -> None:
        """Look at the deadlines from now on, while calls are out."""
        if not self._ticking:
            self._ticking = True
            self._ticker.start()

    def _on_tick(self) -> None:
        self._ticks += 1
        now = monotonic()
        for route in self._all_routes():
            count = len(route.pending)
            if count and (route.soonest <= now or not self._ticks % (1 + count // SWEPT_AT_ONCE)):
                route.sweep(now)
        if self._ticks % IDLE_CHECK == 0 and not any(r.pending for r in self._all_routes()):
            self._stop_ticking()

    def check(self, message: object) -> None:
        """See that a message can be sent, without sending it.

        Raises:
            UnencodableError: It cannot.
        """
        try:
            self.encoder.pack_big([message])
        except Exception as error:
            raise self.encoder.explain_value("message", message, error) from None

    def sweep(self) -> None:
        """Look at once at what nobody waits for any more, and tell its servers."""
        now = monotonic()
        for route in self._all_routes():
            route.sweep(now)

    def _stop_ticking(self) -> None:
        self._ticking = False
        self._ticker.stop()
        for route in self._all_routes():
            route.rest()

    def count_dropped(self, sid: int, count: int = 1) -> None:
        """Count messages for which a mailbox had no room; the root hears of it.

        Args:
            sid: Whose mailbox.
            count: How many were refused or dropped; 0 where one begins to wait.
        """
        if not self._dropped:
            self.loop.call_soon(self._report_dropped)
        self._dropped[sid] = self._dropped.get(sid, 0) + count

    def _report_dropped(self) -> None:
        dropped, self._dropped = self._dropped, {}
        if self._control.closed:
            return
        now = self.loop.time()
        for sid, count in dropped.items():
            # That messages wait is worth telling now and then; what is lost is counted.
            if count or now >= self._told_full.get(sid, 0.0) + FULL_AGAIN:
                self._told_full[sid] = now
                self._control.post([DROPPED, sid, count])

    # --- what the root says ------------------------------------------------------------

    def handle(self, frame: list[Any]) -> bool:
        """Take a frame of the control plane; return whether it was for the client."""
        handler = self._handlers.get(frame[0])
        if handler is None:
            return False
        handler(frame)
        return True

    def _on_located(self, frame: list[Any]) -> None:
        _, sid, incarnation, link_id, is_new, mailbox = frame
        if is_new:
            fd = self._control.take_fd()
            if fd == NO_FD:
                # The root says so in the log, and tries again in a moment; calls wait.
                self._control.post([LINK_LOST, link_id, fds.usage_in_words()])
                return
            self._links[link_id] = self._open(link_id, fd)
        if sid in self._held:
            self._held[sid].append([LOCATED, sid, incarnation, link_id, False, mailbox])
        elif link_id in self._links and sid in self.routes:
            self.routes[sid].located(incarnation, self._links[link_id], mailbox)

    def _open(self, link_id: int, fd: int) -> Link:
        link = self._new_link(
            self.loop,
            fds.unix_socket(fd),
            peer=f"worker behind link {link_id}",
            on_frames=self._on_replies,
            on_close=self._on_link_closed,
            allow_pickle=self._allow_pickle,
        )
        link.state = link_id
        return link

    def _new_link(self, *positional: Any, **options: Any) -> Link:
        if self._asks_again:
            return BlockingLink(*positional, **options)
        if self._spinner is not None:
            return self._spinner.link(*positional, **options)
        return Link(*positional, **options)

    def _on_link_down(self, frame: list[Any]) -> None:
        _, link_id, replies = frame
        link = self._links.pop(link_id, None)
        if link is not None:
            # What it had replied before it died counts; only then is the rest sorted.
            link.drain()
            link.close()
        if replies:
            self._take_replies(replies)
        # The ends that it has not come to say.
        for sid, frames in list(self._held.items()):
            if frames[0][3] == link_id:
                self._release(sid)

    def _on_down(self, frame: list[Any]) -> None:
        _, sid, incarnation, link_id, begun, report, error = frame
        if self._asks_again:
            # It does not hear of it if another server has them afterwards.
            self._forget_names_of(sid)
        if sid in self._held:
            self._held[sid].append(frame)
            return
        mark = (link_id, sid, incarnation)
        if link_id in self._links and mark not in self._marks:
            self._held[sid] = [frame]
            return
        self._marks.discard(mark)
        cause = unpack_error(error, allow_pickle=self._allow_pickle)
        route = self.routes[sid]
        lost = route.ended(begun, report, cause)
        if lost:
            self._control.post([LOST, sid, incarnation, lost])
        if self._asks_again:
            self._ask_again(route)

    def _ask_again(self, route: Route) -> None:
        route.incarnation = 0
        if route.pending:
            self.locate(route)
        else:
            # Nor does it hear whether the server comes back.
            self._forget_route(route.sid)
            route.thread = 0

    def _forget_route(self, sid: int) -> Route | None:
        route = self.routes.pop(sid, None)
        if route is not None:
            # The server may come back: by its number a message is known as one that had begun.
            self._last_number = max(self._last_number, route.seq)
        return route

    def _on_end(self, link: Link, frame: list[Any]) -> None:
        _, sid, incarnation = frame
        self._marks.add((link.state, sid, incarnation))
        if sid in self._held:
            self._release(sid)

    def _release(self, sid: int) -> None:
        # One of them may have to wait for an END of its own.
        for frame in self._held.pop(sid):
            self.handle(frame)

    def _on_gone(self, frame: list[Any]) -> None:
        _, sid, report, error = frame
        if sid in self._held:
            self._held[sid].append(frame)
            return
        route = self._forget_route(sid)
        self._told_full.pop(sid, None)
        self._forget_names_of(sid)
        if route is not None:
            route.gone(report, unpack_error(error, allow_pickle=self._allow_pickle))

    @property
    def watching(self) -> Watching:
        """The monitors of this event loop.

        Raises:
            NodeDownError: The root is gone.
        """
        if self._control.closed:
            raise NodeDownError(self._end_in_words)
        if self._watching is None:
            from noex_mp.client.monitors import Watching

            self._watching = Watching(self._control.post)
        return self._watching

    def _on_monitored(self, frame: list[Any]) -> None:
        sid = frame[2]
        if sid in self._held:
            # First what its worker, which lives on, has still to say.
            self._held[sid].append(frame)
        elif self._watching is not None:
            self._watching.heard(frame)

    @property
    def key_watches(self) -> KeyWatches:
        """The watched keys of registries.

        Raises:
            NodeDownError: The root is gone.
        """
        if self._control.closed:
            raise NodeDownError("the node has stopped")
        if self._key_watches is None:
            from noex_mp.client.key_watches import KeyWatches

            self._key_watches = KeyWatches(self.loop, self._control.post)
        return self._key_watches

    def _on_changed(self, frame: list[Any]) -> None:
        if self._key_watches is not None:
            self._key_watches.heard(frame[1])

    def forget_watcher(self, watcher: Watcher) -> None:
        """Note that a server has ended: nobody is to hear for it."""
        if self._watching is not None and not self._control.closed:
            self._watching.forget(watcher)

    def _on_responses(self, frame: list[Any]) -> None:
        for response in frame[1]:
            self._answered(*response)

    def _on_response(self, frame: list[Any]) -> None:
        self._answered(*frame[1:])

    def _answered(self, request_id: int, succeeded: bool, value: Any) -> None:
        future = self._requests.pop(request_id, None)
        if future is None or future.done():
            return
        if succeeded:
            future.set_result(value)
        else:
            error, cause = value
            error.__cause__ = unpack_error(cause, allow_pickle=self._allow_pickle)
            future.set_exception(error)

    # --- what the workers say ----------------------------------------------------------

    def _on_replies(self, link: Link) -> None:
        routes = self.routes
        failures = link.reader.failures
        try:
            for frame in link.arrived:
                kind = frame[0]
                problem = None
                if failures:
                    problem = failures[0]
                    failures.clear()
                if kind == REPLY or kind == ERROR:  # noqa: SIM109 - faster
                    route = routes.get(frame[1])
                    if route is None:
                        continue
                    entry = route.pending.pop(frame[2], None)
                    if entry is None:
                        route.forget(frame[2])
                        continue
                    future = entry[0]
                    if future.done():
                        continue
                    if problem is not None:
                        future.set_exception(problem)
                    elif kind == REPLY:
                        future.set_result(frame[3])
                    else:
                        future.set_exception(raisable(frame[3], link.peer))
                elif kind == BUFFERS:
                    link.begin_buffers(frame)
                elif kind == GRANT:
                    route = routes.get(frame[1])
                    if route is not None and route.link is link:
                        route.granted(*frame[2:])
                elif kind == END:
                    self._on_end(link, frame)
                elif kind == TAKEN:
                    link.taken()
                else:
                    raise RemoteProtocolError(link.peer, f"a frame of kind {kind!r}")
        except Exception as error:
            link.close(link.reader.translate(error))

    def _take_replies(self, data: bytes) -> None:
        """Take the replies that a dead worker had finished and not sent."""
        reader = FrameReader(peer="a dead worker", allow_pickle=self._allow_pickle)
        reader.feed(data)
        for _, sid, seq, value in reader.frames():
            route = self.routes.get(sid)
            entry = route.pending.pop(seq, None) if route is not None else None
            if entry is not None and not entry[0].done():
                problem = reader.failures[0] if reader.failures else None
                if problem is not None:
                    entry[0].set_exception(problem)
                else:
                    entry[0].set_result(value)
            reader.failures.clear()

    def _on_link_closed(self, link: Link, problem: Exception | None) -> None:
        # An end of file is the worker's death, of which the root tells us; until then the
        # routes keep the link, so that what is sent now counts as sent to that incarnation.
        if link.state in self._links and not self._control.closed:
            self._control.post([LINK_LOST, link.state, str(problem or "")])

    # --- the end -----------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it has lost the root, or was closed."""
        return self._control.closed

    def close(self) -> None:
        """End the client; what waits fails."""
        if self.loop.is_closed():
            # Nobody can be told any more.
            self.routes.clear()
            self._named.clear()
            self._requests.clear()
        self._control.close()

    def _on_stopped(self, frame: list[Any]) -> None:
        self._has_stopped = True

    def root_gone(self, os_pid: int) -> None:
        """Take the end of the control link: the node has stopped, or its root has died.

        Args:
            os_pid: The root process, or 0 where nobody knows.
        """
        # A root that lives on has closed the link for another reason.
        if not self._has_stopped and lifeline.is_ending(os_pid):
            self.root_died = RootDied(os_pid)
        self.node_down()

    def node_down(self) -> None:
        """Fail everything that waits: the root is gone."""
        self._ticker.close()
        for route in self._all_routes():
            route.node_down(self.root_died)
        self._named.clear()
        for future in self._requests.values():
            if not future.done():
                future.set_exception(NodeDownError(self._end_in_words))
        self._requests.clear()
        if self._watching is not None:
            self._watching.node_down()
        if self._key_watches is not None:
            self._key_watches.node_down()
        self.routes.clear()
        for link in list(self._links.values()):
            link.close()

    @property
    def _end_in_words(self) -> str:
        return died_in_words(self.root_died) if self.root_died else "the node has stopped"

    def forked(self) -> None:
        """Let every ref ask for its route again, in a process that the user's program forked."""
        for route in self._all_routes():
            route.thread = 0
        for link in (self._control, *self._links.values()):
            # What still waits to be sent goes nowhere, and does not touch the loop.
            link.closed = True

    def flush_blocking(self, timeout: float) -> None:
        """Send what waits on every link; for a process or a loop that is about to end."""
        send_all(self._links.values(), timeout)


def _after_fork() -> None:
    # The asking is refused with a sentence. See `current.client`.
    for client in _clients:
        client.forked()


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def raisable(error: object, peer: str) -> BaseException:
    """Return the error, or one that says so if no future can pass it on as it is.

    Args:
        error: What came.
        peer: Who has sent it.
    """
    if not isinstance(error, BaseException):
        return RemoteProtocolError(peer, f"an error that is none: {error!r:.100}")
    # The one is refused by futures; the other would look as if our own caller was cancelled.
    if isinstance(error, (StopIteration, asyncio.CancelledError)):
        passed_on = RemoteError(path_of(type(error)), str(error))
        # They say where it comes from.
        for note in getattr(error, "__notes__", ()):
            passed_on.add_note(note)
        passed_on.__cause__ = error.__cause__
        return passed_on
    return error


def connect_client(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    node: str,
    *,
    allow_pickle: bool = True,
    asks_again: bool = False,
    spin: bool = False,
    client_class: type[Client] = Client,
) -> Client:
    """Return a client that talks to the root over a socket of its own.

    Args:
        spin: While a reply may be near, its loop does not go to sleep.
        asks_again: After the end of a server it asks the root again where that is, once it needs
            to know, for it only reads what the root says while it waits for something itself.
            (See `Connection`.)
        client_class: What it is to be.
    """
    root, _ = peer_of(sock)

    def on_frame(link: ControlLink, frame: list[Any]) -> None:
        client.handle(frame)

    def on_close(link: ControlLink, problem: Exception | None) -> None:
        client.root_gone(root)

    control = ControlLink(
        loop,
        sock,
        peer="the root",
        on_frame=on_frame,
        on_close=on_close,
        encoder=Encoder(allow_pickle=allow_pickle),
        allow_pickle=allow_pickle,
    )
    client = client_class(
        loop,
        control,
        node,
        allow_pickle=allow_pickle,
        asks_again=asks_again,
        spinner=Spinner(loop) if spin else None,
    )
    keep_apart(loop)
    return client
