"""Find the value that cannot be sent, and say where it stands and why.

`args[0]['rows'][3]: <generator> (...)`. Each value is tried on its own, from the outside in,
along one path only: so the search ends even in a structure that contains itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from types import (
    AsyncGeneratorType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    ModuleType,
)
from typing import Any

from noex_mp.errors import UnencodableError
from noex_mp.wire.values import Pack, shortened

_MAX_PATH = 200  # characters
_PLAIN = (str, bytes, bytearray, int, float, complex, type(None))

_REASONS: list[tuple[type[Any], str]] = [
    (GeneratorType, "a generator lives in one process; send list(...) of it"),
    (AsyncGeneratorType, "an async generator lives in one process; collect it first"),
    (CoroutineType, "a coroutine lives in one process; await it first"),
    (io.IOBase, "an open file stays in its process; send its path or its content"),
    (ModuleType, "a module cannot be sent; send its name"),
]


def find_unencodable(
    pack: Pack, roots: Iterable[tuple[str, Any]], error: Exception
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
    return UnencodableError("the message", f"<{type(error).__name__}>", shortened(str(error)))


def _descend(pack: Pack, path: str, value: Any, problem: Exception) -> UnencodableError:
    # Attributes may lead round in a circle. The values themselves: an id may be used again.
    seen: list[Any] = []
    while True:
        if _is_about_depth(problem):
            return _too_deep(path, value)
        seen.append(value)
        for step, child in [*_children(value), *_attributes(value)]:
            if any(child is outer for outer in seen):
                continue
            inner = _attempt(pack, child)
            if inner is not None:
                path, value, problem = path + step, child, inner
                break
        else:
            break
    return UnencodableError(_cut(path), _name(value), _reason(value, problem))


def _is_about_depth(problem: Exception) -> bool:
    # msgpack has no class for it.
    text = str(problem)
    return isinstance(problem, RecursionError) or "recursion limit" in text or "too deeply" in text


def _too_deep(path: str, value: Any) -> UnencodableError:
    """Find a value inside itself, without packing, which takes long in such a structure."""
    open_ids, done_ids = {id(value)}, set[int]()
    stack = [(path, value, iter(_children(value)))]
    while stack:
        outer_path, outer, children = stack[-1]
        for step, child in children:
            if id(child) in open_ids:
                return UnencodableError(_cut(outer_path + step), _name(child), "it contains itself")
            if id(child) not in done_ids:
                open_ids.add(id(child))
                stack.append((_cut(outer_path + step), child, iter(_children(child))))
                break
        else:
            stack.pop()
            open_ids.discard(id(outer))
            done_ids.add(id(outer))
    return UnencodableError(_cut(path), _name(value), "it is nested too deeply")


def _attempt(pack: Pack, value: Any) -> Exception | None:
    try:
        pack(value)
    except Exception as error:  # the value's own code may raise anything
        return error
    return None


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
    elif not isinstance(value, type):
        names = getattr(value, "__dataclass_fields__", ())
        yield from ((f".{name}", getattr(value, name)) for name in names if hasattr(value, name))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what pickle would find in an object, or nothing where a reason is known."""
    known = isinstance(value, (type, FunctionType, *(cls for cls, _ in _REASONS)))
    if not known and _is_its_attributes(value):
        yield from ((f".{name}", child) for name, child in getattr(value, "__dict__", {}).items())


def _is_its_attributes(value: object) -> bool:
    # Whoever has a `__reduce_ex__` of its own sends something else than its attributes.
    reduce: object = type(value).__reduce_ex__
    return reduce is object.__reduce_ex__


def _name(value: Any) -> str:
    if isinstance(value, FunctionType):
        return value.__name__ if value.__name__ == "<lambda>" else f"<function {value.__name__}>"
    if type(value) in _PLAIN or isinstance(value, type):
        return shortened(value)
    return f"<{type(value).__name__}>"


def _reason(value: Any, problem: Exception) -> str:
    if isinstance(value, FunctionType) and "<" in value.__qualname__:
        return "only functions at the top level of a module can be sent, by their name"
    for cls, reason in _REASONS:
        if isinstance(value, cls):
            return reason
    if isinstance(problem, UnicodeEncodeError):
        return "text with lone surrogates is no valid UTF-8; for a file name, send os.fsencode(...)"
    text = str(problem) or type(problem).__name__
    return text if len(text) <= _MAX_PATH else f"{text[:_MAX_PATH]}..."


def _cut(path: str) -> str:
    if len(path) <= _MAX_PATH:
        return path
    half = _MAX_PATH // 2
    return f"{path[:half]}...{path[-half:]}"
