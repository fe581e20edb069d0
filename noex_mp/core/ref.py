"""`Ref`: the address of a server, and the seam to the client layer that sends to it.

A `Ref` is a small value: compare it, hash it, send it in a message. It stays good while its
server is restarted. What carries a message there is a `Route`; the client layer, which lies
above this one, makes them and says how with `install`.

```python
>>> counter = Ref("n1", 7, label="Counter")
>>> counter
Ref(Counter, 7)
>>> counter.within(0.5) == counter
True

```

Promise: no I/O here.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Protocol, TypeVar, final, overload

from noex_mp.errors import NoNodeError

if TYPE_CHECKING:
    import asyncio

    from noex_mp.core.gen_server import GenServer
    from noex_mp.core.messages import Call
    from noex_mp.core.reasons import ExitReason

__all__ = [
    "DEFAULT_TIMEOUT",
    "Address",
    "BlockingEnd",
    "Ref",
    "Route",
    "SentOperation",
    "connect",
    "hint",
    "hint_at_state",
    "install",
    "install_blocking",
    "route_to",
    "this_thread",
]

R = TypeVar("R")
# Covariant, so that an operation of a class takes the Ref of a subclass.
S_co = TypeVar("S_co", bound="GenServer[Any, Any, Any]", covariant=True)

DEFAULT_TIMEOUT: Final = 5.0
"""How long a call waits for its reply, in seconds, unless `Ref.within` says otherwise: OTP's."""


class Address(Protocol):
    """What can be watched: a `Ref`, or a `SupervisorRef`.

    Attributes:
        node: The node it belongs to; may be empty where it is found by name.
        sid: Its number in the node, or 0 where it is found by name.
        name: The name by which it is found.
    """

    @property
    def node(self) -> str:
        """The node it belongs to."""
        ...

    @property
    def sid(self) -> int:
        """Its number in the node."""
        ...

    @property
    def name(self) -> str | None:
        """The name by which it is found."""
        ...


class SentOperation(Protocol):
    """What a route needs to know of an operation.

    Attributes:
        name: What the server calls it; empty for a message to `handle_call` or `handle_cast`.
        idempotent: Whether it may be run again by the next incarnation after a death.
        max_deliveries: How often at most, if it may; None is without limit.
    """

    @property
    def name(self) -> str:
        """What the server calls it."""
        ...

    @property
    def idempotent(self) -> bool:
        """Whether it may run twice."""
        ...

    @property
    def max_deliveries(self) -> int | None:
        """How often it may run."""
        ...


class Route(Protocol):
    """The way from one event loop to one server: what the client layer gives to a `Ref`.

    Both methods send before they return, so that messages keep their order. They get the
    caller's arguments as they are; `timeout` is in seconds, None is to wait for ever.

    A `Ref` uses the route that it has kept if it is called in the route's thread, while the
    route's event loop runs: then that is the running loop. (To ask for the running loop itself
    takes three times as long; on Python 3.11 that is a system call.)

    Attributes:
        thread: The thread of its event loop, as `threading.get_ident` counts; 0 once the route
            is over, which makes a `Ref` ask for another.
        is_running: Tells whether its event loop runs.
    """

    @property
    def thread(self) -> int:
        """The thread of its event loop."""
        ...

    @property
    def is_running(self) -> Callable[[], bool]:
        """Tells whether its event loop runs."""
        ...

    def invoke(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
        /,
    ) -> asyncio.Future[Any]:
        """Send a call and return the future of its reply."""
        ...

    def cast(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
        /,
    ) -> asyncio.Future[None]:
        """Send a cast and return a future that is done once the sender's window has taken it."""
        ...

    def cast_nowait(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
        /,
    ) -> None:
        """Send a cast, or raise `MailboxFullError` if it would have to wait for a window."""
        ...


class BlockingEnd(Protocol):
    """What sends for a thread without an event loop; both methods block it.

    Raises:
        NoNodeError: An event loop runs in this thread, or there is no node in this process.
        UnencodableError: An argument cannot be sent; nothing was sent.
    """

    def invoke(
        self,
        ref: Ref[Any],
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        /,
    ) -> Any:
        """Send a call and return the reply."""
        ...

    def cast(
        self,
        ref: Ref[Any],
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        /,
        *,
        at_once: bool = False,
    ) -> None:
        """Send a cast; return when the sender's window has taken it."""
        ...


def _no_node(_: Ref[Any], reason: object = None) -> NoReturn:
    raise NoNodeError(
        "there is no node in this process, so nothing can be sent from it\n"
        "Start one: `await spawn(...)` or `async with Node(...)`."
    )


def _no_node_to_wait_for() -> NoReturn:
    raise NoNodeError(
        "there is no node in this process, so nothing can be sent from it\n"
        "Start one: `noex_mp.sync.spawn(...)` or `with Node(...)`."
    )


_connect: Callable[[Ref[Any]], Route] = _no_node
_ask_running: Callable[[Ref[Any]], Awaitable[bool]] = _no_node
_send_exit: Callable[[Ref[Any], ExitReason], Awaitable[None]] = _no_node
this_thread: Callable[[], BlockingEnd] = _no_node_to_wait_for
"""Returns what sends for the calling thread, and blocks; `install_blocking` sets it."""


def install(
    connect: Callable[[Ref[Any]], Route],
    is_running: Callable[[Ref[Any]], Awaitable[bool]] | None = None,
    send_exit: Callable[[Ref[Any], ExitReason], Awaitable[None]] | None = None,
) -> None:
    """Set how this process reaches servers. For the client layer, when it is imported.

    Args:
        connect: Returns a route for the running event loop. The ref keeps it, and asks again
            in another loop, or once the route's `thread` is 0.
        is_running: Asks the root whether the server is up; None changes nothing.
        send_exit: Asks the root to send it an exit signal; None changes nothing.
    """
    global _connect, _ask_running, _send_exit
    _connect = connect
    _ask_running = is_running or _ask_running
    _send_exit = send_exit or _send_exit


def install_blocking(of_this_thread: Callable[[], BlockingEnd]) -> None:
    """Set how threads without an event loop reach servers. For the client layer, as `install`.

    Args:
        of_this_thread: Returns what sends for the calling thread.
    """
    global this_thread
    this_thread = of_this_thread


def connect(ref: Ref[Any]) -> Route:
    """Find a route to the server for the running event loop, and let the ref keep it.

    Raises:
        NoNodeError: No event loop runs here, or there is no node in this process.
    """
    route = ref._route = _connect(ref)  # pyright: ignore[reportPrivateUsage]
    return route


def route_to(ref: Ref[Any]) -> Route:
    """Return the route that the ref has kept, or another one if that belongs elsewhere.

    Raises:
        NoNodeError: No event loop runs here, or there is no node in this process.
    """
    route = ref._route  # pyright: ignore[reportPrivateUsage]
    if route is None or route.thread != get_ident() or not route.is_running():
        return connect(ref)
    return route


@final
class Ref(Generic[S_co]):
    """The address of a server. Operations take it where the method takes `self`.

    Two refs are equal when they mean the same server, whatever their time limits. A ref by name
    means whoever has the name when a message is sent.

    Attributes:
        node: The node that the server belongs to.
        sid: The server's number in its node, kept through restarts; 0 in a ref by name.
        name: The name, in a ref by name; None otherwise.
        timeout: How long calls wait, in seconds; None is for ever. Set it with `within`.
        label: The name of the server's class, for people.
        said: Keyword arguments that go with all messages which are sent with it, for who is between
            the sender and the server (see `pool_of`); None: there are none.
    """

    __slots__ = ("_route", "label", "name", "node", "said", "sid", "timeout")

    def __init__(
        self,
        node: str,
        sid: int,
        name: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        label: str = "GenServer",
        said: dict[str, Any] | None = None,
    ) -> None:
        self.said = said
        self.node = node
        self.sid = sid
        self.name = name
        self.timeout = timeout
        self.label = label
        # Filled by `connect`. Left behind when the ref travels: a route belongs to one loop.
        self._route: Route | None = None

    def within(self, seconds: float | None) -> Ref[S_co]:
        """Return the same address with another time limit for calls.

        Args:
            seconds: How long to wait for a reply; None is for ever.

        Raises:
            ValueError: Not a number of seconds above zero.
        """
        if seconds is not None:
            if not _is_limit(seconds):
                raise ValueError(
                    f"expected seconds above zero, got {seconds!r}; None is to wait for ever"
                )
            # What travels must be a plain float, and numpy's is a subclass.
            seconds = float(seconds)
        ref: Ref[S_co] = Ref(self.node, self.sid, self.name, seconds, self.label, self.said)
        ref._route = self._route
        return ref

    @overload
    def call(self, request: Call[R]) -> asyncio.Future[R]: ...
    @overload
    def call(self, request: object) -> asyncio.Future[Any]: ...
    def call(self, request: object) -> asyncio.Future[Any]:
        """Send a request to the server's `handle_call`, and return the future of its reply.

        Raises:
            NoNodeError: There is no node in this process.
            UnencodableError: The request cannot be sent.
        """
        return route_to(self).invoke(CALLBACK, (request,), {}, self.timeout)

    def cast(self, message: object) -> asyncio.Future[None]:
        """Send a message to the server's `handle_cast`.

        Returns:
            A future that is done once the message is on its way.

        Raises:
            NoNodeError: There is no node in this process.
            UnencodableError: The message cannot be sent.
        """
        return route_to(self).cast(CALLBACK, (message,), {}, self.timeout)

    def is_running(self) -> Awaitable[bool]:
        """Ask the root whether the server is up.

        Raises:
            NoNodeError: There is no node in this process.
        """
        return _ask_running(self)

    def exit(self, reason: ExitReason) -> Awaitable[None]:
        """Send the server an exit signal, as OTP's `exit/2`: its supervisor does what it does then.

        A server that traps exits gets an `Exit` in its `handle_info`. Any other ends with this
        reason as soon as what it does lets it, without its `terminate` unless that is a `Shutdown`;
        after its `shutdown` time it is killed. `Normal()` ends nobody, and `Killed("SIGKILL")` ends
        also those that trap exits, at once. To a server that is gone or restarts the signal is
        lost.

        To end a server in good order, and for good, `await stop(ref)`.

        Args:
            reason: Why it is to end.

        Raises:
            TypeError: That is no exit reason.
            NoServerError: Nobody has the name.
            NoNodeError: There is no node in this process.

        Example:
            ```python
            await counter.exit(Crash("Stale", "its data are of yesterday"))
            ```
        """
        return _send_exit(self, reason)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, int | str | None]:
        return (self.node, self.sid or self.name)

    def __repr__(self) -> str:
        return f"Ref({self.label}, {self.sid or self.name!r})"

    def _to_wire(self) -> list[Any]:
        # Plain msgpack values; the codec wraps them in an extension type.
        fields = [self.node, self.sid, self.name, self.timeout, self.label]
        return fields if self.said is None else [*fields, self.said]

    @classmethod
    def _from_wire(cls, fields: Sequence[Any]) -> Ref[Any]:
        """Return the ref that `_to_wire` made these fields of.

        Raises:
            ValueError: They are not the fields of a ref.
        """
        match fields:
            case [str(node), int(sid), str() | None as name, timeout, str(label), *rest] if (
                timeout is None or _is_limit(timeout)
            ):
                return Ref(node, sid, name, timeout, label, rest[0] if rest else None)
            case _:
                raise ValueError(f"expected the fields of a Ref, got {fields!r:.200}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Ref._from_wire, (self._to_wire(),))


class _Hint:
    """Stands on `Ref` under a name that only the server itself has, to help who tries it.

    That is an operation, as in `ref.operation(...)`, or what the server's state and methods are
    called: a method without `@call` that is sent like an operation runs here, a Ref for its self.

    Not `__getattr__`, which would make every attribute of a `Ref` slower: 50 ns a message.
    """

    def __init__(self, attribute: str, *, is_operation: bool) -> None:
        self._attribute = attribute
        self.is_operation = is_operation

    def __get__(self, ref: Ref[Any] | None, owner: type) -> NoReturn:
        name = "Server" if ref is None else ref.label
        method = None if ref is None else _method_of(ref)
        if method is not None:
            short = method.rpartition(".")[2]
            text = (
                f"{method} was called with a Ref in place of self, and runs here, not in the "
                f"server\nMark {short} with @call (or @cast): then clients can send it."
            )
        elif self.is_operation:
            call = f"{name}.{self._attribute}({name.lower()}, ...)"
            text = f"a Ref has no operations; write await {call}"
        else:
            text = (
                f"a Ref has no attribute {self._attribute!r}: that is the server's own; let "
                f"{name} have a @call that returns it"
            )
        raise AttributeError(text)


def _method_of(ref: Ref[Any]) -> str | None:
    """Return the name of the method that has a ref for its self and looks at it, if one does."""
    # Behind the two frames of ours.
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    code = frame.f_code
    takes_self = code.co_argcount > 0 and code.co_varnames[0] == "self"
    return code.co_qualname if takes_self and frame.f_locals.get("self") is ref else None


def hint(operation: str) -> None:
    """Help whoever writes `ref.operation(...)` from now on; `GenServer` does it for each."""
    _hint(operation, is_operation=True)


def hint_at_state(server: type[GenServer[Any, Any, Any]]) -> None:
    """Help whoever looks at a `Ref` for what a server has: its methods, and what it sets first."""
    for name, value in vars(server).items():
        _hint(name, is_operation=False)
        if name in ("__init__", "init"):
            # With more than is set there; nobody minds.
            for used in getattr(getattr(value, "__code__", None), "co_names", ()):
                _hint(used, is_operation=False)


def _hint(name: str, *, is_operation: bool) -> None:
    known = Ref.__dict__.get(name)
    is_free = known is None and not hasattr(Ref, name) and not name.startswith("__")
    if is_free or (is_operation and isinstance(known, _Hint) and not known.is_operation):
        setattr(Ref, name, _Hint(name, is_operation=is_operation))


class _Callback:
    """A message that is no operation: `handle_call` or `handle_cast` gets it."""

    name = ""
    idempotent = False
    max_deliveries = None


CALLBACK: Final = _Callback()
"""What `ref.call(message)` and `ref.cast(message)` send instead of an operation."""


def _is_limit(seconds: object) -> bool:
    return isinstance(seconds, (int, float)) and 0 < seconds < inf
