"""Types that users register: how their values become others that can be sent, and come back.

On the wire stands the name of the type, `module:qualname`, beside the module that has called
`register_type`. A process that has not heard of the type imports that module first: so it is
enough to register a type once, at the top level of a module, wherever the module is.

A notebook, the prompt or `python -c` is no module that others could import. From there the class
and its functions travel with each value, by pickle, as code from there always does.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from msgpack import ExtType

from noex_mp.errors import BadRegistrationError, UnregisteredTypeError
from noex_mp.wire import by_value, extensions
from noex_mp.wire.classes import MAIN, MAIN_IN_WORKERS, local_module, others_import, path_of
from noex_mp.wire.values import REGISTERED, Dumper, ValueReader, ValueWriter, extension

__all__ = ["register_type"]

T = TypeVar("T")
W = TypeVar("W")


class _Registration(NamedTuple):
    cls: type[Any]
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    # The module that has registered it, by its name on the wire.
    home: str
    # It goes along with each value: it has come so itself, or its home is no module at all.
    goes_along: bool = False


_registrations: Final[dict[str, _Registration]] = {}


def register_type(cls: type[T], encode: Callable[[T], W], decode: Callable[[W], T]) -> None:
    """Let values of a class travel between processes in a way of their own.

    For classes that pickle cannot send, or should not: too slow, too big, or because the node
    does without pickle. Register at the top level of a module, best of the one that defines the
    class. Processes that get such a value import the module if they have not.

    The class alone is meant, not its subclasses: what they add would be lost on the way. To
    register the same again, as when a module is loaded twice, changes nothing.

    Args:
        cls: The class.
        encode: Return what travels in place of a value: anything else that can be
            sent.
        decode: Return the value again, in the other process, from what `encode` has returned.

    Raises:
        BadRegistrationError: The class cannot be registered, or it is already, with other
            functions.

    Example:
        ```python
        class Money:
            def __init__(self, amount: Decimal, currency: str) -> None: ...

        register_type(Money, lambda m: (m.amount, m.currency), lambda v: Money(*v))
        ```
    """
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    caller = str(frame.f_globals.get("__name__", ""))
    home = MAIN if caller == MAIN_IN_WORKERS else caller
    _refuse_what_cannot_be(cls, encode, decode)
    path = path_of(cls)
    known = _registrations.get(path)
    # A module that is loaded again defines another class with the same name.
    if known is not None and known.cls is cls:
        if _are_same(known.encode, encode) and _are_same(known.decode, decode):
            return
        raise BadRegistrationError(
            path, f"{known.home} has registered it already, with other functions"
        )
    # A debugger or profiler may run the program in a namespace of its own.
    is_module = getattr(sys.modules.get(caller), "__dict__", None) is frame.f_globals
    _enter(path, _Registration(cls, encode, decode, home, goes_along=not is_module))


def _enter(path: str, registration: _Registration) -> None:
    cls, encode, decode, home, _ = registration
    _registrations[path] = registration
    # A server that makes such values, and gets none, has the class with its own code.
    by_value.COMPANIONS[cls] = (take, (path, home, encode, decode))
    encode = _guarded(path, encode)
    extensions.set_dumper(cls, _dumper(path, registration, encode))

    def reduce(value: Any) -> tuple[Any, ...]:
        # For those that lie in what is pickled.
        return rebuild, (path, home, encode(value), *_code(registration))

    extensions.REDUCERS[cls] = reduce


def _code(registration: _Registration) -> list[bytes]:
    """Return what has to go along with a value, for processes that cannot import its home."""
    cls, encode, decode, home, goes_along = registration
    module = sys.modules.get(local_module(home))
    if not goes_along and (module is None or others_import(module)):
        return []
    return [by_value.dump((cls, encode, decode), sys.maxsize)[0]]


def take(cls: type[Any], path: str, home: str, encode: Any, decode: Any) -> None:
    """Register a class that has come with its code, if it is new here. Pickles name this."""
    known = _registrations.get(path)
    # At home it is the class that was sent.
    if known is None or known.cls is not cls:
        _enter(path, _Registration(cls, encode, decode, home, goes_along=True))


def _refuse_what_cannot_be(cls: type[Any], *functions: Any) -> None:
    if not isinstance(cls, type):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadRegistrationError(repr(cls), "a class is expected")
    path = path_of(cls)
    for function in functions:
        if not callable(function):
            raise BadRegistrationError(path, f"encode and decode are functions, got {function!r}")
    if issubclass(cls, BaseException):
        raise BadRegistrationError(
            path, "exceptions have a way of their own, with traceback and cause"
        )
    if extensions.travels_already(cls):
        raise BadRegistrationError(path, "values of this type can be sent as they are")


def _are_same(one: Any, other: Any) -> bool:
    """Tell whether two functions are the same, or the same source run twice."""
    if one == other:
        return True
    code = getattr(one, "__code__", None)
    return (
        code is not None
        and code == getattr(other, "__code__", None)
        and one.__closure__ is None
        and one.__module__ == other.__module__
    )


def _dumper(path: str, registration: _Registration, encode: Callable[[Any], Any]) -> Dumper:
    home = registration.home

    def dump_registered(writer: ValueWriter, value: Any) -> ExtType:
        code = _code(registration)
        if code and not writer.allow_pickle:
            raise TypeError(
                f"its type is registered in {home}, which other processes cannot import, and "
                f"pickle is switched off; call register_type in a module"
            )
        return extension(REGISTERED, writer.nested([path, home, encode(value), *code]))

    return dump_registered


def _guarded(path: str, encode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def guarded(value: Any) -> Any:
        try:
            content = encode(value)
        except Exception as error:
            raise TypeError(
                f"the encode function of {path} raised {type(error).__name__}: {error}"
            ) from error
        if content is value:
            raise TypeError(f"the encode function of {path} returned the value itself")
        return content

    return guarded


def is_registered(cls: type[Any]) -> bool:
    """Tell whether values of exactly this class travel in a way of their own."""
    found = _registrations.get(path_of(cls))
    return found is not None and found.cls is cls


def encoded(value: object) -> Any:
    """Return what travels in place of a value of a registered class."""
    return _registrations[path_of(type(value))].encode(value)


def _load_registered(reader: ValueReader, data: bytes) -> Any:
    path, home, content, *code = reader.nested(data)
    if code and not reader.allow_pickle:
        raise TypeError("pickle is switched off")
    return rebuild(path, home, content, *code)


def rebuild(path: str, home: str, content: Any, code: bytes = b"") -> Any:
    """Return the value again. Pickles of other values name this function."""
    if code:
        cls, *functions = by_value.load(code)
        take(cls, path, home, *functions)
    decode = _find(path, home).decode
    try:
        return decode(content)
    except Exception as error:
        raise ValueError(
            f"the decode function of {path} raised {type(error).__name__}: {error}"
        ) from error


def _find(path: str, home: str) -> _Registration:
    problem: BaseException | None = None
    for module in ("", home, path.partition(":")[0]):
        if module and local_module(module) not in sys.modules:
            try:
                importlib.import_module(local_module(module))
            except (Exception, SystemExit) as error:  # an import runs any code
                problem = problem or error
        found = _registrations.get(path)
        if found is not None:
            return found
    raise UnregisteredTypeError(path, home) from problem


extensions.LOADERS[REGISTERED] = _load_registered
