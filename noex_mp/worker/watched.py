"""The mailbox of a server with a `hang_timeout`: it writes down since when the server works.

What other mailboxes write is for the report of an end, and one time may stand for many messages in
a row. Here each has its own, also what no client has sent, in the own cell of the server (see
`core.black_box`), where the root looks for it. That costs such a server some 0.2 µs for each
message, and others nothing.

The root asks by a signal what a worker does in which a handler takes too long. The `Witness`
answers from Python code. That alone does not say that the handler is in Python: some functions in
C, such as those of `re`, let signals be handled. So it also says when the next instruction runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from types import FrameType
from typing import Any, Final

from typing_extensions import override

from noex_mp.core.black_box import TEXT_SIZE
from noex_mp.transport.platform import WITNESS_SIGNAL
from noex_mp.wire.envelopes import callback_name
from noex_mp.worker.activation import Activation, inline
from noex_mp.worker.begun import AT_OPERATION, AT_RAN, AT_SIZE
from noex_mp.worker.bootstrap import Boot
from noex_mp.worker.mailbox import Mailbox
from noex_mp.worker.queued import Awaited, Target, callback_of
from noex_mp.worker.suspended import Suspended, frames_of

__all__ = ["WatchedMailbox", "Witness"]


# What stands in a message where its operation does.
_CAN_RUN: Final = frozenset((str, Awaited))


class WatchedMailbox(Mailbox):
    """A server's queue and loop, with the time at which each message and callback begins.

    Attributes:
        own: The place of the server's own cell.
    """

    __slots__ = ("own",)

    def __init__(self, *args: Any, own: int) -> None:
        super().__init__(*args)
        self.own = own

    def _begins(self, callback: str) -> None:
        self._cells[self.own + AT_OPERATION] = self._host.record.number(callback)
        # Last: from here on it counts.
        self._times[self.own] = monotonic()

    @override
    def bind(self, name: str) -> Callable[..., Any] | None:
        function = super().bind(name)
        if function is None:
            return None
        timed = self.inline[name] = self._timed(function, name)
        return timed

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        cells, times, own = self._cells, self._times, self.own
        number = self._host.record.number(name)

        def begin(*args: Any, **kwargs: Any) -> Any:
            cells[own + AT_OPERATION] = number
            times[own] = monotonic()
            try:
                result = function(*args, **kwargs)
            except BaseException:
                # Not what they were before: the process may be one that the handler has forked.
                self._times[own] = 0.0
                raise
            if result.__class__ is not Suspended:
                self._times[own] = 0.0
            return result

        return begin

    @override
    def _begin(self, target: Target, frame: list[Any]) -> Any:
        # Nothing runs for an ASK, nor for what could not be decoded. And if something has begun
        # before, its task goes on with that.
        if frame[3].__class__ in _CAN_RUN and not self._times[self.own]:
            self._begins(callback_of(frame))
        promise = super()._begin(target, frame)
        if promise is None:
            self._times[self.own] = 0.0
        return promise

    @override
    def _begin_own(self, name: str) -> Activation:
        # Before the `init` has returned, which has a limit of its own, nobody looks.
        self._begins(callback_name(name, is_call=False))
        return super()._begin_own(name)

    @override
    def is_over(self, began: Activation | None) -> None:
        super().is_over(began)
        self._times[self.own] = 0.0

    # --- the root asks ------------------------------------------------------------------

    def testify(self, *, is_loop_idle: bool) -> str:
        """Say in the own cell what the server does; return where it waits, if it does."""
        is_waiting = is_loop_idle and bool(self._times[self.own])
        self._cells[self.own + AT_SIZE] = is_waiting
        self._cells[self.own] += 1
        if not is_waiting or self.task is None:
            return ""
        lines = [f'  File "{file}", line {line} in {name}' for file, line, name in self._frames()]
        return "\n".join([f"Task of {self.name} (most recent call first):", *reversed(lines)])

    def goes_on(self) -> None:
        """Say in the own cell that another instruction of Python has run."""
        self._cells[self.own + AT_RAN] += 1

    def _frames(self) -> Iterator[tuple[str, int, str]]:
        assert self.task is not None
        for frame in frames_of(self.task.get_coro()):
            if frame.f_code is not Mailbox.run.__code__:
                yield frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name


class Witness:
    """Answers the root when it asks what the process does.

    Args:
        loop: The worker's event loop.
        boot: Where the black box is.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, boot: Boot) -> None:
        self._loop = loop
        self._fd, self._offset = boot.black_box_fd, boot.black_box_offset
        self._watched: set[WatchedMailbox] = set()
        # What it has interrupted, and how that was traced.
        self._traced: tuple[FrameType, Any, bool, Any] | None = None

    def add(self, mailbox: WatchedMailbox) -> None:
        """Answer for a server from now on."""
        if not self._watched and WITNESS_SIGNAL is not None:
            signal.signal(WITNESS_SIGNAL, self._asked)
        self._watched.add(mailbox)

    def remove(self, mailbox: WatchedMailbox) -> None:
        """Answer no more for a server."""
        self._watched.discard(mailbox)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        is_loop_idle = asyncio.current_task(self._loop) is None and inline.target is None
        texts = [mailbox.testify(is_loop_idle=is_loop_idle) for mailbox in self._watched]
        if any(texts):
            self._write("\n".join(filter(None, texts)))
        if frame is not None and not is_loop_idle:
            # Last, since it meets our own code as well. Should it end in time after all, whoever
            # traces it otherwise goes on with that.
            if self._traced is None:
                self._traced = frame, frame.f_trace, frame.f_trace_opcodes, sys.gettrace()
            frame.f_trace, frame.f_trace_opcodes = self._goes_on, True
            sys.settrace(self._goes_on)

    def _goes_on(self, frame: FrameType, event: str, argument: object) -> None:
        if self._traced is not None:
            asked, before, with_opcodes, trace = self._traced
            asked.f_trace, asked.f_trace_opcodes = before, with_opcodes
            self._traced = None
            sys.settrace(trace)
        for mailbox in self._watched:
            mailbox.goes_on()

    def _write(self, text: str) -> None:
        # Behind what faulthandler has written a moment ago, which has moved its own offset only.
        known = os.pread(self._fd, TEXT_SIZE, self._offset).partition(b"\0")[0]
        data = b"\n" + text.encode(errors="replace")
        os.pwrite(self._fd, data[: TEXT_SIZE - len(known)], self._offset + len(known))
