"""Hands events on to whoever listens: each has a buffer of its own, and nobody is waited for.

The control plane puts an event into each listener's buffer, and goes on. A listener that is slow
loses the oldest ones; the next one that it gets says how many (`Event.missed`).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Final, TypeAlias, TypeVar
from weakref import ref

from noex_mp.client.events import Event, Listener
from noex_mp.errors import ConfigError
from noex_mp.node.output import PATIENCE, start_thread

__all__ = ["BUFFER", "BlockingEvents", "EventStream", "Listeners"]

#: So many events may wait for a listener, unless it says otherwise.
BUFFER: Final = 1000

_logger: Final = logging.getLogger("noex_mp")


class _Buffer:
    """The events that wait for one listener. One thread puts, another takes; neither waits.

    Args:
        size: How many may wait.

    Attributes:
        is_closed: There will be no further event.
    """

    def __init__(self, size: int) -> None:
        self._waiting: deque[tuple[int, Event]] = deque(maxlen=size)
        self._last_put = 0
        self._last_taken = 0
        self.is_closed = False

    @property
    def has_news(self) -> bool:
        """Whether whoever takes has something to do."""
        return bool(self._waiting) or self.is_closed

    def put(self, event: Event) -> None:
        """Append an event; the oldest makes room for it."""
        self._last_put += 1
        self._waiting.append((self._last_put, event))

    def take(self) -> Event | None:
        """Return the next event, which says how many were lost before it; None if none waits."""
        try:
            number, event = self._waiting.popleft()
        except IndexError:
            return None
        missed, self._last_taken = number - self._last_taken - 1, number
        return replace(event, missed=missed) if missed else event


class EventStream(AsyncIterator[Event]):
    """The events of a node, one after the other: `async for event in node.events()`.

    It gets what happens from the moment it was made, and ends when the node has stopped, after the
    last event. It belongs to one task; another one takes a stream of its own. Whoever leaves the
    loop and drops the stream has stopped listening.
    """

    def __init__(self, buffer: int) -> None:
        self._buffer = _Buffer(buffer)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Raises:
            RuntimeError: Another task waits for it.
        """
        if self._waiter is not None and not self._waiter.cancelled():
            raise RuntimeError(
                "another task waits for the next event of this stream\n"
                "Let each task have a stream of its own: node.events()."
            )
        while True:
            # Nothing is put after that.
            is_closed = self._buffer.is_closed
            if (event := self._buffer.take()) is not None:
                return event
            if is_closed:
                raise StopAsyncIteration
            await self._news()

    async def _news(self) -> None:
        self._loop = asyncio.get_running_loop()
        waiter = self._waiter = self._loop.create_future()
        try:
            # Something may have come before there was a waiter to be woken.
            if not self._buffer.has_news:
                await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None

    def hear(self, event: Event) -> None:
        """Take an event, in the thread of the control plane."""
        self._buffer.put(event)
        self._wake()

    def close(self) -> None:
        """End the stream, once what waits has been taken."""
        self._buffer.is_closed = True
        self._wake()

    def _wake(self) -> None:
        waiter, loop = self._waiter, self._loop
        if waiter is not None and loop is not None:
            # The loop may be closed: nobody waits there any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_set_done, waiter)


class BlockingEvents(Iterator[Event]):
    """The events of a node, for a thread without an event loop: `for event in node.events()`.

    As `EventStream`; `next` blocks until there is an event, or the node has stopped.
    """

    def __init__(self, buffer: int) -> None:
        self._buffer = _Buffer(buffer)
        self._news = threading.Event()

    def __iter__(self) -> BlockingEvents:
        return self

    def __next__(self) -> Event:
        """Return the next event."""
        while True:
            self._news.clear()
            is_closed = self._buffer.is_closed
            if (event := self._buffer.take()) is not None:
                return event
            if is_closed:
                raise StopIteration
            self._news.wait()

    def hear(self, event: Event) -> None:
        """Take an event, in the thread of the control plane."""
        self._buffer.put(event)
        self._news.set()

    def close(self) -> None:
        """End the stream, once what waits has been taken."""
        self._buffer.is_closed = True
        self._news.set()


_Stream: TypeAlias = EventStream | BlockingEvents
S = TypeVar("S", bound=_Stream)


class _Callback:
    """Calls a function with each event: in an event loop, or in the thread of all callbacks."""

    def __init__(self, function: Listener, buffer: int) -> None:
        self.function: Listener | None = function
        self._buffer = _Buffer(buffer)

    def hear(self, event: Event) -> None:
        """Take an event, in the thread of the control plane."""
        self._buffer.put(event)

    def call(self) -> None:
        """Call the function with what waits."""
        while self.function is not None and (event := self._buffer.take()) is not None:
            try:
                self.function(event)
            except Exception:
                _logger.exception("%r, which listens to events, failed", self.function)


class Listeners:
    """All who listen to one node.

    Callbacks run in the event loop that the node was started in; where there is none, in a thread.
    """

    def __init__(self) -> None:
        # Replaced, never changed: whoever puts events goes through them without a lock.
        self._streams: tuple[ref[_Stream], ...] = ()
        self._callbacks: tuple[_Callback, ...] = ()
        self._joining = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # A call of the callbacks is on its way to the loop.
        self._is_due = False
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let callbacks run in an event loop."""
        self._loop = loop

    # --- listening ---------------------------------------------------------------------

    def stream(self, buffer: int) -> EventStream:
        """Return a stream of what happens from now on.

        Raises:
            ConfigError: The buffer has no room for an event.
        """
        return self._join(EventStream(_checked(buffer)))

    def blocking(self, buffer: int) -> BlockingEvents:
        """Return a stream for a thread without an event loop.

        Raises:
            ConfigError: The buffer has no room for an event.
        """
        return self._join(BlockingEvents(_checked(buffer)))

    def _join(self, stream: S) -> S:
        with self._joining:
            # Only who reads a stream holds it: those that were dropped go.
            alive = [each for each in self._streams if each() is not None]
            self._streams = (*alive, ref(stream))
            if self._is_closed:
                stream.close()
        return stream

    def call(self, function: Listener, buffer: int) -> Callable[[], None]:
        """Call a function with what happens from now on; return what ends that.

        Raises:
            ConfigError: The buffer has no room for an event.
            TypeError: That cannot be called, or is a coroutine function.
        """
        callback = _Callback(_checked_function(function), _checked(buffer))
        with self._joining:
            self._callbacks = (*self._callbacks, callback)

        def stop_listening() -> None:
            callback.function = None
            with self._joining:
                self._callbacks = tuple(each for each in self._callbacks if each is not callback)

        return stop_listening

    # --- telling -----------------------------------------------------------------------

    @property
    def is_anybody_there(self) -> bool:
        """Whether anybody listens."""
        if not self._streams and not self._callbacks:
            return False
        return bool(self._callbacks) or any(known() is not None for known in self._streams)

    def hear(self, event: Event) -> None:
        """Hand an event on, in the thread of the control plane; this never waits."""
        for known in self._streams:
            stream = known()
            if stream is not None:
                stream.hear(event)
        callbacks = self._callbacks
        for callback in callbacks:
            callback.hear(event)
        if callbacks:
            self._call_soon()

    def _call_soon(self) -> None:
        if self._loop is None:
            self._news.set()
            if self._thread is None:
                # None starts while the interpreter ends.
                with contextlib.suppress(RuntimeError):
                    self._thread = start_thread(self._run, "noex-mp events")
        elif not self._is_due:
            self._is_due = True
            # It may be closed: then nobody is left who would be called.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        self._is_due = False
        for callback in self._callbacks:
            callback.call()

    def _run(self) -> None:
        is_closed = False
        while not is_closed:
            self._news.wait()
            self._news.clear()
            is_closed = self._is_closed
            self._call()

    def close(self) -> None:
        """End all streams, and wait for the callbacks, for a while: the node has stopped."""
        with self._joining:
            self._is_closed = True
        for known in self._streams:
            stream = known()
            if stream is not None:
                stream.close()
        self._news.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _checked(buffer: object) -> int:
    if not isinstance(buffer, int) or buffer < 1:
        raise ConfigError(
            f"expected buffer to be a number of events, 1 or more, got {buffer!r:.60}"
        )
    return buffer


def _checked_function(function: Listener) -> Listener:
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f"on_event calls a plain function, and {function!r:.60} is async\n"
            "Write async for event in node.events(), in a task of your own."
        )
    if not callable(function):
        raise TypeError(f"expected a function that takes an Event, got {function!r:.60}")
    return function
