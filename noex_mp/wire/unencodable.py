"""Find the value that cannot be sent, and say where it stands and why.

`args[0]['rows'][3]: <generator> (...)`. Each value is tried on its own, from the outside in,
along one path only: so the search ends even in a structure that contains itself.

Each look at a value may run its own code, which may raise anything. Then the search goes as far as
it has come.
"""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Iterable, Iterator
from pickle import HIGHEST_PROTOCOL
from types import FunctionType, MethodType
from typing import Any, Final

from noex_mp.errors import UnencodableError
from noex_mp.wire.registration import encoded, is_registered
from noex_mp.wire.values import Pack, shortened

_MAX_PATH = 200  # characters
_is_asking = False

_PLAIN = (str, bytes, bytearray, int, float, complex, type(None))

_LOCK: Final = "a lock works in one process; let one server own what it protects"
_QUEUE: Final = "a queue works in one process; a server's mailbox is one between processes"
_POOL: Final = (
    "a pool stays in its process; a task uses one of the tree, Pool.named(...), or one of its own"
)
_FUTURE: Final = "it belongs to an event loop of this process; await it, and send its result"
_ITERATOR: Final = "an iterator lives in one process; send list(...) of it"

# By the full name of a class or one of its bases, so that none has to be imported.
_REASONS: Final = {
    "builtins.generator": "a generator lives in one process; send list(...) of it",
    "builtins.async_generator": "an async generator lives in one process; collect it first",
    "builtins.coroutine": "a coroutine lives in one process; await it, and send its result",
    "builtins.module": "a module cannot be sent; send its name",
    "builtins.frame": "a frame is a part of this process's stack",
    "builtins.traceback": "a traceback holds this process's stack; send the exception itself",
    "builtins.mappingproxy": "it is a view; send dict(...) of it",
    **{
        f"builtins.dict_{view}": "it is a view of a dict; send list(...) of it"
        for view in ("keys", "values", "items")
    },
    "_io._IOBase": "an open file stays in its process; send its path or its content",
    "_socket.socket": "a socket stays in its process; let one server own it",
    "ssl.SSLSocket": "a socket stays in its process; let one server own it",
    **dict.fromkeys(
        (
            "_thread.lock",
            "_thread.RLock",
            "threading.Condition",
            "threading.Semaphore",
            "threading.Event",
            "threading.Barrier",
            "asyncio.mixins._LoopBoundMixin",
        ),
        _LOCK,
    ),
    "queue.Queue": _QUEUE,
    "_queue.SimpleQueue": _QUEUE,
    "asyncio.queues.Queue": _QUEUE,
    "_asyncio.Future": _FUTURE,
    "asyncio.futures.Future": _FUTURE,
    "concurrent.futures._base.Future": "a future belongs to this process; send its result",
    "threading.Thread": "a thread runs in one process",
    "subprocess.Popen": "a child process belongs to who has started it; send its pid",
    "asyncio.events.AbstractEventLoop": "an event loop runs in one process",
    "sqlite3.Connection": "a connection stays in its process; let one server own it",
    "sqlite3.Cursor": "a connection stays in its process; let one server own it",
    "_contextvars.ContextVar": "a context variable cannot be sent; send its value",
    "_contextvars.Context": "a context cannot be sent; send the values in it",
    "weakref.ReferenceType": "a weak reference means an object of this process; send the object",
    "noex_mp.core.gen_server.GenServer": "a server stays in its process; send its Ref: self.ref",
    "noex_mp.pools.pool.PoolTasks": _POOL,
}


def find_unencodable(
    pack: Pack, roots: Iterable[tuple[str, Any]], error: BaseException
) -> UnencodableError:
    """Return what is to be raised instead of `error`, which `pack` raised.

    Args:
        pack: Packs one value, or raises.
        roots: Values with the names that their paths begin with.
        error: Why packing all of them together failed; told if each alone is fine.
    """
    for path, value in roots:
        problem = _attempt(pack, value)
        if problem is not None:
            return _descend(pack, path, value, problem)
    return UnencodableError("the message", _cut(str(error) or type(error).__name__))


def _descend(pack: Pack, path: str, value: Any, problem: BaseException) -> UnencodableError:
    # Attributes may lead round in a circle. The values themselves: an id may be used again.
    seen: list[Any] = []
    while True:
        if _is_about_depth(problem):
            return _too_deep(path, value)
        seen.append(value)
        for step, child in _seen(_parts(value)):
            if any(child is outer for outer in seen):
                continue
            inner = _attempt(pack, child)
            if inner is not None:
                path, value, problem = path + step, child, inner
                break
        else:
            break
    try:
        return UnencodableError(_cut(path), _name(value), _reason(value, problem))
    except Exception:
        # Not even the names of its classes can be had.
        cls: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
        name: str = type.__getattribute__(cls, "__name__")
        return UnencodableError(_cut(path), f"<{name}>", _text(problem))


def _is_about_depth(problem: BaseException) -> bool:
    # msgpack has no class for it.
    text = _text(problem)
    return isinstance(problem, RecursionError) or "recursion limit" in text or "too deeply" in text


def _text(problem: BaseException) -> str:
    with contextlib.suppress(Exception):
        if text := str(problem):
            return text
    return type(problem).__name__


def _too_deep(path: str, value: Any) -> UnencodableError:
    """Find a value inside itself, without packing, which takes long in such a structure."""
    open_ids, done_ids = {id(value)}, set[int]()
    stack = [(path, value, _seen(_children(value)))]
    while stack:
        outer_path, outer, children = stack[-1]
        for step, child in children:
            if id(child) in open_ids:
                return UnencodableError(_cut(outer_path + step), _name(child), "it contains itself")
            if id(child) not in done_ids:
                open_ids.add(id(child))
                stack.append((_cut(outer_path + step), child, _seen(_children(child))))
                break
        else:
            stack.pop()
            open_ids.discard(id(outer))
            done_ids.add(id(outer))
    return UnencodableError(_cut(path), _name(value), "it is nested too deeply")


def _attempt(pack: Pack, value: Any) -> BaseException | None:
    try:
        pack(value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the value's own code may raise anything, a cancellation too
        # Its traceback would keep the value alive, and all frames down to here, in a cycle.
        return error.with_traceback(None)
    return None


def _parts(value: object) -> Iterator[tuple[str, Any]]:
    """Yield what is sent for a value, each with its step of the path."""
    if is_registered(type(value)):
        yield " (encoded)", encoded(value)
    else:
        yield from _seen(_children(value))
        yield from _attributes(value)


def _is(value: object, classes: Any) -> bool:
    # `isinstance` asks the value itself, too.
    return issubclass(type(value), classes)


def _seen(parts: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    with contextlib.suppress(Exception):
        yield from parts


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values inside a value, each with its step of the path."""
    if type(value) in (list, tuple):
        yield from ((f"[{i}]", child) for i, child in enumerate(value))
    elif type(value) in (set, frozenset):
        yield from ((" (member)", child) for child in value)
    elif type(value) is dict:
        entries: dict[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
        for key, child in entries.items():
            yield f"[{shortened(key, 40)}]", child
            yield " (key)", key
    elif not _is(value, type):
        names = getattr(value, "__dataclass_fields__", ())
        for name in names:
            with contextlib.suppress(Exception):
                yield f".{name}", getattr(value, name)
        yield from _children_of_pickled(value)


def _children_of_pickled(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what lies in containers that msgpack does not know, as far as we do."""
    if _is(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif _is(value, MethodType):
        yield ".__self__", value.__self__
    elif _is(value, collections.defaultdict):
        yield ".default_factory", value.default_factory
    if _is(value, (dict, list, tuple, collections.deque, set, frozenset)):
        for plain in (dict, list, tuple, set, frozenset):
            if _is(value, plain):
                break
        else:
            plain = list
        yield from _children(plain(value))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what pickle would find in an object, or nothing where a reason is known."""
    known = _is(value, (type, FunctionType)) or _known_reason(value)
    if not known and _is_its_attributes(value) and not _refuses(value):
        yield from ((f".{name}", child) for name, child in getattr(value, "__dict__", {}).items())


def _is_its_attributes(value: object) -> bool:
    # Whoever has a `__reduce_ex__` of its own sends something else than its attributes.
    reduce: object = type(value).__reduce_ex__
    return reduce is object.__reduce_ex__


def _refuses(value: Any) -> bool:
    """Return whether a value says itself that it cannot be sent, whatever is in it."""
    global _is_asking
    if _is_asking:
        # That is code of the user's, which sends something that cannot be sent either.
        return False
    _is_asking = True
    try:
        return _attempt(lambda value: value.__reduce_ex__(HIGHEST_PROTOCOL), value) is not None
    finally:
        _is_asking = False


def _name(value: Any) -> str:
    if _is(value, FunctionType):
        return value.__name__ if value.__name__ == "<lambda>" else f"<function {value.__name__}>"
    if type(value) in _PLAIN or _is(value, type):
        return shortened(value)
    return f"<{type(value).__name__}>"


def _reason(value: Any, problem: BaseException) -> str:
    if known := _known_reason(value):
        return known
    if isinstance(problem, UnicodeEncodeError):
        return "text with lone surrogates is no valid UTF-8; for a file name, send os.fsencode(...)"
    text = _text(problem)
    return text if len(text) <= _MAX_PATH else f"{text[:_MAX_PATH]}..."


def _known_reason(value: object) -> str:
    for cls in type(value).__mro__:
        reason = _REASONS.get(f"{cls.__module__}.{cls.__qualname__}")
        if reason:
            return reason
    if hasattr(type(value), "__next__"):
        return _ITERATOR
    return ""


def _cut(path: str) -> str:
    if len(path) <= _MAX_PATH:
        return path
    half = _MAX_PATH // 2
    return f"{path[:half]}...{path[-half:]}"
