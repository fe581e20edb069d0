"""The runtime without windows, deadlines and cells: what these cost is the difference.

They have no switch, since a runtime without them would keep no promise. So the lines that make
them are taken out of the source of the functions on the hot path, when this is imported: in the
program, and in the workers of a `BareEcho`.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

from bench.servers import Echo
from noex_mp.client.route import Route
from noex_mp.client.window import Window
from noex_mp.worker.receiver import Receiver

__all__ = ["BareEcho", "with_lines"]


def with_lines(function: Callable[..., Any], lines: dict[str, str]) -> Any:
    """Return a function like this one, with some lines of its source replaced.

    Raises:
        ValueError: The source has no such line, or has it more than once.
    """
    assert isinstance(function, FunctionType)
    source = textwrap.dedent(inspect.getsource(function)).splitlines()
    for old, new in lines.items():
        found = [place for place, line in enumerate(source) if line.strip() == old]
        if len(found) != 1:
            raise ValueError(f"{function.__qualname__} has {len(found)} lines {old!r}, not one")
        source[found[0]] = source[found[0]].replace(old, new)
    flags = __future__.annotations.compiler_flag
    code = compile("\n".join(source), inspect.getfile(function), "exec", flags)
    made: dict[str, Any] = {}
    exec(code, function.__globals__, made)
    return made[function.__name__]


class BareEcho(Echo):
    """The same server, in a worker that has loaded this module."""


def _never(window: Window) -> bool:
    return False


def _without_end(window: Window) -> int:
    return 2**60


_invoke: Any = with_lines(
    Route.invoke,
    {
        "due = inf if timeout is None else monotonic() + timeout": "due = inf",
        "if due <= self.soonest:": "if False:",
    },
)
_receiver: Any = with_lines(
    Receiver._receiver,  # pyright: ignore[reportPrivateUsage]
    {
        "cells[cell] = frame[2]": "pass",
        "if kind & 1:": "if False:",
        "stale = True": "pass",
    },
)
for _owner, _name, _value in (
    (Route, "invoke", _invoke),
    (Receiver, "_receiver", _receiver),
    (Window, "should_ask", property(_never)),
    (Window, "free", _without_end),
):
    setattr(_owner, _name, _value)
