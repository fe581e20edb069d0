"""One server in its worker: its queue, and the loop that takes one message after the other.

The server's own task runs everything that waits. While it has nothing to do the mailbox is
`idle`, and the host runs operations right where their messages arrive, without waking the task
(see `host`): a `def` as a whole, an `async def` up to its first real wait, from where the task
goes on. Both ways end in `finish` or `failed`.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import (
    _enter_task,  # pyright: ignore[reportPrivateUsage] - documented, in "Extending asyncio"
    _leave_task,  # pyright: ignore[reportPrivateUsage]
)
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from functools import partial
from inspect import CO_COROUTINE
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from noex_mp.client.window import share
from noex_mp.core import gen_server
from noex_mp.core.gen_server import From, GenServer
from noex_mp.core.messages import Down, Exit, Monitor, Timeout
from noex_mp.core.outcomes import OUTCOMES, Continue, Ignore, NoReply, Reply, Stop, TimeoutAfter
from noex_mp.core.reasons import Crash, Exited, ExitReason
from noex_mp.core.ref import Address
from noex_mp.errors import CallCycleError, MailboxFullError, UnknownOperationError
from noex_mp.transport.link import Link
from noex_mp.wire.classes import readable
from noex_mp.wire.codec import BIG, pack_plain
from noex_mp.wire.envelopes import (
    ASK,
    CALL,
    CALL_KW,
    CALLBACK,
    CAST,
    CAST_KW,
    ERROR,
    GRANT,
    INFO,
    REPLY,
    TIE,
    TRAP,
    UNTIE,
    callback_name,
)
from noex_mp.wire.values import shortened
from noex_mp.worker.activation import Activation, activation, inline
from noex_mp.worker.begun import AT_OPERATION, AT_RECEIVED, AT_SIZE, AT_SIZED
from noex_mp.worker.cycles import ASK_AGAIN, FIRST_LOOK, Onward, Victim, follow
from noex_mp.worker.suspended import GoOn, Suspended
from noex_mp.worker.weighed_queue import WeighedQueue

if TYPE_CHECKING:
    from noex_mp.worker.host import Host

__all__ = ["ODD_RESULTS", "Mailbox", "Target"]

# The task lets the loop run, and replies leave, after so much time without a real wait.
SECONDS_PER_TURN: Final = 200e-6

DROP_OLDEST: Final = "drop_oldest"

_CALLS: Final = frozenset((CALL, CALL_KW))
# Those who call handlers; the last one stands between for tests that ask for faults.
_CALLERS: Final = frozenset((__name__, "noex_mp.worker.host", "noex_mp.testing.faults"))
_BYTES: Final = frozenset((bytes, bytearray, memoryview))


class Target:
    """Where the messages of one link to one server go.

    Attributes:
        mailbox: The server's.
        link: Where replies go.
        cell: The place of the started cell: the number of the last message begun.
        is_server: Whether a server sends them, and not a program.
        handler: What the name stands for that the root would find.
        measured: A message that had to wait, and whose size is known ...
        size: ... in bytes.
        frame: The message that was begun last where it was read.
    """

    __slots__ = ("cell", "frame", "handler", "is_server", "link", "mailbox", "measured", "size")

    def __init__(self, mailbox: Mailbox, link: Link, cell: int, *, is_server: bool) -> None:
        self.mailbox = mailbox
        self.link = link
        self.cell = cell
        self.is_server = is_server
        self.frame: list[Any] = []
        self.handler: object = None
        self.measured: list[Any] | None = None
        self.size = 0


class _Awaited(NamedTuple):
    """Stands in the queue for a message that has begun: what the task has to await for it.

    Attributes:
        promise: A coroutine that waits for something, or what an operation returned.
        activation: The message's, if no code of the promise's has run yet.
    """

    promise: Any
    activation: Activation | None


# What a server has before it needs more, shared by all.
_NO_QUEUE: Final[deque[Any]] = deque(maxlen=0)
_NOTHING: Final[dict[str, Any]] = {}
_NOBODY: Final[dict[Any, Any]] = {}

# What a server does after a callback, besides to wait.
_THEN: Final = frozenset((Continue, Stop, TimeoutAfter))

# What a handler returned besides a plain value.
ODD_RESULTS: Final = OUTCOMES | {Suspended}


class Arrival:
    """A message for `handle_info` from this process: how a timer's messages get in.

    At most one of them waits.
    """

    __slots__ = ("_mailbox", "message", "waits")

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self.message: object = None
        self.waits = False

    def __call__(self, message: object) -> bool:
        """Queue a message, unless one waits; return whether the server is still there."""
        if self._mailbox.has_ended:
            return False
        self.message = message
        if not self.waits:
            self.waits = True
            self._mailbox.put(None, self)
        return True

    def take_back(self) -> bool:
        """Let what waits come to nothing; return whether something did."""
        waited, self.waits = self.waits, False
        return waited


class Handler:
    """A bound operation, ready to be called."""

    __slots__ = ("function", "is_async", "number", "wants_sender")

    def __init__(
        self,
        function: Callable[..., Any],
        number: int,
        *,
        wants_sender: bool = False,
        is_async: bool = False,
    ) -> None:
        self.function = function
        self.number = number
        self.wants_sender = wants_sender
        self.is_async = is_async


class Mailbox:
    """A server's queue and loop.

    Ten thousand may share a worker, and most of them wait: what a server needs to handle messages
    is made at its first message, its task and queue when something has to wait.

    Attributes:
        idle: Nothing waits or runs: an operation may run at once.
        inline: The operations that may run like that, bound to the instance, by name.
        task: The server's task, or None while it has needed none.
        ready: Its `init` has returned.
        killed: Why it is ended without its `terminate`, or None.
        senders: How many links have opened the server; they share its mailbox.
        activation: What a handler works on now, if that may wait.
        evidence: What the report of its end is to say of its messages.
    """

    __slots__ = (
        "_bounds",
        "_cells",
        "_context",
        "_encoder",
        "_ending",
        "_expected",
        "_handlers",
        "_host",
        "_init_promise",
        "_is_stopping",
        "_look_after",
        "_looking",
        "_loop",
        "_parked",
        "_timeout",
        "_times",
        "_traps",
        "_wake",
        "activation",
        "evidence",
        "idle",
        "incarnation",
        "inline",
        "killed",
        "queue",
        "ready",
        "senders",
        "server",
        "sid",
        "task",
    )

    def __init__(
        self,
        host: Host,
        sid: int,
        incarnation: int,
        server: GenServer[Any, Any, Any],
        bounds: tuple[int, int, str],
    ) -> None:
        self.sid = sid
        self.incarnation = incarnation
        self.server = server
        self.idle = False
        self.ready = False
        self.killed: ExitReason | None = None
        self.queue: deque[tuple[Target | None, Any]] = _NO_QUEUE
        self.senders = 0
        self.activation: Activation | None = None
        self._bounds = bounds
        self._looking: asyncio.TimerHandle | None = None
        self._look_after = FIRST_LOOK
        self._host = host
        self._cells = host.cells
        self._times = host.record.times
        self.evidence: dict[str, Any] = _NOTHING
        self._encoder = host.encoder
        self._loop = host.loop
        self._wake: asyncio.Future[None] | None = None
        self._timeout: float | None = None
        self._ending: tuple[ExitReason, BaseException | None] | None = None
        self._expected: tuple[type[BaseException], ...] = server.__expected__
        self._handlers: dict[str, Handler] = _NOTHING
        self._context: Context | None = None
        # The messages of those who have not taken the replies to the ones before.
        self._parked: dict[Target, list[Any]] = _NOBODY
        self._is_stopping = False
        self._traps = False
        self._init_promise: Any = None
        self.task: asyncio.Task[None] | None = None
        self.inline: dict[str, Callable[..., Any]] = _NOTHING

    @property
    def context(self) -> Context:
        """The context of the task, and of `init` and all async handlers."""
        if self._context is None:
            self._context = copy_context()
        return self._context

    def bind(self, name: str) -> Callable[..., Any] | None:
        """Return the operation of this name, if it may run inline, and keep it."""
        info = self.server.__operations__.get(name)
        if info is None or info.wants_sender or self._bounds[2] == DROP_OLDEST:
            # Of a server that drops messages, what has arrived is counted before any begins.
            return None
        record = self._host.record
        if record.with_arguments:
            # Written down where messages begin one by one.
            return None
        record.number(name)
        function: Callable[..., Any] = info.function.__get__(self.server)
        if info.is_async:
            if self.task is None or not info.function.__code__.co_flags & CO_COROUTINE:
                # It runs in the name of a task, which has to be there, and waiting.
                return None
            function = self._up_to_its_first_wait(function)
        if not self.inline:
            self.inline = {}
        self.inline[name] = function
        return function

    def _handler(self, kind: int, name: str) -> Handler | None:
        found = self._handlers.get(name)
        if found is None:
            info = self.server.__operations__.get(name)
            if info is None:
                return self._callback(kind, name)
            found = Handler(
                info.function.__get__(self.server),
                self._host.record.number(name),
                wants_sender=info.wants_sender,
                is_async=info.is_async,
            )
            if not self._handlers:
                self._handlers = {}
            self._handlers[name] = found
        return found

    def _need_task(self) -> None:
        if self.task is None:
            max_messages, max_bytes, when_full = self._bounds
            drops = when_full == DROP_OLDEST
            self.queue = WeighedQueue(max_messages, max_bytes) if drops else deque()
            self.task = self._host.task_for(self)

    def start(self) -> None:
        """Run the server's `init`, here if it does not wait, and tell the host what came of it."""
        if type(self.server).init is GenServer.init:
            self._started(None)
            return
        began = self.activation = Activation(self, None, [CAST, self.sid, 0, "init"])
        try:
            outcome = self.context.run(_call_as, began, self.server.init)
        except BaseException as error:
            self._is_over(began)
            self._host.not_ready(self, error)
            return
        self._is_over(began)
        if hasattr(outcome, "__await__"):
            self._init_promise = outcome
            self._need_task()
        else:
            self._started(outcome)

    def _started(self, outcome: Any) -> bool:
        if isinstance(outcome, Ignore | Stop):
            self._host.not_ready(self, outcome)
            return False
        if outcome is not None and outcome.__class__ not in _THEN:
            self._host.not_ready(self, _wrong_outcome("init", outcome))
            return False
        self.idle = self._init_promise is None
        self._then(outcome, "init")
        self._host.ready(self)
        return True

    def _up_to_its_first_wait(
        self, operation: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Any]:
        """Return a function that begins an `async` operation in the name of the server's task.

        Most come to their end without a wait, and never need the task: to wake it costs a turn
        of the loop. (Python 3.12 has eager tasks for this; a task for each message would cost
        more.)
        """
        loop, run_in_context = self._loop, self.context.run

        def begin(*args: Any, **kwargs: Any) -> Any:
            coroutine = operation(*args, **kwargs)
            # It waits for messages, so it is there.
            task: Any = self.task
            target = inline.target
            assert target is not None
            began = self.activation = Activation(self, target, target.frame)
            _enter_task(loop, task)
            try:
                waits_for = run_in_context(_begin_as, began, coroutine)
            except StopIteration as end:
                began.active = False
                self.activation = None
                return end.value
            except BaseException:
                self._is_over(began)
                raise
            else:
                return Suspended(coroutine, waits_for)
            finally:
                _leave_task(loop, task)

        return begin

    def _is_over(self, began: Activation | None) -> None:
        if began is not None:
            began.active = False
            if self.activation is began:
                self.activation = None

    # --- the server's task -------------------------------------------------------------

    async def run(self) -> None:
        """Serve the server until it ends, and say how it ended."""
        if self._init_promise is not None and not await self._init():
            return
        queue = self.queue
        turn_ends = 0.0
        while self._ending is None:
            if not queue:
                if self._timeout is not None:
                    await self._wait_for_a_while(self._timeout)
                else:
                    self._wake = self._loop.create_future()
                    self.idle = not self._parked
                    try:
                        await self._wake
                    except asyncio.CancelledError:
                        if not self._cancel_the_begun():
                            raise
                turn_ends = perf_counter() + SECONDS_PER_TURN
                continue
            target, item = queue.popleft()
            if target is None:
                await self._system(item)
                continue
            if (target.link.backlog or target in self._parked) and self._parks(target, item):
                continue
            promise = self._begin(target, item)
            if promise is not None:
                began = self.activation
                try:
                    result = await promise
                except BaseException as error:
                    self._is_over(began)
                    if not self._was_cancelled(began, error):
                        self.failed(target, item, error, is_of_the_call=False)
                else:
                    self._is_over(began)
                    self.finish(target, item, result)
                self._times[target.cell] = 0.0
                self._forget_cancel()
            if queue and perf_counter() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = perf_counter() + SECONDS_PER_TURN
        await self._end(*self._ending)

    # --- messages of whoever does not read ---------------------------------------------------

    def _parks(self, target: Target, item: Any) -> bool:
        """Put a message aside until its link has taken the replies before it; say whether so.

        If it ended the process, those would be lost. Others do not wait for it.
        """
        if self._is_stopping or _has_begun(item):
            return False
        if not self._parked:
            self._parked = {}
        if target not in self._parked:
            self._parked[target] = []
            self._unpark_when_drained(target)
        self._parked[target].append(item)
        return True

    def _unpark_when_drained(self, target: Target) -> None:
        drained = target.link.wait_until_drained(0)
        drained.add_done_callback(lambda _: self._drained(target))

    def _drained(self, target: Target) -> None:
        if target not in self._parked:
            return
        if target.link.backlog:
            self._unpark_when_drained(target)
            return
        self.queue.extendleft((target, item) for item in reversed(self._parked.pop(target)))
        self.wake()

    def _unpark_all(self) -> None:
        for target, items in self._parked.items():
            self.queue.extend((target, item) for item in items)
        self._parked = _NOBODY

    async def _init(self) -> bool:
        began = self._begin_own("init")
        try:
            outcome = await self._init_promise
        except BaseException as error:
            self._host.not_ready(self, error)
            return False
        finally:
            self._is_over(began)
        return self._started(outcome)

    def _cancel_the_begun(self) -> bool:
        if self.killed is not None:
            return False
        # An operation that was begun in the name of this task has cancelled it, and means itself.
        if not self.queue or self.queue[0][0] is None or not _has_begun(self.queue[0][1]):
            return False
        promise = self.queue[0][1][3].promise
        if isinstance(promise, GoOn):
            promise.cancelled = True
        return isinstance(promise, GoOn)

    async def _wait_for_a_while(self, seconds: float) -> None:
        self._wake = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._time_is_up)
        await self._wake
        timer.cancel()

    def _time_is_up(self) -> None:
        # Only if nothing has come; a message of this very moment calls it off too.
        if not self.queue:
            self.put(None, Timeout())

    def put(self, target: Target | None, item: Any) -> None:
        """Queue a message of a link, or (without a target) something of our own."""
        if self.task is None:
            self._need_task()
        self.queue.append((target, item))
        if target is not None:
            self._cells[target.cell + AT_RECEIVED] = item[2]
        if self.activation is not None and target is not None and target.is_server:
            self.suspect()
        if self._bounds[2] == DROP_OLDEST:
            self._keep_bounds()
        self.wake()

    def _keep_bounds(self) -> None:
        queue = self.queue
        while isinstance(queue, WeighedQueue) and queue.is_over:
            oldest = queue.oldest()
            if oldest is None:
                return
            place, target, frame = oldest
            del queue[place]
            self._drop(target, frame)

    def _drop(self, target: Target, frame: list[Any]) -> None:
        # For its sender it is as if it had begun: it is not lost once more at a death.
        self._cells[target.cell] = frame[2]
        self._host.count_dropped(self.sid)
        if frame[0] in _CALLS:
            max_messages, max_bytes, _ = self._bounds
            name = self.server.__class__.__qualname__
            error = MailboxFullError(name, len(self.queue), max_messages, max_bytes)
            self.refuse(target, frame, error)

    def abandon(self) -> None:
        """Leave all messages to the process that this one was forked from."""
        self.queue.clear()
        self._parked = _NOBODY

    def drop(self, target: Target) -> None:
        """Drop the messages of a link that have not begun."""
        if target in self._parked:
            del self._parked[target]
        for place, (sender, item) in reversed(list(enumerate(self.queue))):
            if sender is target and not _has_begun(item):
                del self.queue[place]

    def kill(self, reason: ExitReason) -> None:
        """End the server without its `terminate`; what it awaits is cancelled."""
        self.killed = reason
        self._ending = (reason, None)
        if self.task is None:
            self._host.ended(self, reason, None)
        else:
            self.queue.clear()
            self.task.cancel()

    # --- monitors and links: see `client.monitors` -------------------------------------------

    def hear(self, messages: Sequence[Down | Exit]) -> None:
        """Queue the news of an end, behind what the ended server had sent."""
        if not self.has_ended:
            self._host.put_behind_all(self, messages)

    def unhear(self, monitor: Monitor) -> bool:
        """Drop the `Down` of a monitor that waits; return whether there was one."""
        for place, (target, item) in enumerate(self.queue):
            if target is None and isinstance(item, Down) and item.monitor == monitor:
                del self.queue[place]
                return True
        return False

    def node_down(self) -> None:
        """Nothing more comes; the process ends in a moment."""

    def link(self, other: Address) -> None:
        """Share the end of another."""
        self._host.tell_root([TIE, self.sid, self.incarnation, other.sid or other.name])

    def unlink(self, other: Address) -> None:
        """Undo that."""
        self._host.tell_root([UNTIE, self.sid, self.incarnation, other.sid or other.name])

    def trap_exits(self, on: bool) -> bool:
        """Let exit signals come as messages, or not; return what was set before."""
        before, self._traps = self._traps, on
        if on != before:
            self._host.tell_root([TRAP, self.sid, self.incarnation, on])
        return before

    # --- what clients say about their messages -----------------------------------------------

    def asked(self, target: Target, frame: list[Any]) -> None:
        """Take an ASK: it is answered when the messages ahead of it are off the list."""
        if self._bounds[2] == DROP_OLDEST:
            # At once: what comes takes the place of what waits.
            self._grant(target, frame)
            self._weigh(target, frame[3])
        elif self.queue:
            self.queue.append((target, frame))
        else:
            self._grant(target, frame)

    def _grant(self, target: Target, frame: list[Any]) -> None:
        max_messages, max_bytes, _ = self._bounds
        window = share(max_messages, max_bytes, max(1, self.senders))
        grant = [GRANT, self.sid, frame[2], *window, self._cells[target.cell]]
        target.link.out.append(pack_plain(grant))
        target.link.flush_soon()

    def _weigh(self, target: Target, size: int) -> None:
        if size and isinstance(self.queue, WeighedQueue):
            self.queue.weigh(target, size)
            self._keep_bounds()

    def cancel(self, target: Target, seq: int) -> None:
        """Take a CANCEL: drop the call, or tell its handler."""
        running = self.activation
        if running is not None and running.is_of(target, seq):
            running.is_cancelled = True
            is_current = asyncio.current_task() is self.task
            if self.task is not None and not is_current and not self._is_yet_to_await(running):
                self.task.cancel()
            return
        for place, (sender, frame) in enumerate(self.queue):
            if sender is target and frame[2] == seq and _is_waiting_call(frame):
                del self.queue[place]
                return
        if target in self._parked:
            parked = self._parked[target]
            parked[:] = [f for f in parked if f[2] != seq or not _is_waiting_call(f)]
        inline.cancel(target, seq)

    def _is_yet_to_await(self, running: Activation) -> bool:
        if not self.queue:
            return False
        target, item = self.queue[0]
        return target is not None and _has_begun(item) and item[3].activation is running

    def _was_cancelled(self, began: Activation | None, error: BaseException) -> bool:
        return (
            began is not None and began.is_cancelled and isinstance(error, asyncio.CancelledError)
        )

    def _forget_cancel(self) -> None:
        # The task goes on with other messages: what was asked of one is not meant for the next.
        task = self.task
        while task is not None and task.cancelling():
            task.uncancel()

    # --- circles of calls: see `cycles` ------------------------------------------------------

    def suspect(self) -> None:
        """Look in a moment whether the server is part of a circle, and now and then after that."""
        if self._looking is not None:
            if self._look_after == FIRST_LOOK:
                return
            # This may be the one that closes a circle.
            self._looking.cancel()
        self._look_in(FIRST_LOOK)

    def _look_in(self, seconds: float) -> None:
        self._look_after = seconds
        self._looking = self._loop.call_later(seconds, self._look_for_a_circle)

    def _look_for_a_circle(self) -> None:
        self._looking = None
        if self.activation is not None:
            self._send_probes([])
            self._look_in(min(2 * self._look_after, ASK_AGAIN))

    def _send_probes(self, path: list[Any]) -> None:
        running, task = self.activation, self.task
        if running is None or task is None:
            return
        calls = running.waits_for(task)
        if not calls:
            return
        name = self.server.__class__.__qualname__
        decision = follow(path, [self.sid, name, running.number])
        alone = Victim(self.sid, (name, name))
        for future, route, seq in calls:
            found = alone if route.sid == self.sid else decision
            if isinstance(found, Onward):
                route.probe(seq, found.path)
            elif route.sid == found.next_sid and not route.overdraw(seq) and not future.done():
                future.set_exception(CallCycleError(found.names))

    def probed(self, target: Target, seq: int, path: list[Any]) -> None:
        """Take a PROBE: a server waits for this message. Whom does this one wait for?"""
        running = self.activation
        works_on_it = running is not None and running.is_of(target, seq)
        if works_on_it or seq > self._cells[target.cell]:
            self._send_probes(path)

    def wake(self) -> None:
        """Let the task look at the queue; until then nothing runs inline."""
        self.idle = False
        if self.task is None:
            self._need_task()
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _begin(self, target: Target, frame: list[Any]) -> Any:
        """Run a message; return what has to be awaited for its result, or None if it is done."""
        kind = frame[0]
        if kind == ASK:
            self._grant(target, frame)
            return None
        name = frame[3]
        if name.__class__ is not str:
            return self._begin_odd(target, frame)
        now = monotonic()
        if kind in _CALLS and frame[4] < now:
            # Nobody waits for it any more.
            return None
        handler = self._handler(kind, name)
        if handler is None:
            self.unknown(target, frame)
            return None
        args, kwargs = _arguments(frame)
        if handler.wants_sender:
            # An operation takes its sender first, `handle_call` after the request.
            args.insert(1 if name == CALLBACK else 0, self._sender(target, frame[2]))
        cells, cell = self._cells, target.cell
        cells[cell] = frame[2]
        if target.measured is frame:
            cells[cell + AT_SIZE], cells[cell + AT_SIZED] = target.size, frame[2]
        self._times[cell] = now
        if target.handler is not handler:
            target.handler = handler
            cells[cell + AT_OPERATION] = handler.number
        if self._host.record.with_arguments:
            self._host.record.note_arguments(self.sid, frame)
        began = self.activation = Activation(self, target, frame)
        activation.set(began)
        timeout, self._timeout = self._timeout, None
        try:
            # In this frame, so that a caller's wrong arguments can be told from a crash.
            result = handler.function(*args, **kwargs)
        except BaseException as error:
            self._is_over(began)
            if _is_callers_mistake(error):
                # No code of the server's has run, that could ask for it again.
                self._timeout = timeout
            self.failed(target, frame, error)
            self._times[cell] = 0.0
            return None
        if handler.is_async or hasattr(result, "__await__"):
            return result
        self._is_over(began)
        self.finish(target, frame, result)
        self._times[cell] = 0.0
        return None

    def _begin_odd(self, target: Target, frame: list[Any]) -> Any:
        what = frame[3]
        if isinstance(what, _Awaited):
            began = what.activation
            if began is None:
                return what.promise
            activation.set(began)
            if not began.is_cancelled:
                return what.promise
            _discard(what.promise)
            self._is_over(began)
            self._times[target.cell] = 0.0
            return None
        # The host could not decode it; its turn to be refused has come.
        self._cells[target.cell] = frame[2]
        self.refuse(target, frame, what)
        return None

    @property
    def has_ended(self) -> bool:
        """Whether it takes no more messages."""
        return self._ending is not None

    async def _system(self, item: Any) -> None:
        if isinstance(item, Arrival):
            if not item.waits:
                return
            item.waits = False
            item = item.message
        self._timeout = None
        if isinstance(item, Stop):
            self._stop(item)
            return
        continues = isinstance(item, Continue)
        began = self._begin_own("handle_continue" if continues else INFO)
        try:
            if continues:
                then = await _maybe_await(self.server.handle_continue(item.argument))
            else:
                then = await _maybe_await(self.server.handle_info(item))
            self._then(then, "handle_continue" if continues else "handle_info")
        except BaseException as error:
            self._host.leave_fork(error)
            self._crash(error)
        finally:
            self._is_over(began)

    def _begin_own(self, name: str) -> Activation:
        """Begin a callback for which there is no message of a client's."""
        began = self.activation = Activation(self, None, [CAST, self.sid, 0, name])
        activation.set(began)
        return began

    def _stop(self, item: Stop) -> None:
        self._is_stopping = True
        if not self._parked:
            self._ending = (item.reason, None)
            return
        # What was sent before comes first.
        self._unpark_all()
        self.queue.append((None, item))

    # --- after a handler ---------------------------------------------------------------

    def finish(self, target: Target, frame: list[Any], result: Any) -> None:
        """Reply with what a handler returned, and do what its outcome says."""
        is_call = frame[0] in _CALLS
        if result.__class__ not in ODD_RESULTS:
            if is_call:
                self.reply(target, frame[2], result)
            elif result is not None and _callback_of(frame) == "handle_info":
                self._then(result, "handle_info")
            return
        if result.__class__ is Reply:
            self.reply(target, frame[2], result.value)
            self._then(result.then, _callback_of(frame))
        elif isinstance(result, NoReply):
            self._then(result.then, _callback_of(frame))
        elif isinstance(result, Suspended):
            self._resume(target, frame, _Awaited(GoOn(*result), None))
        else:
            self._then(result, _callback_of(frame))

    def finish_slowly(self, target: Target, frame: list[Any], result: Any) -> None:
        """Reply with a big value, or one that msgpack refuses: perhaps it is to be awaited."""
        if hasattr(result, "__await__"):
            # What it does from here on is still this message.
            began = self.activation = Activation(self, target, frame)
            self._resume(target, frame, _Awaited(result, began))
        elif frame[0] in _CALLS:
            self.reply(target, frame[2], result)

    def _resume(self, target: Target, frame: list[Any], awaited: _Awaited) -> None:
        # Ahead of whatever waits: it has begun.
        if self.task is None:
            self._need_task()
        self.queue.appendleft((target, [*frame[:3], awaited, frame[3]]))
        self.wake()

    def reply(self, target: Target, seq: int, value: Any) -> None:
        """Send a reply; a value that cannot be sent becomes an error at the caller."""
        frame = [REPLY, self.sid, seq, value]
        try:
            if value.__class__ in _BYTES and len(value) >= BIG:
                self._send(target, frame)
                return
            encoder = self._encoder
            try:
                data = encoder.pack(frame)
            except BufferError:
                # Sent by the code of a value that is being packed.
                self._send(target, frame)
                return
            if len(data) < BIG and not encoder.buffers:
                # At once: a reply that waits would be lost if the next message kills the process.
                target.link.send(data)
            else:
                self._send(target, frame)
        except Exception as error:
            problem = self._encoder.explain_reply(value, error)
            self.refuse(target, [CALL, self.sid, seq], problem)

    def _send(self, target: Target, frame: list[Any]) -> None:
        target.link.send_chunks(self._encoder.pack_big(frame))

    def failed(
        self,
        target: Target,
        frame: list[Any],
        error: BaseException,
        *,
        is_of_the_call: bool = True,
    ) -> None:
        """Sort an exception that left a handler: the caller's mistake, expected, or a crash.

        Args:
            is_of_the_call: It may be about the arguments, and not what the handler waited for.
        """
        self._host.leave_fork(error)
        is_mistake = is_of_the_call and _is_callers_mistake(error)
        if is_mistake or isinstance(error, self._expected):
            self.refuse(target, frame, error)
            return
        if not self.evidence:
            self.evidence = self._evidence(target, frame)
        self._crash(error)

    def _evidence(self, target: Target, frame: list[Any]) -> dict[str, Any]:
        message = self._host.record.describe(self.sid, target.cell, _callback_of(frame))
        waiting = len(self.queue) + sum(map(len, self._parked.values()))
        return {"message": [target.link.state, *message], "waiting": waiting}

    def refuse(self, target: Target, frame: list[Any], error: BaseException) -> None:
        """Let the caller have an error; of a cast, which has none, the log hears."""
        if frame[0] in _CALLS:
            self._send(target, [ERROR, self.sid, frame[2], error])
        else:
            self._host.complain(self.server.__class__.__qualname__, error)

    def unknown(self, target: Target, frame: list[Any]) -> None:
        """Refuse a message for which the server has no operation and no callback."""
        name = self.server.__class__.__qualname__
        asked = f"operation {frame[3]!r}" if frame[3] != CALLBACK else "callback for this message"
        error = UnknownOperationError(name, asked, tuple(self.server.__operations__))
        self._cells[target.cell] = frame[2]
        self.refuse(target, frame, error)

    def _then(self, then: Any, callback: str) -> None:
        # Before any message that waits, as in OTP.
        if then is None:
            return
        if then.__class__ not in _THEN:
            self._crash(_wrong_outcome(callback, then))
            return
        if isinstance(then, TimeoutAfter):
            self._timeout = then.seconds
            if self.idle:
                self.wake()
            return
        if self.task is None:
            self._need_task()
        self.queue.appendleft((None, then))
        self.wake()

    def _crash(self, error: BaseException) -> None:
        if self.killed is not None:
            return
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            reason: ExitReason = Exited(code)
        else:
            reason = Crash(_type_name(error), _text(error))
        self._ending = (reason, error)
        self.wake()

    async def _end(self, reason: ExitReason, error: BaseException | None) -> None:
        began = self._begin_own("terminate")
        try:
            if self.killed is None:
                await _maybe_await(self.server.terminate(reason))
        except BaseException:
            if self.killed is None:
                self._host.complain_of_end()
        self._is_over(began)
        self._host.ended(self, self.killed or reason, error)

    def _callback(self, kind: int, name: str) -> Handler | None:
        if name == INFO and kind not in _CALLS:
            return Handler(self.server.handle_info, self._host.record.number("handle_info"))
        callback = "handle_call" if kind in _CALLS else "handle_cast"
        if name != CALLBACK or not gen_server.has_callback(type(self.server), callback):
            return None
        number = self._host.record.number(callback)
        return Handler(getattr(self.server, callback), number, wants_sender=kind in _CALLS)

    def _sender(self, target: Target, seq: int) -> From[Any]:
        return From(partial(self._reply_later, target, seq))

    def _reply_later(self, target: Target, seq: int, value: Any) -> None:
        # What outlives the server in its worker may still hold the sender.
        if target.link.targets.get(self.sid) is target:
            self.reply(target, seq, value)


def _arguments(frame: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    first = 5 if frame[0] in _CALLS else 4
    return (frame[first + 1 :], frame[first]) if frame[0] >= CAST_KW else (frame[first:], {})


def _has_begun(frame: list[Any]) -> bool:
    return frame[0] <= CALL_KW and isinstance(frame[3], _Awaited)


def _discard(promise: Any) -> None:
    """Drop what nobody is going to await, without a warning about it."""
    drop = getattr(promise, "close", None) or getattr(promise, "cancel", None)
    if drop is not None:
        drop()


def _callback_of(frame: list[Any]) -> str:
    """Return the name of what handles a message, for people."""
    # Behind an `_Awaited` stands what was there before.
    name: str = frame[4] if isinstance(frame[3], _Awaited) else frame[3]
    return callback_name(name, is_call=frame[0] in _CALLS)


def _wrong_outcome(callback: str, outcome: object) -> TypeError:
    if callback == "init":
        may = "None, Continue(...), Stop(...), TimeoutAfter(...) or Ignore()"
    elif callback in ("handle_info", "handle_continue"):
        may = "None, Continue(...), Stop(...) or TimeoutAfter(...)"
    else:
        may = (
            "a value, Reply(...) or NoReply(...), and then=Continue(...), Stop(...) or "
            "TimeoutAfter(...)"
        )
    return TypeError(f"{callback} returned {shortened(outcome)}; it may return {may}")


def _is_waiting_call(frame: list[Any]) -> bool:
    return frame[0] in _CALLS and not isinstance(frame[3], _Awaited)


def _call_as(began: Activation, callback: Callable[[], Any]) -> Any:
    activation.set(began)
    return callback()


def _begin_as(began: Activation, coroutine: Coroutine[Any, Any, Any]) -> Any:
    activation.set(began)
    return coroutine.send(None)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the class's own code may raise anything
        return "<its __str__ failed>"


def _is_callers_mistake(error: BaseException) -> bool:
    # Arguments that the handler does not take. An exception of the call itself has its last frame
    # here or in the host.
    if not isinstance(error, TypeError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"] in _CALLERS


async def _maybe_await(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


def _type_name(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return readable(f"{kind.__module__}.{kind.__qualname__}")
