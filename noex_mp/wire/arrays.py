"""numpy arrays and scalars <-> msgpack.

numpy is never imported for somebody who does not use it: a value can only be an array if
numpy is loaded, and the receiver imports it when the first array arrives.

An array arrives with its dtype, shape, memory order (C or Fortran) and contents, and can be
written to. What holds Python objects, subclasses of `ndarray`, and dtypes that other packages
add (bfloat16) go by pickle instead.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from msgpack import ExtType

from noex_mp.wire.values import (
    ARRAY,
    BIG,
    SCALAR,
    ValueReader,
    ValueWriter,
    extension,
)

_USER_DTYPE = 2  # numpy's `dtype.isbuiltin` for a dtype that another package registered


def is_scalar_type(cls: type[Any]) -> bool:
    """Tell whether this is the type of a numpy scalar."""
    generic = getattr(sys.modules.get("numpy"), "generic", None)
    return generic is not None and issubclass(cls, generic)


def has_plain_memory(value: Any) -> bool:
    """Tell whether the bytes of an array or scalar are all there is to it."""
    dtype = value.dtype
    return (
        not dtype.hasobject
        and dtype.isbuiltin != _USER_DTYPE
        and dtype.itemsize > 0
        and (dtype.names is None or _has_a_description(dtype))
    )


def _has_a_description(dtype: Any) -> bool:
    # One whose fields overlap, or lie in another order than they are named, has none.
    numpy = sys.modules["numpy"]
    try:
        same: bool = numpy.lib.format.descr_to_dtype(_dtype_to_wire(dtype)) == dtype
    except ValueError:
        return False
    return same


def dump_array(writer: ValueWriter, array: Any) -> ExtType:
    """Return the extension for an array with plain memory."""
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    if not (fortran or array.flags.c_contiguous):
        array = array.copy(order="C")
    # "A" reads a Fortran array in its own order, so nothing is copied.
    view = array.reshape(-1, order="A").view("u1").data
    data = writer.out_of_band(view, is_array=True) if view.nbytes >= BIG else view
    fields = [_dtype_to_wire(array.dtype), list(array.shape), "F" if fortran else "C", data]
    return extension(ARRAY, writer.nested(fields))


def load_array(reader: ValueReader, data: bytes) -> Any:
    """Return the array on the very memory that it was received into: writable, unless shared."""
    numpy = importlib.import_module("numpy")
    described, shape, order, buffer = reader.nested(data)
    dtype = _dtype_from_wire(numpy, described)
    if isinstance(buffer, bytes):
        buffer = bytearray(buffer)
    # Without a buffer, numpy would allocate whatever the shape says. A view is of shared memory.
    if not isinstance(buffer, (bytearray, numpy.ndarray, memoryview)):
        raise TypeError(f"an array with {type(buffer).__name__} for its contents")
    array = numpy.ndarray(tuple(shape), dtype, buffer=buffer, order=order)
    if array.nbytes != memoryview(buffer).nbytes:
        raise ValueError(f"{array.nbytes} bytes expected, got {memoryview(buffer).nbytes}")
    return array


def dump_scalar(writer: ValueWriter, scalar: Any) -> ExtType:
    """Return the extension for a scalar with plain memory."""
    return extension(SCALAR, writer.nested([_dtype_to_wire(scalar.dtype), scalar.tobytes()]))


def load_scalar(reader: ValueReader, data: bytes) -> Any:
    """Return the scalar."""
    numpy = importlib.import_module("numpy")
    described, content = reader.nested(data)
    dtype = _dtype_from_wire(numpy, described)
    return numpy.ndarray((), dtype, buffer=bytearray(content))[()]


def _dtype_to_wire(dtype: Any) -> Any:
    """Return a dtype as text, or as numpy's own list of fields if it is structured."""
    if dtype.names is None:
        return dtype.str
    return sys.modules["numpy"].lib.format.dtype_to_descr(dtype)


def _dtype_from_wire(numpy: Any, described: Any) -> Any:
    dtype = numpy.lib.format.descr_to_dtype(described)
    # Memory from elsewhere read as object pointers would crash the process.
    if dtype.hasobject:
        raise ValueError(f"{dtype} holds Python objects")
    return dtype
