"""Exceptions <-> msgpack. They are never pickled, and never break anything.

An exception arrives as the same class with the same args, attributes, notes and text, with
its cause or context, and with the remote traceback as its last note. Two things decide
whether that is possible, and both are tried before anything is sent:

1. The class must be found under its name, or be sent with its code: a notebook's, or one inside
   a function.
2. A rebuilt twin must equal the original. Two ways are tried. NEW skips `__init__`, so the
   constructor may take whatever it likes: `cls.__new__(cls, *args)`, then args and attributes
   are put back. CALL is `cls(*args)`, for classes that keep something out of sight.

Otherwise it arrives as `RemoteError(type_name, message)`, as it also does when the receiver
cannot import the class.
"""

from __future__ import annotations

import sys
import traceback
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, Final, NamedTuple

from msgpack import ExtType

from noex_mp.core.tracebacks import users_part
from noex_mp.errors import RemoteError
from noex_mp.wire import by_value
from noex_mp.wire.classes import find_class, goes_by_name, path_of
from noex_mp.wire.values import (
    EXCEPTION,
    ValueReader,
    ValueWriter,
    extension,
    shortened,
)

REMOTE_TRACEBACK: Final = "Remote traceback (most recent call last):\n"

MAX_CHAIN: Final = 10
"""How many exceptions may hang on each other (causes, contexts, groups, args)."""

MAX_SIZE: Final = 16 * 2**20
"""How large an exception may be, in bytes; a larger one arrives as its name and text."""

_MAX_TEXT: Final = 10_000  # characters of such a one

# How the receiver rebuilds it.
_REMOTE_ERROR: Final = 0
_NEW: Final = 1
_CALL: Final = 2

# What `linked` is to the exception.
_CAUSE: Final = 1
_CONTEXT: Final = 2

# These have no members of their own to restore, or only such as follow from the args.
_BASES = (object, BaseException, Exception, BaseExceptionGroup, ExceptionGroup)


class _Parts(NamedTuple):
    """What makes a twin of an exception."""

    args: list[Any]
    attributes: dict[str, Any]
    # What C classes and slots keep outside of `__dict__`, such as OSError.filename.
    members: dict[str, Any]


class _Record(NamedTuple):
    """One exception on the wire."""

    path: str
    how: int
    parts: bytes
    text: str
    notes: list[str]
    # The frames of the traceback, as the traceback module prints them, from the first that is not
    # ours on.
    frames: str
    linked_as: int
    linked: BaseException | None
    # The class itself, where its name means nothing to others.
    code: bytes


def dump_exception(writer: ValueWriter, error: BaseException) -> ExtType:
    """Return the extension for an exception; never raise because of what is in it."""
    if len(writer.exceptions) >= MAX_CHAIN or id(error) in writer.exceptions:
        record = _summary(writer, error)
    else:
        writer.exceptions.append(id(error))
        try:
            payload = writer.nested(list(_record(writer, error)))
        finally:
            writer.exceptions.pop()
        if len(payload) <= MAX_SIZE:
            return extension(EXCEPTION, payload)
        record = _summary(writer, error)
    return extension(EXCEPTION, writer.nested(list(record)))


def load_exception(reader: ValueReader, data: bytes) -> BaseException:
    """Return the exception, rebuilt or as a `RemoteError`."""
    record = _Record(*reader.nested(data))
    error = _rebuilt(reader, record) or RemoteError(record.path, record.text)
    notes = [str(note) for note in record.notes]
    if record.frames:
        notes.append(f"{REMOTE_TRACEBACK}{record.frames}".rstrip("\n"))
    if notes:
        vars(error)["__notes__"] = notes
    if isinstance(record.linked, BaseException):
        name = "__cause__" if record.linked_as == _CAUSE else "__context__"
        object.__setattr__(error, name, record.linked)
    return error


def _record(writer: ValueWriter, error: BaseException) -> _Record:
    text = _text(error)
    parts, whole, packed = _packable(writer, _parts_of(error))
    notes, frames = _notes_and_frames(error)
    linked_as, linked = _linked(error)
    by_name = goes_by_name(type(error))
    code = b"" if by_name else _code_of(writer, type(error))
    known = by_name or code
    return _Record(
        path=_clean(path_of(type(error))),
        how=_how_to_rebuild(error, parts, text if whole else None) if known else _REMOTE_ERROR,
        parts=packed,
        text=text,
        notes=notes,
        frames=frames,
        linked_as=linked_as,
        linked=linked,
        code=code,
    )


def _code_of(writer: ValueWriter, cls: type[BaseException]) -> bytes:
    """Return a class as a pickle of its code; empty where that is not possible or allowed."""
    if not writer.allow_pickle:
        return b""
    try:
        return by_value.dump(cls, sys.maxsize)[0]
    except Exception:  # anything may be in there, and an error must get through
        return b""


def _summary(writer: ValueWriter, error: BaseException) -> _Record:
    """Return a record of one too large, or too far down a chain: its name and text only."""
    nothing = writer.nested([[], {}, {}])
    path = _clean(path_of(type(error)))
    return _Record(path, _REMOTE_ERROR, nothing, _text(error)[:_MAX_TEXT], [], "", 0, None, b"")


def _parts_of(error: BaseException) -> _Parts:
    attributes = {k: v for k, v in vars(error).items() if k != "__notes__"}
    args = error.args if type(error.args) is tuple else ()
    return _Parts(list(args), attributes, _members(error))


def _members(error: BaseException) -> dict[str, Any]:
    names = (
        name
        for cls in type(error).__mro__
        if cls not in _BASES
        for name, kind in vars(cls).items()
        if isinstance(kind, (MemberDescriptorType, GetSetDescriptorType))
        # AttributeError.obj is the object that was asked: perhaps the server itself.
        and not name.startswith("__")
        and name != "obj"
    )
    found: dict[str, Any] = {}
    for name in names:
        try:
            value = getattr(error, name)
        except (AttributeError, TypeError):  # never set
            continue
        if value is not None:
            found[name] = value
    return found


def _packable(writer: ValueWriter, parts: _Parts) -> tuple[_Parts, bool, bytes]:
    """Replace what cannot be sent by its text; tell whether nothing was; and pack it."""
    try:
        return parts, True, writer.nested(list(parts))
    except Exception:  # anything may be in there, and an error must get through
        args = [_or_text(writer, value) for value in parts.args]
        attributes = {_clean(str(k)): _or_text(writer, v) for k, v in parts.attributes.items()}
        members = {k: _or_text(writer, v) for k, v in parts.members.items()}
        parts = _Parts(args, attributes, members)
        return parts, False, writer.nested(list(parts))


def _or_text(writer: ValueWriter, value: Any) -> Any:
    return value if writer.can_pack(value) else _clean(shortened(value))


def _how_to_rebuild(error: BaseException, parts: _Parts, text: str | None) -> int:
    cls = type(error)
    for how in (_NEW, _CALL):
        try:
            twin = _build(cls, how, parts)
            # With a value replaced, the text differs; it must only work.
            same_text = _clean(str(twin)) == text if text is not None else bool([str(twin)])
            if type(twin) is cls and list(twin.args) == parts.args and same_text:
                return how
        except Exception:  # the class's own code may raise anything
            continue
    return _REMOTE_ERROR


def _rebuilt(reader: ValueReader, record: _Record) -> BaseException | None:
    if record.how == _REMOTE_ERROR:
        return None
    failures = len(reader.failures)
    try:
        parts = _Parts(*reader.nested(record.parts))
        if len(reader.failures) == failures:
            cls = _class_of(reader, record)
            twin = _build(cls, record.how, parts) if issubclass(cls, BaseException) else None
            return twin if isinstance(twin, BaseException) else None
    except Exception:  # then it arrives as a RemoteError, which is no failure
        pass
    # What could not be read in its args is no fault of the message: the text says it all.
    del reader.failures[failures:]
    return None


def _class_of(reader: ValueReader, record: _Record) -> type[Any]:
    if not record.code:
        return find_class(record.path)
    if not reader.allow_pickle:
        raise TypeError("pickle is switched off")
    cls = by_value.load(record.code)
    if not isinstance(cls, type):
        raise TypeError(f"{record.path} is no class")
    return cls


def _build(cls: type[BaseException], how: int, parts: _Parts) -> BaseException:
    twin = cls.__new__(cls, *parts.args) if how == _NEW else cls(*parts.args)
    # Not plain setattr: a frozen dataclass forbids it.
    object.__setattr__(twin, "args", tuple(parts.args))
    vars(twin).update(parts.attributes)
    for name, value in parts.members.items():
        try:
            object.__setattr__(twin, name, value)
        except (AttributeError, TypeError):  # read-only: it follows from the args
            continue
    return twin


def _notes_and_frames(error: BaseException) -> tuple[list[str], str]:
    """Split the notes, and join this process's frames with those of an earlier journey."""
    notes: list[str] = []
    frames = _frames(error)
    found = vars(error).get("__notes__")
    for note in found if isinstance(found, (list, tuple)) else ():  # pyright: ignore[reportUnknownVariableType]
        text = _clean(note if isinstance(note, str) else shortened(note))  # pyright: ignore[reportUnknownArgumentType]
        if text.startswith(REMOTE_TRACEBACK):
            frames += text.removeprefix(REMOTE_TRACEBACK)
        else:
            notes.append(text)
    return notes, frames


def _frames(error: BaseException) -> str:
    try:
        return _clean("".join(traceback.format_tb(users_part(error))))
    except Exception:  # a traceback is worth a lot, but not the exception
        return ""


def _linked(error: BaseException) -> tuple[int, BaseException | None]:
    if error.__cause__ is not None:
        return _CAUSE, error.__cause__
    if error.__suppress_context__:
        return 0, None
    return _CONTEXT, error.__context__


def _text(error: BaseException) -> str:
    try:
        return _clean(str(error))
    except Exception:  # a broken __str__
        return "<its __str__ failed>"


def _clean(text: str) -> str:
    """Return text that UTF-8 can carry: file names may hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
