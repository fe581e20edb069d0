"""Values in an envelope of their own: bytes that the root passes on and never opens.

The arguments of a server's constructor and the exception that ended one may be of the user's
classes, which the root has no reason to import. They cross the control plane as a payload: a
small stream of frames, as `codec` writes them, big buffers included.
"""

from __future__ import annotations

from typing import Any

from noex_mp.errors import NotImportableError, RemoteProtocolError
from noex_mp.wire.classes import find_class, goes_by_name, path_of
from noex_mp.wire.codec import Encoder
from noex_mp.wire.stream import FrameReader

__all__ = [
    "pack_arguments",
    "pack_error",
    "pack_payload",
    "pack_value",
    "unpack_arguments",
    "unpack_error",
    "unpack_payload",
    "unpack_value",
]


def pack_payload(
    encoder: Encoder, cls: type[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bytes:
    """Return what a server is made of as bytes: the constructor's arguments, and its class.

    A class that has a name elsewhere is left out; so there may be nothing at all.

    Raises:
        NotImportableError: The class has no name elsewhere, and pickle is switched off.
        UnencodableError: An argument cannot be sent; the error names its path.
    """
    by_name = goes_by_name(cls)
    if by_name and not args and not kwargs:
        return b""
    if by_name:
        return pack_arguments(encoder, args, kwargs)
    _pack_class(encoder, cls)
    return _pack(encoder, cls, args, kwargs)


def pack_arguments(encoder: Encoder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return further arguments of a constructor as bytes, for a class that others know.

    Raises:
        UnencodableError: An argument cannot be sent; the error names its path.
    """
    return _pack(encoder, False, args, kwargs)


def _pack(encoder: Encoder, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    outer, encoder.allow_lambdas = encoder.allow_lambdas, True
    try:
        return b"".join(encoder.pack_big([0, cls, kwargs, *args]))
    except Exception as error:
        raise encoder.explain(args, kwargs, error) from None
    finally:
        encoder.allow_lambdas = outer


def _pack_class(encoder: Encoder, cls: type[Any]) -> None:
    """Try to pack a class by value on its own, so that an error names it and no argument."""
    if not encoder.allow_pickle:
        raise NotImportableError(path_of(cls), is_by_value=True)
    try:
        encoder.chunks([cls])
    except Exception as error:
        raise encoder.explain_value(cls.__qualname__, cls, error) from None
    finally:
        encoder.buffers.clear()


def unpack_payload(
    path: str, data: bytes, *, allow_pickle: bool
) -> tuple[type[Any], list[Any], dict[str, Any]]:
    """Return the class, arguments and keyword arguments that `pack_payload` packed.

    Args:
        path: The name of the class, for when it was left out.
        data: The payload.
        allow_pickle: Whether pickles, and code by value, may be loaded.

    Raises:
        NotImportableError: There is no class of this name here.
        RemoteProtocolError: They cannot be decoded here.
    """
    if not data:
        return find_class(path), [], {}
    cls, args, kwargs = _unpack_start(data, allow_pickle=allow_pickle)
    return cls or find_class(path), args, kwargs


def unpack_arguments(data: bytes, *, allow_pickle: bool) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments and keyword arguments that `pack_arguments` packed.

    Whose they are is known from elsewhere: a class that came with its code has no name here.

    Raises:
        RemoteProtocolError: They cannot be decoded here.
    """
    _, args, kwargs = _unpack_start(data, allow_pickle=allow_pickle)
    return args, kwargs


def _unpack_start(data: bytes, *, allow_pickle: bool) -> tuple[Any, list[Any], dict[str, Any]]:
    frame, failures = _unpack(data, "the node", allow_pickle=allow_pickle)
    if failures:
        raise _undecodable(frame, failures[0])
    _, cls, kwargs, *args = frame
    return cls, args, kwargs


def _undecodable(frame: list[Any], failure: Exception) -> RemoteProtocolError:
    """Return the error that names the argument that cannot be rebuilt here, where that is sure."""
    _, cls, kwargs, *args = frame
    places = [("its class", cls), *((f"kwargs[{name!r}]", kwargs[name]) for name in kwargs)]
    places += [(f"args[{i}]", value) for i, value in enumerate(args)]
    missing = [place for place, value in places if value is None]
    place = missing[0] if len(missing) == 1 else "arguments"
    cause = failure.__cause__ or failure
    problem = f"{place}, which cannot be rebuilt in the worker: {type(cause).__name__}: {cause}"
    error = RemoteProtocolError("the node", problem)
    error.__cause__ = cause
    return error


def pack_error(encoder: Encoder, error: BaseException | None) -> bytes:
    """Return an exception as bytes, with its causes and tracebacks; empty for None."""
    return b"" if error is None else b"".join(encoder.pack_big([0, error]))


def unpack_error(data: bytes, *, allow_pickle: bool) -> BaseException | None:
    """Return the exception that `pack_error` packed."""
    if not data:
        return None
    try:
        frame, failures = _unpack(data, "a server", allow_pickle=allow_pickle)
    except RemoteProtocolError as problem:
        return problem
    if failures:
        return failures[0]
    error = frame[1]
    return error if isinstance(error, BaseException) else None


def pack_value(encoder: Encoder, what: str, value: Any) -> bytes:
    """Return a value as bytes.

    Args:
        encoder: Packs it.
        what: What an error calls it.
        value: The value.

    Raises:
        UnencodableError: It cannot be sent.
    """
    try:
        return b"".join(encoder.pack_big([0, value]))
    except Exception as error:
        raise encoder.explain_value(what, value, error) from None


def unpack_value(data: bytes, *, allow_pickle: bool) -> Any:
    """Return the value that `pack_value` packed.

    Raises:
        Exception: It cannot be rebuilt in this process; says why.
    """
    frame, failures = _unpack(data, "a process", allow_pickle=allow_pickle)
    if failures:
        raise failures[0]
    return frame[1]


def _unpack(data: bytes, peer: str, *, allow_pickle: bool) -> tuple[list[Any], list[Exception]]:
    reader = FrameReader(peer=peer, allow_pickle=allow_pickle)
    view = memoryview(data)
    position = 0
    frames: list[list[Any]] = []
    while position < len(data):
        # A wanted buffer is filled outside the msgpack stream, as a link does it.
        if reader.wanted is not None:
            size = len(reader.wanted)
            reader.wanted[:] = view[position : position + size]
            reader.advance(size)
            position += size
        else:
            reader.feed(view[position : position + 65536])
            position += 65536
            frames += reader.frames()
    return frames[0], reader.failures
