"""Pickle, and cloudpickle for what has no name in other processes. Lazily: most never need it.

A class or function that another process could not import travels with its code. The same class
sent twice is one class over there, and comes home as the class it was, so `except` and
`isinstance` hold: cloudpickle gives each class an id.

A lambda goes where code is expected: in a start argument, and in the code of others. In a message
it is refused, since it would be pickled anew for each, mostly without anybody's knowledge.

Both sides refuse it where pickle is switched off, and a reader also where the peer is not of this
node: nothing that comes from outside is ever unpickled.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import sys
from collections.abc import Callable, Iterable
from types import FunctionType, ModuleType
from typing import Any, Final

from msgpack import ExtType

from noex_mp.wire.classes import MAIN, goes_by_name, local_module, others_import
from noex_mp.wire.values import BIG, PICKLE, ValueReader, ValueWriter, extension

# How pickle takes values of registered types apart.
REDUCERS: Final[dict[type[Any], Callable[[Any], tuple[Any, ...]]]] = {}

# What has to be called over there when a class has arrived with its code, and with what else.
COMPANIONS: Final[dict[type[Any], tuple[Callable[..., Any], tuple[Any, ...]]]] = {}

_PROTOCOL: Final = 5
# None has no class that could be looked up, but pickle knows a few of these by heart.
_BUILT_IN: Final = "builtins"


# So many elements has a reduction that says how the state is set: that of a class.
_WITH_SETTER: Final = 6

_LAMBDA: Final = "a lambda has no name that another process could import; write it as a def"


class _NeedsCodeError(Exception):
    """Something in a value cannot be sent by name."""


def dump_pickle(writer: ValueWriter, value: Any) -> ExtType:
    """Write a value by pickle; its big buffers (a data frame's columns) leave out of band."""
    if not writer.allow_pickle:
        raise TypeError(
            "it could go by pickle only, which is switched off; "
            "register its type: noex_mp.register_type(...)"
        )
    data, views = dump(value, BIG, allow_lambdas=writer.allow_lambdas)
    buffers = [writer.out_of_band(view, is_array=not view.readonly) for view in views]
    return extension(PICKLE, writer.nested([data, buffers]))


def load_pickle(reader: ValueReader, data: bytes) -> Any:
    """Return the value, if this reader may load it."""
    if not reader.allow_pickle:
        raise TypeError("pickle is switched off")
    content, buffers = reader.nested(data)
    reader.before_code()
    return load(content, buffers)


def dump(value: object, big: int, *, allow_lambdas: bool = True) -> tuple[bytes, list[memoryview]]:
    """Return a value as a pickle, with the code of what has no name elsewhere.

    Args:
        value: Anything.
        big: From this size on, in bytes, a buffer stays out of the pickle.
        allow_lambdas: Whether a lambda may be part of it.

    Returns:
        The pickle, and the big buffers in their order.

    Raises:
        Exception: Whatever the value raised; most often `TypeError` or `pickle.PicklingError`.
    """
    try:
        return dump_by(_ByName, value, big)
    except (_NeedsCodeError, pickle.PicklingError, AttributeError) as problem:
        if isinstance(problem, _LambdaError) and not allow_lambdas:
            raise TypeError(_LAMBDA) from None
    return dump_by(code_pickler(), value, big)


def dump_by(pickler: Callable[..., Any], value: object, big: int) -> tuple[bytes, list[memoryview]]:
    """Do the same as `dump`, by a pickler of the caller's."""
    views: list[memoryview] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < big:
            return True
        views.append(view)
        return False

    file = io.BytesIO()
    pickling = pickler(file, _PROTOCOL, buffer_callback=stays)
    array: Any = getattr(sys.modules.get("numpy"), "ndarray", None)
    if REDUCERS or array is not None:
        table = getattr(pickling, "dispatch_table", copyreg.dispatch_table)
        pickling.dispatch_table = {**table, array: _reduced_array, **REDUCERS}
    pickling.dump(value)
    return file.getvalue(), views


def load(data: bytes, buffers: Iterable[Any] = ()) -> Any:
    """Return the value that `dump` pickled. Only for data from processes of the same node."""
    return _Unpickler(io.BytesIO(data), buffers=buffers).load()


def _reduced_array(array: Any) -> Any:
    # numpy shows nobody the memory of dates and times, and pickles a copy. As numbers they stay
    # where they are.
    if array.dtype.kind in "mM":
        return _viewed, (array.view("i8"), array.dtype)
    return array.__reduce_ex__(_PROTOCOL)


def _viewed(numbers: Any, dtype: Any) -> Any:
    return numbers.view(dtype)


class _LambdaError(_NeedsCodeError):
    """... and that is a lambda."""


class _ByName(pickle.Pickler):
    """Plain pickle, as long as everything can be found by its name over there."""

    def reducer_override(self, obj: Any) -> Any:
        may_need_code = isinstance(obj, (type, FunctionType)) and obj.__module__ != _BUILT_IN
        if may_need_code and not goes_by_name(obj):
            raise _LambdaError if obj.__name__ == "<lambda>" else _NeedsCodeError
        return NotImplemented


@functools.cache
def code_pickler() -> Callable[..., Any]:
    """Return the pickler that sends things with their code."""
    import cloudpickle

    class CodePickler(cloudpickle.Pickler):
        """cloudpickle with our own idea of what has a name."""

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, io.TextIOWrapper):
                # cloudpickle would send a copy of what can be read from it.
                raise TypeError("an open file stays in its process; send its path or its content")
            if isinstance(obj, ModuleType):
                _let_cloudpickle_know(obj)
            elif isinstance(obj, (type, FunctionType)) and obj.__module__ != _BUILT_IN:
                if goes_by_name(obj):
                    return NotImplemented
                _let_cloudpickle_know(sys.modules.get(obj.__module__))
            reduced = super().reducer_override(obj)
            companion = COMPANIONS.get(obj) if isinstance(obj, type) else None
            if companion is None or len(reduced) != _WITH_SETTER:
                return reduced
            make, args, state, _, _, set_state = reduced
            return make, args, (state, set_state, *companion), None, None, _set_state_and_call

    return CodePickler


def _set_state_and_call(cls: type[Any], state: tuple[Any, ...]) -> None:
    of_class, set_state, function, args = state
    set_state(cls, of_class)
    function(cls, *args)


def _let_cloudpickle_know(module: ModuleType | None) -> None:
    """Have cloudpickle send by value what stands in a module that others cannot import."""
    if module is None or module.__name__ == MAIN or others_import(module):
        return
    import cloudpickle

    if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.register_pickle_by_value(module)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return super().find_class(local_module(module_name), global_name)
