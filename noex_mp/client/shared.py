"""`shared`: a value that all processes of a node read in place.

A message names such a value instead of holding it, and whoever receives it sees the very memory
(see `transport/arena.py`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from noex_mp.transport import cut_over, shared_file
from noex_mp.wire import by_value
from noex_mp.wire.cut_over import choose_shared, here
from noex_mp.wire.values import BIG

if TYPE_CHECKING:
    from noex_mp.transport.arena import Arena

__all__ = ["shared"]

T = TypeVar("T")

_BYTES_LIKE: Final = frozenset((bytes, bytearray, memoryview))


@overload
def shared(value: bytes | bytearray | memoryview) -> memoryview: ...
@overload
def shared(value: T) -> T: ...
def shared(value: Any) -> Any:
    """Return an equal value, read-only, that all processes of the node read in place.

    It is copied once, here. As an argument or a result it costs no more than a small message,
    whoever sends it to whom; each process that gets it sees the same memory, and cannot write to
    it. When nobody has it any more, also since a process was killed, the memory is given back.

    Shared are the buffers of a value: those of numpy arrays, of pandas and Arrow frames, and of all
    else that pickles with protocol 5's out-of-band buffers, also inside of lists and other values.
    Parts count as shared too: a contiguous slice of a shared array is sent as one. What is smaller
    than 128 KiB is sent as a copy, up to 1 MiB if that costs less on this machine; and so are
    constructor arguments of servers.

    Args:
        value: The value. Of bytes, a bytearray or a memoryview a read-only memoryview of bytes is
            returned.

    Raises:
        MemoryError: There is no memory, or no address space, for it.

    Where there is no such memory (on macOS), it returns a read-only copy, which is sent like any
    other value.

    Example:
        ```python
        table = shared(numpy.arange(8_000_000.0))
        sums = await asyncio.gather(*(Summing.total(each, table) for each in workers))
        ```
    """
    if type(value) in _BYTES_LIKE:
        view = memoryview(value)
        return _placed([view.cast("B") if view.c_contiguous else memoryview(view.tobytes())])[0]
    pickled, views = by_value.dump(_contiguous(value), 1)
    return by_value.load(pickled, _placed(views))


def _contiguous(value: Any) -> Any:
    """Return an array whose memory has no gaps: others are pickled whole."""
    array: Any = getattr(sys.modules.get("numpy"), "ndarray", None)
    if array is None or not isinstance(value, array):
        return value
    flags: Any = value.flags
    return value if flags.forc else value.copy()


def _placed(views: list[memoryview]) -> list[memoryview]:
    """Return the same bytes, read-only, in shared memory if it pays."""
    largest = max((view.nbytes for view in views), default=0)
    arena = shared_file.arena() if largest >= (here.shared_from or BIG) else None
    placed = arena.put(views) if arena is not None else None
    if arena is not None and placed is not None and largest >= _pays_from(arena, placed[0]):
        return placed
    return [memoryview(bytes(view)) for view in views]


def _pays_from(arena: Arena, placed: memoryview) -> int:
    if not here.shared_from:
        # By the first value: an arena ends with the last thing in it.
        here.shared_from = choose_shared(cut_over.tries(), arena.naming(placed))
    return here.shared_from
