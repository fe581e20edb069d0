"""`@call` and `@cast`: methods that are messages. The one clever file.

```python
class Counter(GenServer):
    @call
    def increment(self, by: int = 1) -> int: ...


await Counter.increment(counter, by=3)  # counter: Ref[Counter]; sends, and awaits the reply
Counter(start=10).increment(3)  # the plain method, in a unit test
```

How it works:

1. **At run time an operation is a plain function.** It looks at its first argument: a `Ref`
   sends, the server itself runs the method. A descriptor object would do the same with two
   more calls into Python per message (measured: 290 ns against 450 to 530 ns with a route
   that does nothing), and a cast has about 500 ns for everything.
2. **For type checkers it is an `Operation[S, P, R, M]`**, a descriptor: on the class it takes
   a `Ref[S]` and the arguments P and gives a future of R; on an instance it is the method, M.
   `call` is overloaded over what the method returns, `def` and `async def` alike.
3. **The worker never calls the operation.** It takes the undecorated method, and what else it
   must know, from the class's `__operations__`: see `OperationInfo`.

An operation is sent when it is called, in program order; awaiting only waits for the reply.

Two limits of type checkers: strict mypy takes a method with `**options` only if its `self` is
positional, `def name(self, /, **options)`; and of a method that is annotated `-> Any` they guess
the first form that would fit, so annotate `-> object` or better.

Promise: no I/O here; a `Route` of the client layer sends.
"""

from __future__ import annotations

from _thread import get_ident
from asyncio import Future
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from types import CodeType, FunctionType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    overload,
)

from noex_mp.core import ref as core_ref
from noex_mp.core.outcomes import NoReply, Reply, Then
from noex_mp.core.ref import Ref, connect
from noex_mp.core.running_loop import running_loop

if TYPE_CHECKING:
    from noex_mp.core.gen_server import From, GenServer

__all__ = [
    "CALLBACKS",
    "MAX_DELIVERIES",
    "Operation",
    "OperationInfo",
    "call",
    "cast",
    "operation_info",
]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="GenServer[Any, Any, Any]")
S_contra = TypeVar("S_contra", bound="GenServer[Any, Any, Any]", contravariant=True)
M_co = TypeVar("M_co", covariant=True)
Handled = TypeVar("Handled", bound="Then | Coroutine[Any, Any, Then | None] | None")

Kind = Literal["call", "cast"]

CALLBACKS: Final = frozenset(
    ("init", "handle_call", "handle_cast", "handle_info", "handle_continue", "terminate")
)
"""The names of OTP's callbacks, which no operation may have."""

_RESERVED: Final = CALLBACKS | {"ref"}

MAX_DELIVERIES: Final = 3
"""How often a server may end in the middle of one idempotent call, unless the call says so."""

# Stands for an option that was not given, where None means something.
_NOT_GIVEN: Final[Any] = object()

# Bits of a code object's co_flags; `inspect` has names for them and takes 10 ms to import.
_GENERATOR: Final = 0x20
_COROUTINE: Final = 0x80
_ASYNC_GENERATOR: Final = 0x200


@dataclass(frozen=True, slots=True)
class OperationInfo:
    """What the runtime knows of an operation.

    Attributes:
        name: Its name.
        kind: `"call"` or `"cast"`.
        function: The undecorated method; the worker passes the server as first argument.
        wants_sender: Whether the method takes a `From` before the client's arguments.
        is_async: Whether the method returns a coroutine.
        idempotent: Whether it may be run again after a death; always False for a cast.
        max_deliveries: How often one call may have begun when its server ends, before it is
            poison; None is without limit. Of no meaning where it is not idempotent.
    """

    name: str
    kind: Kind
    function: Callable[..., Any]
    wants_sender: bool = False
    is_async: bool = False
    idempotent: bool = False
    max_deliveries: int | None = MAX_DELIVERIES


class Operation(Protocol[S_contra, P, R, M_co]):
    """A server's method as other processes see it; what `@call` and `@cast` make of a method.

    On the class it is called with a `Ref` and sends. On an instance it is the method.
    """

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, obj: S_contra, owner: type[Any]) -> M_co: ...

    def __call__(self, ref: Ref[S_contra], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Send the operation to the server and return the future of its reply.

        Raises:
            NoNodeError: There is no node in this process.
            UnencodableError: An argument cannot be sent; nothing was sent.
        """
        ...

    def sync(self, ref: Ref[S_contra], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Send the operation from a thread without an event loop, and block.

        A call returns its reply. A cast returns once the sender's window has taken it, and it has
        left this process.

        Raises:
            NoNodeError: An event loop runs in this thread: await the operation instead. Or there
                is no node in this process.
            UnencodableError: An argument cannot be sent; nothing was sent.

        Example:
            ```python
            Counter.increment.sync(counter.within(0.5), by=3)
            ```
        """
        ...

    def on(self, ref: Ref[S_contra]) -> Callable[P, Future[R]]:
        """Return the operation bound to one server, to be called without the `Ref`."""
        ...

    def nowait(self, ref: Ref[S_contra], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Send a cast now, or not at all: never wait for the server's window.

        Raises:
            MailboxFullError: The server has as many messages of this sender as it takes, or too
                much waits in this process already.
            TypeError: The operation is a call, which has a reply to wait for.
            NoNodeError: There is no node in this process.
            UnencodableError: An argument cannot be sent; nothing was sent.
        """
        ...


class _CallDecorator:
    """Mark a method of a `GenServer` as a call: clients send it and wait for the reply.

    The method returns the reply, or `Reply(value, then=...)`; or it takes a `sender: From[R]`
    before the client's arguments, returns `NoReply()`, and replies later. One that sometimes
    replies at once is annotated `Reply[R] | NoReply`, and then returns no bare value.

    `@call(idempotent=True)` says that running it twice does no harm: after a death in the
    middle of it, the next incarnation gets it again instead of the caller an error. If the server
    ends in the middle of it `max_deliveries` times (3; None is without limit), the call fails with
    `PoisonedMessageError` and becomes a dead letter, and the server goes on with the next.

    Raises:
        TypeError: That is no method for an operation, or there is no such option.
        ValueError: `max_deliveries` is below 1.
    """

    __slots__ = ("_idempotent", "_max_deliveries")

    def __init__(
        self, *, idempotent: bool = False, max_deliveries: int | None = MAX_DELIVERIES
    ) -> None:
        self._idempotent = idempotent
        self._max_deliveries = max_deliveries

    # The order matters. A plain reply may be of any type, and comes last. A first parameter that
    # takes anything would pass for a sender, so what tells the two apart is the `NoReply`.
    @overload
    def __call__(
        self, method: Callable[Concatenate[S, P], Coroutine[Any, Any, Reply[R]]], /
    ) -> Operation[S, P, R, Callable[P, Coroutine[Any, Any, Reply[R]]]]: ...
    @overload
    def __call__(
        self, method: Callable[Concatenate[S, P], Reply[R]], /
    ) -> Operation[S, P, R, Callable[P, Reply[R]]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        method: Callable[Concatenate[S, From[R], P], Coroutine[Any, Any, Reply[R] | NoReply]],
        /,
    ) -> Operation[
        S, P, R, Callable[Concatenate[From[R], P], Coroutine[Any, Any, Reply[R] | NoReply]]
    ]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, method: Callable[Concatenate[S, From[R], P], Reply[R] | NoReply], /
    ) -> Operation[S, P, R, Callable[Concatenate[From[R], P], Reply[R] | NoReply]]: ...
    @overload
    def __call__(
        self, method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]], /
    ) -> Operation[S, P, R, Callable[P, Coroutine[Any, Any, R]]]: ...
    @overload
    def __call__(
        self, method: Callable[Concatenate[S, P], R], /
    ) -> Operation[S, P, R, Callable[P, R]]: ...
    @overload
    def __call__(
        self, /, *, idempotent: bool, max_deliveries: int | None = MAX_DELIVERIES
    ) -> _CallDecorator: ...
    def __call__(
        self,
        method: Any = None,
        /,
        *,
        idempotent: bool = False,
        max_deliveries: Any = _NOT_GIVEN,
        **unknown: Any,
    ) -> Any:
        if unknown:
            raise TypeError(_no_option(unknown))
        if method is None:
            limit = _checked_deliveries(max_deliveries, idempotent=idempotent)
            return _CallDecorator(idempotent=idempotent, max_deliveries=limit)
        return _sending_call(
            _describe(
                "call",
                method,
                idempotent=self._idempotent,
                max_deliveries=self._max_deliveries,
            )
        )


call: Final = _CallDecorator()


def cast(
    method: Callable[Concatenate[S, P], Handled], /
) -> Operation[S, P, None, Callable[P, Handled]]:
    """Mark a method of a `GenServer` as a cast: clients send it and wait for nothing.

    The method returns nothing, or what the server does then: `Stop`, `Continue`, `TimeoutAfter`.
    """
    operation: Operation[S, P, None, Callable[P, Handled]] = _sending_cast(
        _describe("cast", method)
    )
    return operation


def operation_info(value: object) -> OperationInfo | None:
    """Return what `@call` or `@cast` noted on this attribute of a class, None if it is neither."""
    info = getattr(value, "__noex_operation__", None)
    return info if isinstance(info, OperationInfo) else None


# --- sending: the hot path. Twice the same but for one word, as an indirection costs 10 %. ---

# As Any, so that checkers let `type(ref) is not _REF` pass without guesses at the parameter.
_REF: Final[Any] = Ref


def _sending_call(info: OperationInfo) -> Any:
    @wraps(info.function)
    def operation(ref: Any, /, *args: Any, **kwargs: Any) -> Any:
        if type(ref) is not _REF:
            return _run_here(operation, info, ref, args, kwargs)
        route = ref._route
        if route is None or route.thread != get_ident() or not route.is_running():
            route = connect(ref)
        return route.invoke(info, args, kwargs, ref.timeout)

    return _finished(operation, info)


def _sending_cast(info: OperationInfo) -> Any:
    @wraps(info.function)
    def operation(ref: Any, /, *args: Any, **kwargs: Any) -> Any:
        if type(ref) is not _REF:
            return _run_here(operation, info, ref, args, kwargs)
        route = ref._route
        if route is None or route.thread != get_ident() or not route.is_running():
            route = connect(ref)
        return route.cast(info, args, kwargs, ref.timeout)

    return _finished(operation, info)


def _blocking(info: OperationInfo) -> Any:
    if info.kind == "call":

        def sync(ref: Any, /, *args: Any, **kwargs: Any) -> Any:
            if type(ref) is not _REF:
                raise TypeError(_no_ref(info, f"{info.name}.sync", ref))
            return core_ref.this_thread().invoke(ref, info, args, kwargs)
    else:

        def sync(ref: Any, /, *args: Any, **kwargs: Any) -> Any:
            if type(ref) is not _REF:
                raise TypeError(_no_ref(info, f"{info.name}.sync", ref))
            core_ref.this_thread().cast(ref, info, args, kwargs)

    return sync


def _finished(operation: Any, info: OperationInfo) -> Any:
    operation.__noex_operation__ = info
    operation.sync = _blocking(info)
    operation.on = partial(_bind, operation, info)
    operation.nowait = partial(_send_nowait, info)
    return operation


def _send_nowait(info: OperationInfo, ref: Any, /, *args: Any, **kwargs: Any) -> None:
    if type(ref) is not _REF:
        raise TypeError(_no_ref(info, f"{info.name}.nowait", ref))
    if info.kind == "call":
        raise TypeError(
            f"{info.name} is a call and has a reply, so .nowait has nothing to give\n"
            f"Keep the future and await it later, or make {info.name} a @cast."
        )
    route = ref._route
    if route is None or route.thread != get_ident() or not route.is_running():
        if running_loop() is None:
            core_ref.this_thread().cast(ref, info, args, kwargs, at_once=True)
            return
        route = connect(ref)
    route.cast_nowait(info, args, kwargs, ref.timeout)


def _bind(operation: Callable[..., Any], info: OperationInfo, ref: object, /) -> Any:
    if type(ref) is not Ref:
        raise TypeError(_no_ref(info, f"{info.name}.on", ref))
    return partial(operation, ref)


def _run_here(
    operation: object, info: OperationInfo, server: object, args: Any, kwargs: Any
) -> Any:
    # No `Ref`: the server itself (a unit test, or a server that uses its own method), which is
    # whoever has this very operation; anything else is a mistake.
    if getattr(type(server), info.name, None) is operation:
        return info.function(server, *args, **kwargs)
    raise TypeError(_no_ref(info, info.name, server))


def _no_ref(info: OperationInfo, called: str, got: object) -> str:
    owner = info.function.__qualname__.rpartition(".")[0].rpartition(".")[2]
    if hasattr(got, "__await__"):
        hint = "It must be awaited first, for example: ref = await spawn(...)"
    elif got is None:
        hint = "whereis(...) gives None when nobody has the name."
    else:
        verb = "" if called.endswith(".sync") else "await "
        hint = f"Write {verb}{owner}.{called}(ref, ...), where ref is what spawn(...) gave you."
    return f"{owner}.{called} takes a Ref first, got {_shown(got)}\n{hint}"


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


# --- decorating: what a method looks like, and what is wrong with it ---


def _describe(
    kind: Kind,
    method: object,
    *,
    idempotent: bool = False,
    max_deliveries: int | None = MAX_DELIVERIES,
) -> OperationInfo:
    if not isinstance(method, FunctionType):
        raise TypeError(_no_method(kind, method))
    name = method.__name__
    if operation_info(method):
        raise TypeError(f"{name} is marked twice; use @call or @cast, and only once")
    if name in _RESERVED or (name.startswith("__") and name.endswith("__")):
        raise TypeError(
            f"@{kind} cannot be used on {name}, which the runtime calls itself\n"
            f"Give the operation another name."
        )
    if method.__code__.co_flags & (_GENERATOR | _ASYNC_GENERATOR):
        raise TypeError(
            f"@{kind} cannot be used on {name}, which yields: one request has one reply\n"
            f"Return a list instead."
        )
    # A decorator between may be a plain function that passes the coroutine on, and has a
    # signature of its own: the method that was written knows.
    chain = list(_unwrapped(method))
    is_async = any(function.__code__.co_flags & _COROUTINE for function in chain)
    return OperationInfo(
        name,
        kind,
        method,
        _wants_sender(kind, chain[-1]),
        is_async,
        idempotent,
        max_deliveries,
    )


def _unwrapped(function: Any) -> Iterator[FunctionType]:
    # From the outermost decorator's function down to the method that was written.
    while isinstance(function, FunctionType):
        yield function
        function = getattr(function, "__wrapped__", None)


def _checked_deliveries(given: Any, *, idempotent: bool) -> int | None:
    if given is _NOT_GIVEN:
        return MAX_DELIVERIES
    if not idempotent:
        raise TypeError(
            "@call takes max_deliveries only with idempotent=True: what is not idempotent is "
            "delivered once\n"
            f"Write @call(idempotent=True, max_deliveries={_shown(given)}), if it does no harm to "
            "run it twice."
        )
    if given is None:
        return None
    if type(given) is not int:
        raise TypeError(
            f"expected max_deliveries to be a number of deliveries, or None for no limit, got "
            f"{_shown(given)}"
        )
    if given < 1:
        raise ValueError(f"expected max_deliveries to be at least 1, got {given}")
    return given


def _no_option(unknown: dict[str, Any]) -> str:
    problem = f"@call has no option {', '.join(unknown)}; there are: idempotent, max_deliveries"
    if "timeout" not in unknown:
        return problem
    limit = _shown(unknown["timeout"])
    return f"{problem}\nA time limit is the caller's: await Counter.get(counter.within({limit}))."


def _no_method(kind: Kind, got: Any) -> str:
    if got.__class__ in (staticmethod, classmethod, property):
        problem = f"a {got.__class__.__name__}"
        remedy = "An operation belongs to a running server: write def name(self, ...)."
    elif isinstance(got, type):
        problem = f"the class {got.__name__}"
        remedy = "Put it on each method that clients may use."
    else:
        problem = _shown(got)
        options = "idempotent=... and max_deliveries=..."
        extra = f", and @call takes only {options}, by name" if kind == "call" else ""
        remedy = f"Write @{kind} above def or async def{extra}."
    return f"@{kind} marks a method of a GenServer, got {problem}\n{remedy}"


def _wants_sender(kind: Kind, method: FunctionType) -> bool:
    code = method.__code__
    if code.co_argcount == 0:
        raise TypeError(
            f"@{kind} marks a method, and {method.__name__} takes no self\n"
            f"Write def {method.__name__}(self, ...)."
        )
    senders = [name for name in _parameters(code) if _is_from(method, name)]
    if not senders:
        return False
    if kind == "cast":
        raise TypeError(
            f"{method.__name__} is a cast and takes a From, but nobody waits for a cast's reply\n"
            f"Make it a @call, or drop {senders[0]}."
        )
    if senders != [code.co_varnames[1]] or code.co_argcount == 1:
        raise TypeError(
            f"{method.__name__} takes its From in the wrong place; the runtime passes one, and "
            f"clients see none\n"
            f"Write def {method.__name__}(self, {senders[0]}: From[...], ...)."
        )
    return True


def _parameters(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]


def _is_from(method: FunctionType, parameter: str) -> bool:
    # Annotations are mostly text here, and what they name may be imported for checkers only,
    # so they are not evaluated: their first word is looked up, else taken by its name.
    annotation = method.__annotations__.get(parameter)
    if isinstance(annotation, str):
        head = annotation.partition("[")[0].strip("\"' ")
        found = method.__globals__.get(head)
        if found is None:
            return head.rpartition(".")[2] == "From"
    else:
        found = getattr(annotation, "__origin__", annotation)
    return getattr(found, "__noex_sender__", False) is True
