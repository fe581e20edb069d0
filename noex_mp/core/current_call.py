"""`current_call`: what a handler can know of the call that it is working on.

```python
@call
def render(self, pages: int) -> list[bytes]:
    done = []
    for page in range(pages):
        if (here := current_call()) is not None and here.cancelled:
            break
        done.append(self.page(page))
    return done
```

Promise: no I/O here; the worker says which message is being handled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["CurrentCall", "current_call", "install"]


class CurrentCall(Protocol):
    """The call that the running handler works on."""

    @property
    def operation(self) -> str:
        """The operation's name; empty in `handle_call`."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the reply any more.

        The caller has cancelled its future, its time is over, or it is gone. To ask is a
        system call, about 1 µs: a busy loop may ask now and then.
        """
        ...

    @property
    def time_left(self) -> float | None:
        """How many seconds the caller still waits; None is for ever."""
        ...

    def steps(self) -> memoryview:
        """Return where the handler may say how many steps of its work it has begun.

        It costs an assignment to its first element. If the process dies in the midst of the call,
        the exit report says how far it was: `report.message.steps`.
        """
        ...


def _none() -> None:
    return None


_find: Callable[[], CurrentCall | None] = _none


def install(find: Callable[[], CurrentCall | None]) -> None:
    """Set how this process knows. For the worker, when it starts."""
    global _find
    _find = find


def current_call() -> CurrentCall | None:
    """Return the call that the running handler works on; None outside of a call's handler.

    Example:
        ```python
        >>> current_call() is None
        True

        ```
    """
    return _find()
