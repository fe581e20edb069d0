"""`GenServer`: what users subclass, with OTP's callbacks.

```python
class Counter(GenServer, restart="transient", expected=(ValueError,)):
    def __init__(self, start: int = 0) -> None:
        self.value = start

    @call
    def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value
```

State lives in `self`, one instance per start: a restart builds a new one. `__init__` only stores
plain data; `init` does what can fail. Operations (see `operations`) are how clients talk to the
server; the callbacks below them take messages of any kind. Each callback may be `def` or
`async def`.

Promise: no I/O here; a worker runs servers, and a unit test may build one and call its methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, Self, TypeAlias, Unpack

from typing_extensions import TypeVar

from noex_mp.core.operations import OperationInfo, operation_info
from noex_mp.core.outcomes import Continue, Ignore, Outcome, Stop, Then, TimeoutAfter
from noex_mp.core.reasons import ExitReason
from noex_mp.core.ref import Ref, hint, hint_at_state
from noex_mp.core.specs import ServerOptions
from noex_mp.errors import NoNodeError, UnknownOperationError

__all__ = ["From", "GenServer", "InitOutcome", "has_callback"]

# Defaults keep the plain `class Counter(GenServer)` free of complaints in strict mode.
CallT = TypeVar("CallT", default=Any)
CastT = TypeVar("CastT", default=Any)
InfoT = TypeVar("InfoT", default=Any)
R_contra = TypeVar("R_contra", contravariant=True)

InitOutcome: TypeAlias = Continue | TimeoutAfter | Ignore | Stop | None
"""What `init` returns; None is to wait for the first message."""


class From(Generic[R_contra]):
    """Who waits for the reply to one call. Keep it, and reply whenever you like.

    In a unit test any functions do: `From(replies.append, errors.append)`.
    """

    __slots__ = ("_fail", "_send")

    # Tells `operations`, which cannot import this class, that a parameter is a sender.
    __noex_sender__: ClassVar[bool] = True

    def __init__(
        self,
        send: Callable[[R_contra], object],
        fail: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._send: Callable[[R_contra], object] | None = send
        self._fail = fail

    def reply(self, value: R_contra) -> None:
        """Send the reply. Only the first one counts; any other is dropped, as in OTP."""
        send, self._send = self._send, None
        if send is not None:
            send(value)

    def fail(self, error: BaseException) -> None:
        """Raise an exception at the caller, in place of a reply; this server lives on."""
        send, self._send = self._send, None
        if send is not None and self._fail is not None:
            self._fail(error)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the reply any more; see `CurrentCall.cancelled`."""
        return False

    @property
    def time_left(self) -> float | None:
        """How many seconds the caller still waits; None is for ever."""
        return None

    @property
    def caller(self) -> object:
        """Who it is: the event loop, or the thread, that called, told from all others by `==`."""
        return None

    @property
    def number(self) -> int | None:
        """Which of its caller's messages to this server it is; None where nobody counts them."""
        return None

    def when_cancelled(self, then: Callable[[], object]) -> None:
        """Call a function once the caller has cancelled the call, or is gone.

        It is not called when the caller's time is over: see `time_left`.
        """


class GenServer(Generic[CallT, CastT, InfoT]):
    """A server: an object with a mailbox, which lives in a worker process.

    The parameters are the types of the messages that `handle_call`, `handle_cast` and
    `handle_info` take; leave them out if you only use operations.

    The class statement takes `expected`, the exceptions that belong to the server's contract
    (they are raised at the caller and the server lives on), and the defaults of its children:
    see `ServerOptions`. Subclasses inherit all of them.
    """

    __expected__: ClassVar[tuple[type[BaseException], ...]] = ()
    __child_options__: ClassVar[dict[str, object]] = {}
    __operations__: ClassVar[dict[str, OperationInfo]] = {}

    # Set by the worker, before it calls `init`.
    _noex_ref: Ref[Any] | None = None

    def __init_subclass__(
        cls,
        *,
        expected: tuple[type[BaseException], ...] = (),
        **child_options: Unpack[ServerOptions],
    ) -> None:
        super().__init_subclass__()
        _check_options(cls, child_options)
        _check_expected(cls, expected)
        # Not from the class's own parents alone: the order of several is the method order.
        options: dict[str, object] = {}
        errors: list[type[BaseException]] = []
        for base in reversed(cls.__mro__[1:]):
            options |= getattr(base, "__child_options__", {})
            errors += getattr(base, "__expected__", ())
        options.update(child_options)
        cls.__child_options__ = options
        cls.__expected__ = tuple(dict.fromkeys((*errors, *expected)))
        cls.__operations__ = _operations(cls)
        hint_at_state(cls)

    @property
    def ref(self) -> Ref[Self]:
        """The server's own address, to be given to others.

        Raises:
            NoNodeError: The server was built by hand, for example in a unit test.
        """
        if self._noex_ref is None:
            raise NoNodeError(
                f"this {type(self).__name__} was not started by a node, so it has no Ref\n"
                f"Start it with spawn(...), or set no store by self.ref in a unit test."
            )
        return self._noex_ref

    def _noex_sendable(
        self, operation: str, result: Any, problem: Callable[[Any], Exception | None]
    ) -> Any:
        """Return what to send in place of a result that cannot be; None: there is nothing.

        Args:
            operation: Whose result it is.
            result: What the operation has returned.
            problem: Tells why a value cannot be sent, or None if it can.
        """
        return None

    def init(self) -> InitOutcome | Awaitable[InitOutcome]:
        """Prepare the server, within its `init_timeout`; what is raised here fails the start.

        Returns:
            Nothing, or what comes first: `Continue`, `TimeoutAfter`, `Ignore` or `Stop`.
        """
        return None

    def handle_call(
        self, request: CallT, sender: From[Any]
    ) -> Outcome[Any] | Awaitable[Outcome[Any]]:
        """Answer a request that was sent with `ref.call(request)`.

        Args:
            request: What was sent.
            sender: Who waits; keep it to reply later, and return `NoReply()`.
        """
        raise _unknown(self, request)

    def handle_cast(self, request: CastT) -> Then | Awaitable[Then | None] | None:
        """Take a message that was sent with `ref.cast(request)`."""
        raise _unknown(self, request)

    def handle_info(self, message: InfoT) -> Then | Awaitable[Then | None] | None:
        """Take any other message: a `Timeout`, or what other parts of the runtime send.

        A server without this callback ignores them.
        """
        return None

    def handle_continue(self, argument: Any) -> Then | Awaitable[Then | None] | None:
        """Do the work that a callback postponed with `Continue(argument)`, before any message."""
        raise NotImplementedError(
            f"{type(self).__name__} returned Continue({argument!r:.60}) and has no handle_continue"
        )

    def terminate(self, reason: ExitReason) -> Awaitable[None] | None:
        """Clean up before the server ends, within its `shutdown` time. Not run after a kill."""
        return None


def has_callback(server: type[GenServer[Any, Any, Any]], name: str) -> bool:
    """Tell whether a class brings its own callback instead of the default.

    Args:
        server: The class.
        name: The callback, for example `"handle_call"`.
    """
    return getattr(server, name) is not getattr(GenServer, name)


def _unknown(server: GenServer[Any, Any, Any], message: object) -> UnknownOperationError:
    cls = type(server)
    return UnknownOperationError(
        cls.__name__, f"callback for {message!r:.60}", tuple(cls.__operations__)
    )


def _check_options(cls: type, options: ServerOptions) -> None:
    valid = tuple(ServerOptions.__annotations__)
    unknown = [name for name in options if name not in valid]
    if unknown:
        raise TypeError(
            f"class {cls.__name__} has no option {', '.join(unknown)}; "
            f"there are: expected, {', '.join(valid)}"
        )


def _check_expected(cls: type, expected: Any) -> None:
    if expected.__class__ is tuple and all(_is_exception(error) for error in expected):
        return
    raise TypeError(
        f"class {cls.__name__}: expected= takes a tuple of exception classes, got {expected!r}\n"
        f"For example: expected=(ValueError,)"
    )


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _operations(cls: type) -> dict[str, OperationInfo]:
    found: dict[str, OperationInfo] = {}
    owners: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        for name, value in vars(owner).items():
            if name in found:
                raise TypeError(_overridden(owner, owners[name], name))
            info = operation_info(value)
            if info is not None:
                _check_place(owner, name, value, info)
                found[name] = info
                hint(name)
                owners[name] = owner.__name__
    return found


def _overridden(by: type, owner: str, name: str) -> str:
    return (
        f"{by.__name__} overrides the operation {owner}.{name}, and operations are not overridden\n"
        f"Let {owner}.{name} call a private method, and override that."
    )


def _check_place(owner: type, name: str, value: object, info: OperationInfo) -> None:
    if getattr(value, "__wrapped__", None) is not info.function:
        raise TypeError(
            f"{owner.__name__}.{name} has a decorator above @{info.kind}\n"
            f"Put @{info.kind} first, above all others."
        )
    if name != info.name:
        raise TypeError(
            f"{owner.__name__}.{name} is an operation that calls itself {info.name}\n"
            f"Write it as a method: @{info.kind} above def {name}(self, ...)."
        )
