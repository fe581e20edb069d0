"""Values that all processes of a node read in place, and the leases on them.

```text
block    one value: page-aligned, a head of 64 bytes, then its buffers
lease    a read lock on the range of a block, held by each process that has the value
```

1. A process puts a value into its own span, and has the first lease. Whoever gets a *handle* of it
   in a message maps it, read-only, and has a lease as long as anything looks at the mapping.
2. Whoever ends the last lease of a block gives its memory back. Whether it was the last shows when
   it locks the block for writing afterwards. (To turn the one lock into the other would be refused
   to both of the last two, if they do it at the same moment.)
3. The owner keeps its locks on some blocks, `WARM` bytes at most, when it reads them no more:
   memory that has its pages already takes the next value in half the time.
4. Before a place is used again its owner locks it for writing, and the new block has another
   *generation*. A handle that comes too late finds the place locked or of another generation, and
   is refused: it never leads to other data.

Between two processes a value is never without a lock: a sender keeps its own until the receiver
has said that it has one too (see `Link.send_chunks`).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import struct
import sys
import threading
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final
from weakref import ref

from noex_mp.errors import SharedValueGoneError
from noex_mp.transport import cut_over, fds, shared_file
from noex_mp.transport.libc import libc
from noex_mp.transport.shared_file import (
    NO_SPAN,
    SPAN,
    SPANS,
    Kind,
    SharedFile,
    lock,
    punch,
    reserve,
)
from noex_mp.wire.cut_over import SIZES

__all__ = ["WARM", "Arena"]

WARM: Final = 208 * 2**20
"""How much memory a process keeps for its next values at most, in bytes.

Three of 64 MiB, and some: one that is kept, the last one, and the next, which needs a place while
others are just letting go of that.
"""

# So many places that others still read are tried, at most, before another is taken.
TRIES: Final = 8

_HEAD: Final = struct.Struct("=Q")  # generation
_HEAD_SIZE: Final = 64  # also what each buffer is aligned to: Arrow asks for it
_HANDLE: Final = struct.Struct(">QQQQQ")  # block: offset, size, generation; in it: start, length
_SMALLEST: Final = 256 * 1024

_MAP_FIXED: Final = 0x10
_MAP_POPULATE: Final = 0x8000
_MADV_POPULATE_READ: Final = 22


@dataclass(eq=False)
class _Place:
    """A part of this process's span, for one value after the other.

    Attributes:
        offset: Where it begins in the file.
        capacity: How long it is.
        resident: How much of it has memory for sure.
        is_warm: Its owner keeps it locked.
        writer: A mapping to fill it through, and its address; that of a warm place is kept, since
            to find all its pages again takes longer than to fill them.
    """

    offset: int
    capacity: int
    resident: int = 0
    is_warm: bool = False
    writer: tuple[mmap.mmap, int] | None = None


class _Block:
    """A block that is mapped here, as long as anything looks at it.

    Attributes:
        area: The mapping, while it lives. Whatever looks at it keeps it.
        address: Where it begins in this process.
        offset: Where it begins in the file.
        size: How long it is.
        generation: Tells it from others that have been there.
        place: Where its owner, which is this process, has put it.
        is_over: Its lease has ended.
    """

    def __init__(
        self,
        area: mmap.mmap,
        address: int,
        at: tuple[int, int, int],
        place: _Place | None,
        on_end: Callable[[_Block], object],
    ) -> None:
        self.address = address
        self.offset, self.size, self.generation = at
        self.place = place
        self.is_over = False
        self.area = ref(area, lambda _: on_end(self))

    @property
    def locked(self) -> tuple[int, int]:
        """The range of the file that its lease is on: where, and how long."""
        return self.offset, self.place.capacity if self.place else self.size


class Arena:
    """What this process shares and reads.

    Any thread may use it. A block may come to its end anywhere, also in the middle of a method
    here: that is noted, and seen to when the method is done.
    """

    def __init__(self, file: SharedFile) -> None:
        self._file = file
        self._own = fds.NO_FD
        self._lock = threading.Lock()
        self._ended: deque[_Block] = deque()
        self._blocks: dict[int, _Block] = {}
        self._by_address: list[tuple[int, int]] = []
        # Those that are free, or that nobody here reads any more, by their capacity.
        self._places: dict[int, deque[_Place]] = {}
        self._end = file.span * SPAN
        self._warm = 0
        self._generations = itertools.count(1)

    @property
    def is_in_use(self) -> bool:
        """Whether anything here looks at shared memory."""
        return bool(self._blocks)

    def naming(self, view: memoryview) -> float:
        """Return what it takes another process to read a value by its name, in seconds.

        Of a large one that is a part, which could as well be sent: what all of its pages take says
        nothing of others.

        Args:
            view: The value, which was put here.
        """
        with self._section():
            block = self._block_at(_address_of(view))
        assert block is not None
        size = min(block.size, SIZES[-1])
        reader = self._file.description()
        try:
            return min(self._naming(reader, block.offset, size) for _ in range(cut_over.TRIES))
        finally:
            os.close(reader)

    def _naming(self, reader: int, offset: int, size: int) -> float:
        start = perf_counter()
        lock(reader, Kind.READ, offset, size)
        area, _ = _map(self._file.fd, offset, size)
        with contextlib.suppress(OSError):
            area.madvise(_MADV_POPULATE_READ, 0, size)
        del area
        # As at the end of a lease: whether it was the last shows when it asks to write.
        lock(reader, Kind.NONE, offset, size)
        lock(reader, Kind.WRITE, offset, size)
        return perf_counter() - start

    # --- putting values in -------------------------------------------------------------

    def put(self, views: Sequence[memoryview]) -> list[memoryview] | None:
        """Copy buffers into one block and return them there, read-only; None if it cannot be.

        Raises:
            MemoryError: The machine has no memory left for them.
        """
        sizes = (_rounded(view.nbytes, _HEAD_SIZE) for view in views)
        *starts, end = itertools.accumulate(sizes, initial=_HEAD_SIZE)
        size = _rounded(end, mmap.PAGESIZE)
        with self._section():
            place = self._take_place(size)
            if place is None:
                return None
            try:
                writer, start = self._reserve(place, size)
                area, address = _map(self._file.fd, place.offset, size)
            except BaseException:
                self._cool(place)
                self._free(place)
                raise
        generation = next(self._generations)
        _HEAD.pack_into(writer, 0, generation)
        for at, view in zip(starts, views, strict=True):
            # Not a slice: other threads run meanwhile.
            ctypes.memmove(start + at, _address_of(view), view.nbytes)
        with self._section():
            # In one step: so far it was locked for writing.
            lock(self._own, Kind.READ, place.offset, place.capacity)
            self._enter(area, address, (place.offset, size, generation), place)
        whole = memoryview(area).toreadonly()
        return [whole[at : at + view.nbytes] for at, view in zip(starts, views, strict=True)]

    def _take_place(self, size: int) -> _Place | None:
        """Return a place for a block, locked for writing."""
        capacity = max(_SMALLEST, 1 << (size - 1).bit_length())
        places = self._places.setdefault(capacity, deque())
        for _ in range(min(TRIES, len(places))):
            place = places.pop()
            if self._take(place):
                break
            places.appendleft(place)
        else:
            place = _Place(self._end, capacity)
            if self._file.span == NO_SPAN or self._end + capacity > (self._file.span + 1) * SPAN:
                return None
            self._end += capacity
            # Nobody has it, but the root may just look for memory of the dead.
            lock(self._description(), Kind.WRITE, place.offset, capacity, wait=True)
        place.is_warm = place.is_warm or self._make_room(size)
        return place

    def _take(self, place: _Place) -> bool:
        # To its own locks a description is blind.
        return place.offset not in self._blocks and lock(
            self._description(), Kind.WRITE, place.offset, place.capacity
        )

    def _free(self, place: _Place) -> None:
        kind = Kind.READ if place.is_warm else Kind.NONE
        lock(self._own, kind, place.offset, place.capacity)
        self._places[place.capacity].append(place)

    def _make_room(self, size: int) -> bool:
        """Give back what is kept warm until there is room for so much; say whether there is."""
        if size > WARM:
            return False
        for places in self._places.values():
            for place in [each for each in places if each.is_warm]:
                if self._warm + size > WARM and self._take(place):
                    self._cool(place)
                    places.remove(place)
                    self._free(place)
        return self._warm + size <= WARM

    def _cool(self, place: _Place) -> None:
        """Give back the memory of a place that is locked for writing."""
        punch(self._own, place.offset, place.capacity)
        if place.is_warm:
            self._warm -= place.resident
        place.resident, place.is_warm, place.writer = 0, False, None

    def _reserve(self, place: _Place, size: int) -> tuple[mmap.mmap, int]:
        """Give a place memory, and return a mapping to fill it through, and its address."""
        if place.writer is not None and place.resident >= size:
            return place.writer
        # Now, and not by a SIGBUS in the middle of the copy.
        try:
            reserve(self._own, place.offset, size)
        except OSError as error:
            raise MemoryError(f"no memory for a shared value of {size:,} bytes") from error
        if place.is_warm:
            self._warm += size - place.resident
        place.resident = size
        writer = _map(self._file.fd, place.offset, size, is_new=True)
        place.writer = writer if place.is_warm else None
        return writer

    # --- lending and borrowing ---------------------------------------------------------

    def lend(self, view: memoryview) -> tuple[bytes, memoryview] | None:
        """Return a handle of memory, and an empty view that keeps it; None if it is not shared."""
        if not self._by_address:
            return None
        address = _address_of(view)
        with self._section():
            block = self._block_at(address)
            if block is None:
                return None
            area = block.area()
        start = address - block.address
        if area is None or start + view.nbytes > block.size:
            return None
        handle = _HANDLE.pack(block.offset, block.size, block.generation, start, view.nbytes)
        return handle, memoryview(area)[:0]

    def _block_at(self, address: int) -> _Block | None:
        """Return the block that an address lies in, or behind."""
        index = bisect_right(self._by_address, (address, sys.maxsize)) - 1
        return None if index < 0 else self._blocks[self._by_address[index][1]]

    def borrow(self, handle: bytes) -> memoryview:
        """Return the memory of a handle, read-only; it is leased as long as anything looks at it.

        Raises:
            SharedValueGoneError: Nobody has kept it.
            MemoryError: This process has no address space left for it.
        """
        offset, size, generation, start, length = _HANDLE.unpack(handle)
        if start + length > size or offset + size > SPAN * SPANS:
            raise ValueError("a handle of shared memory that makes no sense")
        with self._section():
            area = self._known(offset, generation)
            if area is None:
                area = self._lease(offset, size, generation)
                first = start - start % mmap.PAGESIZE
                with contextlib.suppress(OSError):  # Linux before 5.14
                    # All pages at once: half of what it takes one by one.
                    area.madvise(_MADV_POPULATE_READ, first, start + length - first)
        return memoryview(area).toreadonly()[start : start + length]

    def _known(self, offset: int, generation: int) -> mmap.mmap | None:
        known = self._blocks.get(offset)
        if known is None:
            return None
        area = known.area()
        if area is None:
            # That is noted, or about to be.
            self._release(known)
        elif known.generation != generation:
            raise SharedValueGoneError
        return area

    def _lease(self, offset: int, size: int, generation: int) -> mmap.mmap:
        fd = self._description()
        if not lock(fd, Kind.READ, offset, size):
            raise SharedValueGoneError
        try:
            area, address = _map(self._file.fd, offset, size)
            if _HEAD.unpack_from(area) != (generation,):
                raise SharedValueGoneError
        except BaseException:
            lock(fd, Kind.NONE, offset, size)
            raise
        self._enter(area, address, (offset, size, generation))
        return area

    # --- leases ------------------------------------------------------------------------

    def _description(self) -> int:
        if self._own == fds.NO_FD:
            self._own = fds.own(self._file.description())
            if self._file.on_open is not None:
                self._file.on_open(os.dup(self._own))
        return self._own

    def _enter(
        self,
        area: mmap.mmap,
        address: int,
        at: tuple[int, int, int],
        place: _Place | None = None,
    ) -> None:
        block = _Block(area, address, at, place, self._on_end)
        self._blocks[block.offset] = block
        insort(self._by_address, (address, block.offset))

    def _on_end(self, block: _Block, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # This module may be empty by then, and the kernel ends the leases of a process.
        if is_finalizing():
            return
        self._ended.append(block)
        self._see_to_ends()

    @contextlib.contextmanager
    def _section(self) -> Generator[None]:
        with self._lock:
            self._release_ended()
            yield
        self._see_to_ends()

    def _see_to_ends(self) -> None:
        # Whoever has the lock, this very thread perhaps, looks again when it gives it back.
        while self._ended and self._lock.acquire(blocking=False):
            try:
                self._release_ended()
            finally:
                self._lock.release()

    def _release_ended(self) -> None:
        while self._ended:
            self._release(self._ended.popleft())

    def _release(self, block: _Block) -> None:
        """End a lease; if it was the last lock, give the memory back."""
        if block.is_over:
            return
        block.is_over = True
        del self._blocks[block.offset]
        self._by_address.remove((block.address, block.offset))
        if self._own == fds.NO_FD:
            return
        place, (offset, size) = block.place, block.locked
        if place is not None and place.is_warm:
            self._places[place.capacity].append(place)
        else:
            lock(self._own, Kind.NONE, offset, size)
            if lock(self._own, Kind.WRITE, offset, size):
                punch(self._own, offset, size)
                lock(self._own, Kind.NONE, offset, size)
            if place is not None:
                place.resident = 0
                self._places[place.capacity].append(place)
        if not self._blocks:
            shared_file.close_if_unused()

    # --- the end -----------------------------------------------------------------------

    def pinned(self) -> int:
        """Return a description with a lease on all that is mapped here, for a child."""
        fd = self._file.description()
        for block in list(self._blocks.values()):
            lock(fd, Kind.READ, block.offset, block.size)
        return fd

    def abandon(self) -> None:
        """Leave the leases to the process that this one was forked from."""
        self._own = fds.NO_FD
        # Another thread may have it, which is not here.
        self._lock = threading.Lock()

    def close(self) -> None:
        """End all leases, and put nothing in any more; what is looked at stays mapped."""
        if self._own != fds.NO_FD:
            fds.close_all([self._own])
        self._own = fds.NO_FD
        self._places.clear()
        for block in self._blocks.values():
            block.place = None


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _map(fd: int, offset: int, size: int, *, is_new: bool = False) -> tuple[mmap.mmap, int]:
    """Return a mapping of a part of the file, to be read only, and its address.

    Raises:
        MemoryError: There is no address space for it.

    The descriptor is never the one that has the locks: a mapping, which a child of a process has
    too, keeps its description, and all locks with it.

    Python's `mmap` would keep a descriptor for each, a low one. So it makes one without a file,
    and another takes its place.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if is_new else 0)
    # Also where nobody reads it: who looks for its owner, as numpy does, is to hear that from it.
    try:
        area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection)
    except OSError as error:
        raise _no_address_space(size) from error
    address = _address_of(memoryview(area))
    flags = mmap.MAP_SHARED | _MAP_FIXED | (_MAP_POPULATE if is_new else 0)
    call = libc().mmap
    call.restype = ctypes.c_void_p
    call.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int64),
    ]
    if call(address, size, protection, flags, fd, offset) != address:
        raise _no_address_space(size)
    return area, address


def _no_address_space(size: int) -> MemoryError:
    return MemoryError(f"no address space for a shared value of {size:,} bytes")


# `Py_buffer` has 11 fields of a machine word at most, the first of which is the address. It is part
# of the stable ABI.
_Buffer = ctypes.c_void_p * 11


def _address_of(view: memoryview) -> int:
    """Return where contiguous memory begins; ctypes by itself refuses what is read-only."""
    get: Any = ctypes.pythonapi.PyObject_GetBuffer
    release: Any = ctypes.pythonapi.PyBuffer_Release
    found = _Buffer()
    get(ctypes.py_object(view), found, 0)
    address: int = found[0] or 0
    release(found)
    return address
