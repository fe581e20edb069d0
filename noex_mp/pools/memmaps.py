"""Arrays that lie in a file, `np.memmap` and its views: sent as a place in that file.

So what a task writes to one is written to the file, and what nobody may write to arrives as such.
joblib has code for it, which gives a transposed or a reversed view another content.
"""

from __future__ import annotations

import importlib
import mmap
import os
import sys
from typing import Any, Final

__all__ = ["is_array", "reduce_array", "view_of_file"]

_PROTOCOL: Final = 5


def is_array(value: object) -> bool:
    """Return whether `reduce_array` takes it: an array of one of numpy's own classes."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) in (numpy.ndarray, numpy.memmap)


def reduce_array(array: Any) -> Any:
    """Return what pickle makes an array of; one that lies in a file is opened there once more."""
    memmap = _memmap_of(array)
    if memmap is None or array.size == 0:
        return array.__reduce_ex__(_PROTOCOL)
    first = _address(array)
    reaches = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    start = first + sum(reach for reach in reaches if reach < 0)
    end = first + array.itemsize + sum(reach for reach in reaches if reach > 0)
    offset = memmap.offset + start - _address(memmap)
    # A view may be read-only where its memmap is not. "w+" would empty the file.
    mode = "r+" if array.flags.writeable else "r"
    if array.flags.c_contiguous or array.flags.f_contiguous:
        order = "C" if array.flags.c_contiguous else "F"
        return type(memmap), (memmap.filename, array.dtype, mode, offset, array.shape, order)
    part = memmap.filename, "u1", mode, offset, (end - start,)
    return view_of_file, (part, array.shape, array.dtype, first - start, array.strides)


def view_of_file(
    part: tuple[Any, ...], shape: tuple[int, ...], dtype: Any, first: int, strides: tuple[int, ...]
) -> Any:
    """Return an array whose elements lie apart, in a part of a file. Pickles name this.

    Args:
        part: The arguments of `np.memmap` for the bytes from the lowest element to the highest.
        shape: How many elements there are.
        dtype: What they are.
        first: At which byte of the part the first one lies.
        strides: How far one is from the next, in bytes.
    """
    numpy = importlib.import_module("numpy")
    return numpy.ndarray(shape, dtype, numpy.memmap(*part), first, strides)


def _address(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _memmap_of(array: Any) -> Any:
    """Return the memmap that an array is a view of, or None: then its bytes are all there is."""
    base = array
    while base is not None and not isinstance(getattr(base, "base", None), mmap.mmap):
        base = getattr(base, "base", None)
    if type(base) is not sys.modules["numpy"].memmap:
        return None
    memmap: Any = base
    # What is written to a copy on write is in no file.
    path = None if memmap.mode == "c" else memmap.filename
    return memmap if path is not None and os.path.exists(path) else None
