"""What the files of this folder share: extension codes, msgpack with types, and two seams.

msgpack knows None, bool, 64-bit ints, floats, str, bytes, list and dict. Everything else
travels as an *extension*: a code and a payload, which is most often msgpack again. A payload
that holds values is packed and unpacked through the seams `ValueWriter` and `ValueReader`,
which `codec.Encoder` and `codec.Decoder` implement.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from msgpack import ExtType, Packer, Unpacker

TUPLE: Final = 0
SET: Final = 1
FROZENSET: Final = 2
BIG_INT: Final = 3
COMPLEX: Final = 4
DECIMAL: Final = 5
UUID: Final = 6
DATETIME: Final = 7
DATE: Final = 8
TIME: Final = 9
TIMEDELTA: Final = 10
FIXED_ZONE: Final = 11
ZONE: Final = 12
ENUM: Final = 13
DATACLASS: Final = 14
EXCEPTION: Final = 15
REF: Final = 16
ARRAY: Final = 17
SCALAR: Final = 18
BUFFER: Final = 19
PICKLE: Final = 20
NAMED_TUPLE: Final = 21
STANDARD: Final = 22
REGISTERED: Final = 23
LENT: Final = 24
PACKED: Final = 25

FROM_OUTSIDE: Final = frozenset(
    {
        *(TUPLE, SET, FROZENSET, BIG_INT, COMPLEX, DECIMAL, UUID, REF, BUFFER),
        *(DATETIME, DATE, TIME, TIMEDELTA, FIXED_ZONE, ZONE),
    }
)
"""What a program outside of the node may send: nothing here names a class, and no code runs."""

BIG: Final = 128 * 1024
"""From this size on, in bytes, a buffer travels behind its message instead of in it.

Measured: below 64 KiB both ways cost the same, at 256 KiB a copy into the message costs half
as much again.
"""

MAX_NESTING: Final = 100
"""How many extensions may lie inside each other (a tuple in a tuple in a tuple ...)."""

MAX_LENGTH: Final = 2**26
"""The longest list or dict that may arrive in a frame, in elements."""

MAX_FRAME_SIZE: Final = 256 * 2**20
"""The largest frame, in bytes, without the buffers ahead of it."""

# A packer for payloads starts small and grows: there may be one for each level of nesting.
_PAYLOAD_BUFFER: Final = 1024
_MESSAGE_BUFFER: Final = 256 * 1024


class ValueWriter(Protocol):
    """What a dumper may ask of the encoder."""

    allow_pickle: bool
    allow_lambdas: bool
    # The ids of the exceptions being written, outermost first.
    exceptions: list[int]

    def nested(self, value: Any) -> bytes:
        """Return a payload: the value as msgpack."""
        ...

    def can_pack(self, value: Any) -> bool:
        """Tell whether a value can be sent, and leave no trace."""
        ...

    def out_of_band(self, view: memoryview, *, is_array: bool) -> ExtType:
        """Let a big buffer travel behind the message, and return what stands for it."""
        ...


class ValueReader(Protocol):
    """What a loader may ask of the decoder."""

    allow_pickle: bool
    failures: list[Exception]
    # Is called for each piece of shared memory that a message names.
    on_borrowed: Callable[[], object]
    # Is called before a pickle is loaded, which may run any code.
    before_code: Callable[[], object]

    def nested(self, data: bytes) -> Any:
        """Return the value that a payload holds."""
        ...

    def packed(self, data: bytes) -> Any:
        """Return the value that lies packed in a big buffer of this message."""
        ...

    def buffer(self, index: int) -> Any:
        """Return a big buffer that came ahead of this message."""
        ...


Pack = Callable[[Any], bytes]
Dumper = Callable[[ValueWriter, Any], ExtType]
Loader = Callable[[ValueReader, bytes], Any]

_new_tuple: Callable[..., Any] = tuple[Any, ...].__new__


def extension(code: int, payload: bytes) -> ExtType:
    """Return an extension; `ExtType(...)` would check again, in Python, what is known here."""
    made: ExtType = _new_tuple(ExtType, (code, payload))
    return made


def new_packer(hook: Callable[[Any], Any], *, for_payloads: bool = False) -> Packer:
    """Return a new packer; its method `pack`, which is C, gives the bytes of one value."""
    # strict_types: subclasses and tuples go to the hook, instead of losing their type.
    size = _PAYLOAD_BUFFER if for_payloads else _MESSAGE_BUFFER
    return Packer(default=hook, strict_types=True, use_bin_type=True, buf_size=size)


def _refuse(value: object) -> Any:
    raise TypeError(
        f"a frame of numbers and text was expected, with a {type(value).__name__} in it"
    )


pack_plain: Final[Pack] = new_packer(_refuse, for_payloads=True).pack
"""Packs what is no message of anybody's: numbers and text. It runs no code of a value's, so it may
be called at any time, also in the middle of a message."""


def new_unpacker(
    hook: Callable[[int, bytes], Any],
    *,
    max_size: int,
    first_buffer: int,
    max_length: int = MAX_LENGTH,
) -> Unpacker:
    """Return a new unpacker that refuses what is larger than `max_size` bytes."""
    return Unpacker(
        use_list=True,
        raw=False,
        strict_map_key=False,
        ext_hook=hook,
        # Only the size of its first buffer; without it, 1 MiB for each unpacker.
        read_size=min(first_buffer, max_size),
        max_buffer_size=max_size,
        max_str_len=max_size,
        max_bin_len=max_size,
        max_ext_len=max_size,
        # The list is allocated when its header arrives, so its length must be believable: an
        # element takes a byte at least.
        max_array_len=min(max_length, max_size),
        max_map_len=min(max_length, max_size // 2),
    )


_short = reprlib.Repr()
_short.maxother = _short.maxstring = 80  # the default, 30, cuts the class out of a plain repr


def shortened(value: object, limit: int = 80) -> str:
    """Return a short text for a value, whatever its own `__repr__` does."""
    try:
        text = _short.repr(value)
    except Exception:  # the value's own code may raise anything
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
