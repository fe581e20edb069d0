"""An event loop that a thread of its own turns, and on which any thread acts between its turns.

To have another thread send something takes a wake-up of that thread: as long as the message itself.
So whoever wants to send takes the `lock` and does it; the thread only waits for what comes.

```python
with loop.lock:
    route.invoke(operation, args, kwargs, None)
    loop.wake_if_needed()
```

What is done for users (their callbacks may do anything) is done outside of the lock: see `later`.
"""

from __future__ import annotations

import contextlib
import logging
import select
from asyncio import Future
from collections import deque
from collections.abc import Callable, Coroutine
from threading import RLock
from typing import Any, Final, TypeVar

from noex_mp.transport import fds
from noex_mp.transport.blocking_loop import BlockingLoop

__all__ = ["Later", "SharedLoop", "do_later"]

T = TypeVar("T")

_log: Final = logging.getLogger("noex_mp")

Later = deque[tuple[Callable[[Any], object], Any]]
"""What is to be called outside of a lock: functions, each with an argument."""


class SharedLoop(BlockingLoop):
    """The part of an event loop that links and clients need, in the hands of several threads.

    Args:
        lock: Reentrant: a signal handler may act on the loop in the midst of what its thread does.
        later: Takes what is to be called outside of the lock.

    Attributes:
        lock: Who holds it may use everything that lives on the loop.
        later: What is to be called outside of the lock.
    """

    always_turns = True

    def __init__(self, lock: RLock, later: Later) -> None:
        super().__init__()
        self.lock = lock
        self.later = later
        self._ours, self._wakes = fds.socketpair()
        self._ours.setblocking(False)
        self._wakes.setblocking(False)
        self._sleeps = False
        # The descriptor that another thread reads for now; none is -1.
        self._lent = -1
        self.add_reader(self._ours.fileno(), self._woken)

    def turn_until(self, future: Future[T]) -> T:
        """Turn the loop until a future is done, and return its result."""
        poll, lock, ready, done = self._poll.poll, self.lock, self.ready, future.done
        lock.acquire()
        try:
            while True:
                if ready:
                    self.run_ready()
                if done():
                    break
                milliseconds = self._until_next_timer() if self._timers else None
                # First this: whoever has something done without the lock looks at it.
                self._sleeps = True
                if ready:
                    milliseconds = 0
                lock.release()
                try:
                    if self.later:
                        self.do_later()
                    events = poll(milliseconds)
                finally:
                    lock.acquire()
                self._sleeps = False
                self._handle(events)
        finally:
            self._sleeps = False
            lock.release()
        self.do_later()
        return future.result()

    def wake_if_needed(self) -> None:
        """Let the thread look what is to be done; for others, with the lock."""
        if self._sleeps and (self.ready or self.later):
            self._wake()

    def lend(self, fd: int) -> None:
        """Leave it to the caller to look whether a descriptor can be read; with the lock.

        That ends with `take_back`, or when the descriptor has no reader any more.
        """
        self._lent = fd
        self._watch(fd)

    def take_back(self, fd: int) -> None:
        """Look again whether a descriptor can be read that was lent; with the lock."""
        self._lent = -1
        self._watch(fd)

    def remove_reader(self, fd: int) -> bool:
        """Look no more whether `fd` can be read."""
        if fd == self._lent:
            self._lent = -1
        return super().remove_reader(fd)

    def do_later(self) -> None:
        """Call what was to be called outside of the lock."""
        do_later(self.later)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine that waits for nothing but futures of this loop; with the lock."""
        done: Future[T] = self.create_future()
        self._step(work, done)
        return done

    def _step(self, work: Coroutine[Any, Any, T], done: Future[T]) -> None:
        try:
            awaited: Future[Any] = work.send(None)
        except StopIteration as end:
            done.set_result(end.value)
        except Exception as error:
            done.set_exception(error)
        else:
            # As a task does: the next `await` may find the same future again.
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(lambda _: self._step(work, done))

    def call_soon_threadsafe(
        self, callback: Callable[..., Any], *args: Any, **options: Any
    ) -> None:
        """Call back at the next turn, which comes now; also without the lock."""
        super().call_soon_threadsafe(callback, *args, **options)
        if self._sleeps:
            self._wake()

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, **options: Any
    ) -> Any:
        """Call back after `delay` seconds."""
        timer = super().call_later(delay, callback, *args, **options)
        if self._sleeps:
            self._wake()
        return timer

    def _watch(self, fd: int) -> None:
        super()._watch(fd)
        if self._sleeps:
            # It sleeps with the list as it was.
            self._wake()

    def _handle(self, events: list[tuple[int, int]]) -> None:
        lent = self._lent
        if lent >= 0:
            # What can be read there is another's to read, also if this was told before it was lent.
            events = [
                (fd, select.POLLOUT if fd == lent else mask)
                for fd, mask in events
                if fd != lent or mask & select.POLLOUT
            ]
        super()._handle(events)

    def _mask(self, fd: int) -> int:
        return super()._mask(fd) & (~select.POLLIN if fd == self._lent else ~0)

    def _wake(self) -> None:
        self._sleeps = False
        # Nothing is called in between: an interrupt there would leave it asleep.
        try:
            self._wakes.send(b"\0")
        except OSError:
            # It may just have been closed.
            pass

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(64)

    def close(self) -> None:
        """Let nobody use it any more."""
        super().close()
        self._ours.close()
        self._wakes.close()


def do_later(later: Later) -> None:
    """Call what was to be called outside of a lock, in its order."""
    while later:
        function, argument = later.popleft()
        try:
            function(argument)
        except KeyboardInterrupt:
            raise
        except BaseException:  # of a user's callback, which is to end nobody's tasks
            _log.exception("a callback of a future has raised")
