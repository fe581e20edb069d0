"""One server in its worker: its queue, and the loop that takes one message after the other.

The server's own task runs everything that waits. While it has nothing to do the mailbox is
`idle`, and the receiver runs operations right where their messages arrive, without waking the task
(see `receiver`): a `def` as a whole, an `async def` up to its first real wait, from where the task
goes on. Both ways end in `finish` or `failed`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from inspect import CO_COROUTINE
from math import inf
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final

from noex_mp.client.window import share
from noex_mp.core.gen_server import GenServer
from noex_mp.core.messages import Timeout
from noex_mp.core.outcomes import Continue, Ignore, NoReply, Reply, Stop, TimeoutAfter
from noex_mp.core.reasons import ExitReason
from noex_mp.errors import MailboxFullError, UnknownOperationError
from noex_mp.wire.codec import BIG, pack_plain
from noex_mp.wire.envelopes import (
    ASK,
    CALL,
    CALLBACK,
    CAST,
    ERROR,
    GRANT,
    INFO,
    REPLY,
)
from noex_mp.worker.activation import Activation, activation, inline
from noex_mp.worker.begun import AT_OPERATION, AT_RECEIVED, AT_SIZE
from noex_mp.worker.handlers import Handler, find_callback, find_operation
from noex_mp.worker.parked import Parked
from noex_mp.worker.probing import Probing
from noex_mp.worker.queued import (
    CALLS,
    Arrival,
    Awaited,
    Target,
    arguments_of,
    callback_of,
    has_begun,
    is_waiting_call,
)
from noex_mp.worker.results import (
    ODD_RESULTS,
    THEN,
    is_callers_mistake,
    reason_of,
    wrong_outcome,
)
from noex_mp.worker.sender import Sender
from noex_mp.worker.suspended import GoOn, Suspended, up_to_its_first_wait
from noex_mp.worker.watching import WatchingServer
from noex_mp.worker.weighed_queue import WeighedQueue

if TYPE_CHECKING:
    from noex_mp.worker.host import Host

__all__ = ["Mailbox"]

# The task lets the loop run, and replies leave, after so much time without a real wait.
SECONDS_PER_TURN: Final = 200e-6

DROP_OLDEST: Final = "drop_oldest"

_BYTES: Final = frozenset((bytes, bytearray, memoryview))

# What a server has before it needs more, shared by all.
_NO_QUEUE: Final[deque[Any]] = deque(maxlen=0)
_NOTHING: Final[dict[str, Any]] = {}
_NOBODY: Final[dict[Any, Any]] = {}


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
        "_late",
        "_loop",
        "_parked",
        "_probing",
        "_timeout",
        "_times",
        "_wake",
        "_watching",
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
        self._probing: Probing | None = None
        self._host = host
        self._cells = host.record.cells
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
        self._watching: WatchingServer | None = None
        self._init_promise: Any = None
        # Who is told that a call is cancelled to which nobody has replied yet.
        self._late: dict[tuple[Target, int], Callable[[], object]] = _NOBODY
        self.task: asyncio.Task[None] | None = None
        self.inline: dict[str, Callable[..., Any]] = _NOTHING

    @property
    def name(self) -> str:
        """What people call the server: its class, mostly."""
        return self.server.ref.label

    @property
    def context(self) -> Context:
        """The context of the task, and of `init` and all async handlers."""
        if self._context is None:
            self._context = copy_context()
        return self._context

    def steps(self, seq: int) -> memoryview:
        """Return where the handler of a message says how many steps of it have begun."""
        return self._host.record.steps(self.sid, seq)

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
            function = up_to_its_first_wait(self, self._loop, function)
        if not self.inline:
            self.inline = {}
        self.inline[name] = function
        return function

    def _handler(self, kind: int, name: str) -> Handler | None:
        found = self._handlers.get(name)
        if found is None:
            record = self._host.record
            found = find_operation(self.server, record, name)
            if found is None:
                return find_callback(self.server, record, kind, name)
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
            self.is_over(began)
            self._host.not_ready(self, error)
            return
        self.is_over(began)
        if hasattr(outcome, "__await__"):
            self._init_promise = outcome
            self._need_task()
        else:
            self._started(outcome)

    def _started(self, outcome: Any) -> bool:
        if isinstance(outcome, Ignore | Stop):
            self._host.not_ready(self, outcome)
            return False
        if outcome is not None and outcome.__class__ not in THEN:
            self._host.not_ready(self, wrong_outcome("init", outcome))
            return False
        self.idle = self._init_promise is None
        self._then(outcome, "init")
        self._host.ready(self)
        return True

    def is_over(self, began: Activation | None) -> None:
        """Note that a handler has come to its end."""
        if began is not None:
            began.active = False
            if self.activation is began:
                self.activation = None

    def let_go(self) -> None:
        """Forget the last message, if it has been handled."""
        if self.activation is None:
            self.context.run(activation.set, None)

    # --- the server's task -------------------------------------------------------------

    async def run(self) -> None:
        """Serve the server until it ends, and say how it ended."""
        if self._init_promise is not None and not await self._init():
            return
        queue = self.queue
        turn_ends = 0.0
        while self._ending is None:
            if not queue:
                # Else the last message would stay, with all that it holds, until the next comes.
                target = item = promise = began = result = None
                activation.set(None)
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
                    self.is_over(began)
                    if not self._was_cancelled(began, error):
                        self.failed(target, item, error, is_of_the_call=False)
                else:
                    self.is_over(began)
                    self.finish(target, item, result)
                self._times[target.cell] = 0.0
                self._forget_cancel()
            if queue and perf_counter() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = perf_counter() + SECONDS_PER_TURN
        await self._end(*self._ending)

    def _parks(self, target: Target, item: Any) -> bool:
        """Put a message aside until its link has taken the replies before it; say whether so."""
        if self._is_stopping or has_begun(item):
            return False
        if not isinstance(self._parked, Parked):
            self._parked = Parked(self._unpark)
        self._parked.park(target, item)
        return True

    def _unpark(self, target: Target, items: list[Any]) -> None:
        self.queue.extendleft((target, item) for item in reversed(items))
        self.wake()

    async def _init(self) -> bool:
        began = self._begin_own("init")
        try:
            outcome = await self._init_promise
        except BaseException as error:
            self._host.not_ready(self, error)
            return False
        finally:
            self.is_over(began)
        return self._started(outcome)

    def _cancel_the_begun(self) -> bool:
        if self.killed is not None:
            return False
        # An operation that was begun in the name of this task has cancelled it, and means itself.
        if not self.queue or self.queue[0][0] is None or not has_begun(self.queue[0][1]):
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
        if isinstance(self.queue, WeighedQueue):
            for target, frame in self.queue.drop_excess():
                self._drop(target, frame)

    def _drop(self, target: Target, frame: list[Any]) -> None:
        # For its sender it is as if it had begun: it is not lost once more at a death.
        self._cells[target.cell] = frame[2]
        self._host.count_dropped(self.sid)
        if frame[0] in CALLS:
            max_messages, max_bytes, _ = self._bounds
            error = MailboxFullError(self.name, len(self.queue), max_messages, max_bytes)
            self.refuse(target, frame, error)

    def abandon(self) -> None:
        """Leave all messages to the process that this one was forked from."""
        self.queue.clear()
        self._parked.clear()
        self._cells, self._times = self._host.record.cells, self._host.record.times

    def drop(self, target: Target) -> None:
        """Drop the messages of a link that have not begun."""
        self._parked.pop(target, None)
        self.caller_is_gone(target)
        for place, (sender, item) in reversed(list(enumerate(self.queue))):
            if sender is target and not has_begun(item):
                del self.queue[place]

    def caller_is_gone(self, target: Target) -> None:
        """Note that nobody waits for the replies to a link's calls which come later."""
        for key in [key for key in self._late if key[0] is target]:
            self._late.pop(key)()

    def kill(self, reason: ExitReason) -> None:
        """End the server without its `terminate`; what it awaits is cancelled."""
        self.killed = reason
        self._ending = (reason, None)
        if self.task is None:
            self._host.ended(self, reason, None)
        else:
            self.queue.clear()
            self.task.cancel()

    @property
    def watching(self) -> WatchingServer:
        """What hears of others for the server; made when it first asks for that."""
        if self._watching is None:
            self._watching = WatchingServer(self, self._host)
        return self._watching

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
            is_current = asyncio.current_task(self._loop) is self.task
            if self.task is not None and not is_current and not self._is_yet_to_await(running):
                self.task.cancel()
            return
        for place, (sender, frame) in enumerate(self.queue):
            if sender is target and frame[2] == seq and is_waiting_call(frame):
                del self.queue[place]
                return
        if isinstance(self._parked, Parked):
            self._parked.cancel(target, seq)
        inline.cancel(target, seq)
        if (then := self._late.pop((target, seq), None)) is not None:
            then()

    def _is_yet_to_await(self, running: Activation) -> bool:
        if not self.queue:
            return False
        target, item = self.queue[0]
        return target is not None and has_begun(item) and item[3].activation is running

    def _was_cancelled(self, began: Activation | None, error: BaseException) -> bool:
        return (
            began is not None and began.is_cancelled and isinstance(error, asyncio.CancelledError)
        )

    def _forget_cancel(self) -> None:
        # The task goes on with other messages: what was asked of one is not meant for the next.
        task = self.task
        while task is not None and task.cancelling():
            task.uncancel()

    # --- circles of calls: see `probing` -----------------------------------------------------

    def suspect(self) -> None:
        """Look in a moment whether the server is part of a circle of calls."""
        self._prober().suspect()

    def _prober(self) -> Probing:
        if self._probing is None:
            self._probing = Probing(self._loop, self)
        return self._probing

    def probed(self, target: Target, seq: int, path: list[Any]) -> None:
        """Take a PROBE: a server waits for this message. Whom does this one wait for?"""
        running = self.activation
        works_on_it = running is not None and running.is_of(target, seq)
        if works_on_it or seq > self._cells[target.cell]:
            self._prober().send(path)

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
        if kind in CALLS and frame[4] < now:
            # Nobody waits for it any more.
            return None
        handler = self._handler(kind, name)
        if handler is None:
            self.unknown(target, frame)
            return None
        args, kwargs = arguments_of(frame)
        if handler.wants_sender:
            # An operation takes its sender first, `handle_call` after the request.
            due = frame[4] if kind in CALLS else inf
            sender = Sender(self, target, frame[2], due)
            args.insert(1 if name == CALLBACK else 0, sender)
        cells, cell = self._cells, target.cell
        cells[cell] = frame[2]
        cells[cell + AT_SIZE] = frame[1]
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
            self.is_over(began)
            if is_callers_mistake(error):
                # No code of the server's has run, that could ask for it again.
                self._timeout = timeout
            self.failed(target, frame, error)
            self._times[cell] = 0.0
            return None
        if handler.is_async or hasattr(result, "__await__"):
            return result
        self.is_over(began)
        self.finish(target, frame, result)
        self._times[cell] = 0.0
        return None

    def _begin_odd(self, target: Target, frame: list[Any]) -> Any:
        what = frame[3]
        if isinstance(what, Awaited):
            began = what.activation
            if began is None:
                return what.promise
            activation.set(began)
            if not began.is_cancelled:
                return what.promise
            what.discard()
            self.is_over(began)
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
            self.is_over(began)

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
        if isinstance(self._parked, Parked):
            self.queue.extend(self._parked.take_all())
        self.queue.append((None, item))

    # --- after a handler ---------------------------------------------------------------

    def finish(self, target: Target, frame: list[Any], result: Any) -> None:
        """Reply with what a handler returned, and do what its outcome says."""
        is_call = frame[0] in CALLS
        if result.__class__ not in ODD_RESULTS:
            if is_call:
                self.reply(target, frame[2], result, frame)
            elif result is not None and callback_of(frame) == "handle_info":
                self._then(result, "handle_info")
            return
        if result.__class__ is Reply:
            self.reply(target, frame[2], result.value)
            self._then(result.then, callback_of(frame))
        elif isinstance(result, NoReply):
            self._then(result.then, callback_of(frame))
        elif isinstance(result, Suspended):
            self._resume(target, frame, Awaited(GoOn(*result), None))
        else:
            if is_call and self._is_cast(callback_of(frame)) and not isinstance(result, Stop):
                # A router sends casts as calls: it wants to know when they are done.
                self.reply(target, frame[2], None)
            self._then(result, callback_of(frame))

    def _is_cast(self, name: str) -> bool:
        info = self.server.__operations__.get(name)
        return info is not None and info.kind == "cast"

    def finish_slowly(self, target: Target, frame: list[Any], result: Any) -> None:
        """Reply with a big value, or one that msgpack refuses: perhaps it is to be awaited."""
        if hasattr(result, "__await__"):
            # What it does from here on is still this message.
            began = self.activation = Activation(self, target, frame)
            self._resume(target, frame, Awaited(result, began))
        elif frame[0] in CALLS:
            self.reply(target, frame[2], result, frame)

    def _resume(self, target: Target, frame: list[Any], awaited: Awaited) -> None:
        # Ahead of whatever waits: it has begun.
        if self.task is None:
            self._need_task()
        self.queue.appendleft((target, [*frame[:3], awaited, frame[3]]))
        self.wake()

    def reply(self, target: Target, seq: int, value: Any, call: list[Any] | None = None) -> None:
        """Send a reply; a value that cannot be sent becomes an error at the caller.

        Args:
            call: What it is the reply to, if the server may send something else instead.
        """
        frame = [REPLY, self.sid, seq, value]
        try:
            if value.__class__ in _BYTES and len(value) >= BIG:
                self._send(target, frame)
                return
            encoder = self._encoder
            try:
                data = encoder.pack(frame)
            except (BufferError, MemoryError):
                # Sent by the code of a value that is being packed; or its big bytes are not to be
                # copied, for which there may be no memory.
                self._send(target, frame)
                return
            if len(data) < BIG and not encoder.buffers:
                # At once: a reply that waits would be lost if the next message kills the process.
                target.link.send(data)
            else:
                self._send(target, frame)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # its own code may raise anything, a cancellation too
            rest: Any = None
            if call is not None:
                name = callback_of(call)
                rest = self.server._noex_sendable(name, value, self._problem)  # pyright: ignore[reportPrivateUsage]
            if rest is not None:
                self.reply(target, seq, rest)
            else:
                problem = self._encoder.explain_reply(value, error)
                self._fail_call(target, [CALL, self.sid, seq], problem)

    def _fail_call(self, target: Target, call: list[Any], error: Exception) -> None:
        try:
            self.refuse(target, call, error)
        except MemoryError:
            # The value has it, and is let go with the frames that have it.
            self._loop.call_soon(self.refuse, target, call, error)

    def _problem(self, value: Any) -> Exception | None:
        """Return why a value cannot be sent, or None."""
        try:
            self._encoder.chunks([value])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # anything may be in there
            return self._encoder.explain_reply(value, error)
        return None

    def _send(self, target: Target, frame: list[Any]) -> None:
        link = target.link
        link.send_chunks(self._encoder.pack_big(frame, lends=link.trusted))

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
        is_mistake = is_of_the_call and is_callers_mistake(error)
        if is_mistake or isinstance(error, self._expected):
            self.refuse(target, frame, error)
            return
        if not self.evidence:
            self.evidence = self._evidence(target, frame)
        self._crash(error)

    def _evidence(self, target: Target, frame: list[Any]) -> dict[str, Any]:
        seq, operation, size, *rest = self._host.record.describe(
            self.sid, target.cell, callback_of(frame)
        )
        size = size or self._host.inbox.size_of(target.link, self.sid, seq)
        waiting = len(self.queue) + sum(map(len, self._parked.values()))
        return {
            "message": [target.link.state, seq, operation, size, *rest],
            "waiting": waiting,
        }

    def refuse(self, target: Target, frame: list[Any], error: BaseException) -> None:
        """Let the caller have an error; of a cast, which has none, the log hears."""
        if frame[0] in CALLS:
            self._send(target, [ERROR, self.sid, frame[2], error])
        else:
            self._host.complaints.of_message(self.name, error)

    def unknown(self, target: Target, frame: list[Any]) -> None:
        """Refuse a message for which the server has no operation and no callback."""
        asked = f"operation {frame[3]!r}" if frame[3] != CALLBACK else "callback for this message"
        error = UnknownOperationError(self.name, asked, _public(self.server.__operations__))
        self._cells[target.cell] = frame[2]
        self.refuse(target, frame, error)

    def _then(self, then: Any, callback: str) -> None:
        # Before any message that waits, as in OTP.
        if then is None:
            return
        if then.__class__ not in THEN:
            self._crash(wrong_outcome(callback, then))
            return
        if isinstance(then, TimeoutAfter):
            self._timeout = then.seconds
            if self.idle:
                self.wake()
            return
        self.put_ahead(then)

    def put_ahead(self, item: object) -> None:
        """Queue something of our own before any message that waits."""
        if self.task is None:
            self._need_task()
        self.queue.appendleft((None, item))
        self.wake()

    def _crash(self, error: BaseException) -> None:
        if self.killed is not None:
            return
        self._ending = (reason_of(error, self._host.memory_limit), error)
        self.wake()

    async def _end(self, reason: ExitReason, error: BaseException | None) -> None:
        began = self._begin_own("terminate")
        try:
            if self.killed is None:
                await _maybe_await(self.server.terminate(reason))
        except BaseException:
            if self.killed is None:
                self._host.complaints.of_end()
        self.is_over(began)
        self._host.ended(self, self.killed or reason, error)

    # --- replies that come later -------------------------------------------------------

    def take_late(self, target: Target, seq: int) -> bool:
        """Note that the reply to a call comes now; return whether it can be sent."""
        if self._late:
            self._late.pop((target, seq), None)
        # What outlives the server in its worker may still hold the sender.
        return target.link.targets.get(self.sid) is target

    def when_cancelled(self, target: Target, seq: int, then: Callable[[], object]) -> None:
        """Call a function when a call is cancelled to which the reply comes later."""
        if self._late is _NOBODY:
            self._late = {}
        self._late[target, seq] = then


def _public(operations: Iterable[str]) -> tuple[str, ...]:
    # What only we call has a name that no method can have.
    return tuple(name for name in operations if name.isidentifier())


def _call_as(began: Activation, callback: Callable[[], Any]) -> Any:
    activation.set(began)
    return callback()


async def _maybe_await(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value
