"""An event loop for a thread that has none: it runs only while its thread waits for something.

Links, routes and deadlines live on an event loop. A plain thread gives them this one, and turns
it by itself: `run_until` returns when a future is done. Everything is done by the one thread;
between two waits nothing moves, so whoever sends has to see that all of it leaves.

```python
loop = BlockingLoop()
loop.run_until(route.invoke(operation, args, kwargs, 5.0))
```

A wait is one `poll` and one `recv`. To receive blocking would save the `poll` (0.6 of 11 µs), but
would not hear of anything else, and lose what was read when Ctrl-C comes.
"""

from __future__ import annotations

import heapq
import select
import time
from asyncio import Future
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, Final, TypeVar

__all__ = ["BlockingLoop"]

T = TypeVar("T")

_IN: Final = select.POLLIN
_OUT: Final = select.POLLOUT

# What poll takes at most, in milliseconds: 24 days. Whoever waits longer looks again.
_LONGEST: Final = 2**31 - 1


class BlockingLoop:
    """The part of an event loop that links and clients need, in the hands of one thread.

    Attributes:
        ready: What is due at once.
        waiting: The thread just waits: an exception from a signal handler has interrupted
            nothing.
        create_future: Returns a new future.
        always_turns: Whether it hears what comes also while nobody waits.
    """

    always_turns = False

    # Futures ask each time. `bool()` is False, and to call it needs no frame of Python.
    get_debug = staticmethod(bool)

    def __init__(self) -> None:
        self.waiting = False
        # To whoever asks for a loop it is one: `asyncio.AbstractEventLoop` has thirty methods more.
        loop: Any = self
        self.create_future: Callable[[], Future[Any]] = partial(Future, loop=loop)
        self._closed = False
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], Any]] = {}
        self._writers: dict[int, Callable[[], Any]] = {}
        self.ready: deque[tuple[Context | None, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._timers: list[_Timer] = []

    # --- turning it --------------------------------------------------------------------

    def run_until(self, future: Future[Any]) -> None:
        """Turn the loop until the future is done."""
        done, ready = future.done, self.ready
        poll: Callable[[int | None], list[tuple[int, int]]] = self._poll.poll
        if nested := self.waiting:
            # Called by a signal handler, out of a wait: its poll object is in use.
            poll = self._poll_anew
        while not done():
            if ready:
                self.run_ready()
                continue
            milliseconds = self._until_next_timer() if self._timers else None
            self.waiting = True
            events = poll(milliseconds)
            self.waiting = False
            self._handle(events)
        self.waiting = nested

    @property
    def writes(self) -> bool:
        """Whether something waits for a socket that takes no more."""
        return bool(self._writers)

    def run_ready(self) -> None:
        """Do what is due at once, without a look at any descriptor."""
        ready = self.ready
        # What these call for again comes with the next turn.
        for _ in range(len(ready)):
            context, callback, args = ready.popleft()
            if context is None:
                callback(*args)
            else:
                context.run(callback, *args)

    def catch_up(self) -> None:
        """Do all that can be done without waiting."""
        poll = self._poll_anew if self.waiting else self._poll.poll
        while True:
            events = poll(0)
            self._handle(events)
            while self.ready:
                self.run_ready()
            if not events:
                return

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine that waits for nothing but futures of this loop.

        Args:
            timeout: How long it may take, in seconds; None is without limit.

        Raises:
            TimeoutError: It took longer.
        """
        alarm: Future[None] | None = None
        timer: _Timer | None = None
        if timeout is not None:
            alarm = self.create_future()
            timer = self.call_later(timeout, alarm.cancel)
        try:
            while True:
                awaited = coroutine.send(None)
                # As a task does: the next `await` may find the same future again.
                awaited._asyncio_future_blocking = False
                self._run_until_either(awaited, alarm)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            if timer is not None:
                timer.cancel()
            coroutine.close()

    def _run_until_either(self, awaited: Future[Any], alarm: Future[None] | None) -> None:
        if alarm is None:
            self.run_until(awaited)
            return
        while not awaited.done():
            if alarm.done():
                raise TimeoutError
            either: Future[None] = self.create_future()
            for future in (awaited, alarm):
                future.add_done_callback(partial(_set_done, either))
            self.run_until(either)

    def _handle(self, events: list[tuple[int, int]]) -> None:
        for fd, mask in events:
            # An end or an error shows itself to whoever reads or writes.
            if mask != _OUT and (reader := self._readers.get(fd)):
                reader()
            if mask != _IN and (writer := self._writers.get(fd)):
                writer()
        timers = self._timers
        while timers and timers[0].when <= time.monotonic():
            heapq.heappop(timers).callback()

    def _poll_anew(self, milliseconds: int | None) -> list[tuple[int, int]]:
        poll = select.poll()
        for fd in {*self._readers, *self._writers}:
            poll.register(fd, self._mask(fd))
        return poll.poll(milliseconds)

    def _until_next_timer(self) -> int:
        # Whole milliseconds, never too few: poll would return for nothing.
        seconds = self._timers[0].when - time.monotonic()
        return max(0, int(min(seconds * 1000, _LONGEST - 1)) + 1)

    # --- what links and clients ask of a loop ------------------------------------------

    def time(self) -> float:
        """Return the time by which timers go, in seconds."""
        return time.monotonic()

    def is_running(self) -> bool:
        """Return True: whoever uses it turns it."""
        return True

    def is_closed(self) -> bool:
        """Return whether its thread has ended."""
        return self._closed

    def close(self) -> None:
        """Let nobody use it any more."""
        self._closed = True

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> None:
        """Call back at the next turn."""
        self.ready.append((context, callback, args))

    def call_soon_threadsafe(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> None:
        """Call back when the thread turns the loop the next time; this does not wake it."""
        self.ready.append((context, callback, args))

    def call_later(
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> _Timer:
        """Call back after `delay` seconds."""
        timer = _Timer(self._timers, time.monotonic() + delay, partial(callback, *args))
        heapq.heappush(self._timers, timer)
        return timer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Say nothing: what nobody retrieves here is the outcome of an interrupted call."""

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """Call back whenever `fd` can be read."""
        self._readers[fd] = partial(callback, *args) if args else callback
        self._watch(fd)

    def remove_reader(self, fd: int) -> bool:
        """Look no more whether `fd` can be read."""
        found = self._readers.pop(fd, None)
        self._watch(fd)
        return found is not None

    def add_writer(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """Call back whenever `fd` can be written."""
        self._writers[fd] = partial(callback, *args) if args else callback
        self._watch(fd)

    def remove_writer(self, fd: int) -> bool:
        """Look no more whether `fd` can be written."""
        found = self._writers.pop(fd, None)
        self._watch(fd)
        return found is not None

    def _watch(self, fd: int) -> None:
        if mask := self._mask(fd):
            self._poll.register(fd, mask)
        else:
            try:
                self._poll.unregister(fd)
            except KeyError:
                pass

    def _mask(self, fd: int) -> int:
        return (_IN if fd in self._readers else 0) | (_OUT if fd in self._writers else 0)


class _Timer:
    """A callback that waits for its time."""

    __slots__ = ("_timers", "callback", "when")

    def __init__(self, timers: list[_Timer], when: float, callback: Callable[[], Any]) -> None:
        self._timers = timers
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        """Do not call back."""
        if self in self._timers:
            self._timers.remove(self)
            heapq.heapify(self._timers)

    def __lt__(self, other: _Timer) -> bool:
        return self.when < other.when


def _set_done(either: Future[None], _: Future[Any]) -> None:
    if not either.done():
        either.set_result(None)
