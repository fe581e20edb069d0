"""`Router`: the server that has the address of a pool of servers.

It takes every message that the servers of the pool take. It never waits for one of them: what it is
sent waits in its backlog, goes out to a member as an ordinary call within what is left of the
caller's time, and is answered when the member has answered. So a message has two queues behind it,
its own in the socket and this one, and it is this one that knows priorities and limits.

* What a member had begun when it died fails, as it would without a pool. What it had not goes to
  another member; where messages keep an order, it waits for that member's next incarnation.
* Before the router ends, it finishes what it has. If it is killed, that fails, unless it is
  idempotent; the members live on, and the next router finds them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from inspect import Parameter
from math import inf
from operator import index
from time import monotonic
from typing import Any, Final

from typing_extensions import override

from noex_mp.client import current
from noex_mp.client.client import Client
from noex_mp.client.supervisors import SupervisorRef, supervisor_of
from noex_mp.core.gen_server import From, GenServer
from noex_mp.core.messages import Down, Exit, MemoryPressure, Timeout
from noex_mp.core.operations import OperationInfo
from noex_mp.core.outcomes import NoReply, Outcome
from noex_mp.core.reasons import ExitReason, Killed
from noex_mp.core.ref import CALLBACK, Ref, SentOperation
from noex_mp.errors import (
    CallTimedOutError,
    ConfigError,
    MailboxFullError,
    NoexError,
    PoolDownError,
    ServerExitedError,
    UnknownOperationError,
)
from noex_mp.pools.backlog import Backlog, Discard, Place
from noex_mp.pools.crew import Crew
from noex_mp.pools.functions import FunctionCode, load_function
from noex_mp.pools.lane import Lane
from noex_mp.pools.lanes import check_size
from noex_mp.pools.members import Member, Work
from noex_mp.pools.pool_options import PoolOptions, check_bounds
from noex_mp.pools.pooled_task import PooledTask
from noex_mp.pools.requests import (
    SAID,
    Broadcast,
    Drain,
    GetStatistics,
    LimitQueue,
    PoolRequest,
    PoolStatistics,
    Resize,
    RestartAll,
    StopTask,
    ToPool,
)
from noex_mp.pools.routing import (
    ROUTINGS,
    by_key,
    first_parameter,
    least_busy,
    next_in_turn,
    scaled,
)
from noex_mp.wire.envelopes import INFO

__all__ = ["MEMBERS", "Router"]

MEMBERS: Final = "members"
"""The id of the supervisor of a pool's members."""

_log: Final = logging.getLogger("noex_mp")

_NOTHING_SAID: Final = (0, None, None, None)
_LATER: Final = NoReply()
_OURS: Final = (Down, Exit, MemoryPressure, Timeout)

# While messages wait, what has become of them is looked at so often, in seconds.
_TICK: Final = 0.05

# So many callers are known to a pool whose callers stick to their members.
_MANY_CALLERS: Final = 10_000


class _Info:
    """A message for `handle_info`."""

    name = INFO
    idempotent = False
    max_deliveries = None


_INFO: Final = _Info()

# The reply of a member that has left before it could reply.
_NOBODY: Final = object()


class Router(GenServer):
    """Hands the messages of a pool to its members.

    Args:
        target: The class of the members, as `pack_function` has it.
        options: How the pool is run.
    """

    def __init__(self, target: FunctionCode, options: PoolOptions) -> None:
        server: Any = load_function(target)
        self._known: dict[str, OperationInfo] = server.__operations__
        # The instance's own: to the worker it has the operations of its members.
        vars(self)["__operations__"] = {
            ToPool.name: _to_the_pool(self),
            **{name: _forwarded(self, info) for name, info in self._known.items()},
        }
        self._options = options
        self._backlog: Backlog[Work] = Backlog()
        # All that are not done, in the order in which they came; also where nobody waits any more.
        self._open: dict[Work, None] = {}
        # The tasks among them, by who has sent them, and their number there.
        self._numbered: dict[tuple[object, int | None], Work] = {}
        # Where keys with messages are, and how many each has; those that a member works on still
        # for which nobody waits any more are among them.
        self._keys: dict[bytes, tuple[int, int]] = {}
        self._callers: OrderedDict[object, int] = OrderedDict()
        self._turn = 0
        self._is_starting_anew = self._is_ending = False
        # Before that there is no further attempt to start one more.
        self._grows_from = 0.0
        self._done = self._discarded = 0
        self._drains: list[tuple[set[Work], asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._find_key = None if options.key is None else load_function(options.key)
        is_rule = options.routing in ROUTINGS
        self._rule: Callable[..., Any] | None = None if is_rule else load_function(options.routing)

    @override
    async def init(self) -> None:
        self._client: Client = current.client()
        self._loop = asyncio.get_running_loop()
        pool = await supervisor_of(self.ref)
        members = await pool.get_child(MEMBERS)
        assert isinstance(members, SupervisorRef)
        self._members = members
        noted = await self._client.request("note", members.sid)
        if noted is not None:
            size, limit, discard = noted
            self._options = replace(self._options, size=size, limit=limit, discard=discard)
        self._crew = Crew(
            members, self._member, is_idle=self._has_finished, on_leave=self.move_from
        )
        found = await self._crew.assemble(self._options.size)
        if self._options.grace is not None:
            for member in found:
                self._run(_end_orphan(member.ref, self._options.grace))
        self._run(self._complete())
        if self._options.bounds is not None:
            self._tick_soon()

    async def _complete(self) -> None:
        if len(self._crew.members) != self._options.size:
            # The router before this one has died in the middle of a resize, or a restart.
            await self._crew.resize(self._options.size)
        if self._options.rules:
            await self._crew.prepare()

    def _member(self, ref: Ref[Any]) -> Member:
        return Member(self, self._client, ref, self._options.in_flight, self._options.rules)

    @override
    async def terminate(self, reason: ExitReason) -> None:
        # Whoever waits for something has it before this server ends: its members end later.
        if self._ticking is not None:
            self._ticking.cancel()
        for task in self._tasks:
            task.cancel()
        # What waits for those that were leaving is theirs to do.
        self._crew.stay()
        self._feed()
        # What nobody waits for ends with its member, or is ended with it.
        self._is_ending = True
        await self._done_with({work for work in self._open if not work.is_over})

    # --- what comes in ---------------------------------------------------------------------

    @override
    def handle_call(self, request: Any, sender: From[Any], **said: Any) -> Outcome[Any]:
        self.take(self.work_of(CALLBACK, (request,), said, sender))
        return _LATER

    @override
    def handle_cast(self, request: Any, **said: Any) -> None:
        self.take(Work(self, CALLBACK, (request,), said, None, is_message=True))

    @override
    def handle_info(self, message: Any) -> None:
        if not isinstance(message, _OURS):
            self.take(Work(self, _INFO, (message,), {}, None, is_message=True))

    def work_of(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sender: From[Any],
    ) -> Work:
        """Return the work that a call is, which is told if it is cancelled."""
        left = sender.time_left
        due = inf if left is None else monotonic() + left
        grace = self._options.grace
        if grace is None:
            work = Work(self, operation, args, kwargs, sender, due=due, caller=sender.caller)
        else:
            work = PooledTask(self._client, grace, self, operation, args, kwargs, sender, due=due)
            self._numbered[sender.caller, sender.number] = work
        sender.when_cancelled(partial(self._cancelled, work))
        return work

    def _cancel_all(self, works: Iterable[Work]) -> None:
        for work in works:
            self._cancelled(work)

    def _cancelled(self, work: Work) -> None:
        if work.place is not None and work.place.waits:
            self._backlog.remove(work.place)
        work.stop()

    def take(self, work: Work) -> None:
        """Take a message: send it, or let it wait."""
        now = monotonic()
        priority, ttl, key, work.limit = work.kwargs.pop(SAID, None) or _NOTHING_SAID
        if ttl is None:
            ttl = self._options.ttl
        self._open[work] = None
        try:
            number = self._number_for(work, key)
        except Exception as error:
            work.end(error)
            return
        until = work.due if ttl is None else min(work.due, now + ttl)
        member = None if self._backlog.has_any_for(number) else self._with_room(number)
        if member is not None:
            work.place = Place(work, number, priority, now, until)
            member.send(work, now)
            return
        work.place = self._backlog.put(work, now=now, member=number, priority=priority, until=until)
        self._keep_limit()
        self._start_if_empty()
        self._tick_for(work)

    def _with_room(self, number: int | None) -> Member | None:
        """Return the member that takes a message at once, if there is one."""
        members = self._crew.members
        if number is not None:
            return next((m for m in members if m.number == number and m.has_room), None)
        if self._options.routing != "round_robin":
            return least_busy(members)
        member = next_in_turn(members, self._turn)
        if member is not None:
            self._turn = member.number
        return member

    # --- who gets it -----------------------------------------------------------------------

    def _number_for(self, work: Work, key: Any = None) -> int | None:
        """Return the member that a message is for; None if any will do.

        Raises:
            Exception: What the user's function for that has raised.
        """
        members = self._crew.staying
        routing = self._options.routing
        if not members:
            return None
        if routing == "key" or key is not None or work.key is not None:
            return self._number_of_key(work, key, members)
        if routing == "sticky":
            return self._number_of_caller(work.caller, members)
        if self._rule is not None:
            chosen = self._chosen(self._rule, len(members), *work.args, **work.kwargs)
            return members[chosen % len(members)].number
        return None

    def _chosen(self, rule: Callable[..., Any], count: int, *args: Any, **kwargs: Any) -> int:
        found = _asked(rule, count, *args, **kwargs)
        try:
            return index(found)
        except TypeError:
            raise ConfigError(
                f"the routing function of {self.ref.label} returned {found!r:.60}\n"
                f"Return the number of a server, from 0 to {count - 1}."
            ) from None

    def _number_of_caller(self, caller: object, members: Sequence[Member]) -> int:
        known = self._callers.get(caller)
        if known is None or all(member.number != known for member in members):
            having = list(self._callers.values())
            known = min(members, key=lambda member: having.count(member.number)).number
        self._callers[caller] = known
        self._callers.move_to_end(caller)
        if len(self._callers) > _MANY_CALLERS:
            self._callers.popitem(last=False)
        return known

    def _number_of_key(self, work: Work, key: Any, members: Sequence[Member]) -> int:
        if work.key is None:
            work.key = self._client.encoder.pack([self._key_of(work) if key is None else key])
            # What has messages here stays where these are, until they are done, also with a member
            # that is leaving.
            number, count = self._keys.get(work.key, (0, 0))
            there: Sequence[Member] = self._crew.members
            count += 1
        else:
            # It has to move, and all that has its key with it, in their order.
            number, count = self._keys[work.key]
            there = members
        if all(member.number != number for member in there):
            number = by_key(work.key, [member.number for member in members])
        self._keys[work.key] = (number, count)
        return number

    def _key_of(self, work: Work) -> object:
        if self._find_key is not None:
            return _asked(self._find_key, *work.args, **work.kwargs)
        if work.args:
            return work.args[0]
        info = self._known.get(work.operation.name)
        first = None if info is None else first_parameter(info)
        if first is not None and first.name in work.kwargs:
            return work.kwargs[first.name]
        if first is not None and first.default is not Parameter.empty:
            return first.default
        raise ConfigError(
            f"{work.operation.name} was called without an argument, and the first one is the key "
            f"of this pool\nGive the pool a function, key=..., or the call a key: "
            f"pool_of(ref).options(key=...)."
        )

    # --- what members tell -----------------------------------------------------------------

    def is_free(self, member: Member) -> None:
        """Give a member what waits for it."""
        now = monotonic()
        while (place := self._next_for(member)) is not None:
            if self._is_wanted(place, now):
                member.send(place.item, now)
        if not member.in_flight:
            member.idle_since = now
        if member.is_leaving and self._has_finished(member):
            self._crew.has_nothing(member)

    def _next_for(self, member: Member) -> Place[Work] | None:
        if member.has_room:
            return self._backlog.take_place(member.number)
        if member.is_leaving and member.is_up and member.in_flight < self._options.in_flight:
            return self._backlog.take_own(member.number, _is_bound)
        return None

    def _has_finished(self, member: Member) -> bool:
        """Return whether a member that leaves has done all that is its to do."""
        return not member.in_flight and not self._backlog.has_own(member.number, _is_bound)

    def _is_wanted(self, place: Place[Work], now: float) -> bool:
        work = place.item
        if not work.is_wanted:
            work.end()
        elif place.until <= now:
            self._discarded += 1
            what = f"{self.ref.label}.{work.operation.name}"
            work.end(CallTimedOutError(what, now - place.since))
        else:
            return True
        return False

    def take_back(self, works: Iterable[Work]) -> None:
        """Let others do what a member has not begun."""
        for work in reversed(list(works)):
            if work.is_wanted and work.place is not None:
                self._backlog.put_back(work.place)
                self._tick_for(work)
            else:
                work.end()
        self._feed()

    def is_due(self, member: Member) -> None:
        """Let another take the place of a member."""
        self._crew.retire(member)
        self._run(self._replace(member))

    def went_down(self, member: Member) -> None:
        """Let one that stands by take the place of a member whose process has ended."""
        if self._options.rules and not member.is_leaving:
            self._run(self._stand_in_for(member))

    async def _stand_in_for(self, member: Member) -> None:
        await self._crew.prepare()
        # If that took its time, the member may be back itself.
        if not member.is_up and not member.is_leaving:
            self.is_due(member)

    async def _replace(self, member: Member) -> None:
        try:
            await self._crew.replace(member)
        finally:
            # It goes on if there is no other.
            self._feed()

    def lost(self, member: Member) -> None:
        """Let others do what was for a member that is gone."""
        self._crew.lost(member)
        self.move_from(member)
        self._start_if_empty()

    def _start_if_empty(self) -> None:
        if not self._crew.staying and not self._is_starting_anew:
            self._is_starting_anew = True
            self._run(self._start_anew())

    async def _start_anew(self) -> None:
        try:
            await self._crew.resize(self._options.size)
        except NoexError as error:
            # Else nobody would hear of it, and what waits would wait for ever. Not least when the
            # node stops: it starts nothing any more.
            if not self._crew.members:
                failure = PoolDownError(str(error))
                failure.__cause__ = error
                for work in list(self._open):
                    if work.place is not None and work.place.waits:
                        self._backlog.remove(work.place)
                    work.end(failure)
        finally:
            self._is_starting_anew = False

    def move_from(self, member: Member) -> None:
        """Give what waits for a member to others, in its order."""
        for place in self._backlog.of_member(member.number):
            work = place.item
            if work.is_bound and work.sender is not None:
                work.sender.reply(_NOBODY)
                work.end()
                continue
            try:
                number = self._number_for(work)
            except Exception as error:
                # Of the user's function, which has other members to choose from now.
                work.end(error)
                continue
            work.place = self._backlog.put(
                work, now=place.since, member=number, priority=place.priority, until=place.until
            )
        self._feed()

    def _feed(self) -> None:
        for member in list(self._crew.members):
            self.is_free(member)

    def finished(self, work: Work) -> None:
        """Note that a message has left the pool, though a member may have it still."""
        if isinstance(work, PooledTask) and work.sender is not None:
            self._numbered.pop((work.caller, work.sender.number), None)
        self._done += 1
        self.settle(work)
        if self._is_ending:
            self._drained_of(work)

    def nobody_hears(self, work: Work, error: BaseException) -> None:
        """Tell the log of a cast that has failed; the reports of ends say of themselves."""
        if isinstance(error, CallTimedOutError):
            self._client.count_dropped(self.ref.sid)
        elif not isinstance(error, MailboxFullError | PoolDownError | ServerExitedError):
            what = f"{self.ref.label}.{work.operation.name}"
            _log.warning("%s: %s: %s", what, type(error).__name__, error)

    def settle(self, work: Work) -> None:
        """Forget a message, if it has left the pool and no member has it any more."""
        is_done = work.is_over and (work.member is None or not work.member.has(work))
        if not is_done or work not in self._open:
            return
        del self._open[work]
        if work.key is not None:
            number, count = self._keys[work.key]
            if count > 1:
                self._keys[work.key] = (number, count - 1)
            else:
                del self._keys[work.key]
        self._drained_of(work)

    def _drained_of(self, work: Work) -> None:
        for waiting, future in self._drains:
            waiting.discard(work)
            if not waiting and not future.done():
                future.set_result(None)

    # --- the time, and the limit -----------------------------------------------------------

    def _keep_limit(self) -> None:
        limit = self._options.limit
        for place in self._backlog.excess(limit, self._options.discard):
            self._discarded += 1
            self._client.count_dropped(self.ref.sid)
            waiting = len(self._backlog)
            place.item.end(MailboxFullError(self.ref.label, waiting, limit or 0, 0))

    def _tick_for(self, work: Work) -> None:
        """Look at times again soon, if a message waits."""
        if len(self._backlog) == 1 and self._ticking is not None:
            # It was set for when nothing waits.
            self._ticking.cancel()
            self._ticking = None
        if work.place is not None and work.place.waits:
            self._tick_soon()

    def _tick_soon(self) -> None:
        if self._ticking is None:
            # Where nothing waits, it is only about those who have nothing to do.
            rest = 0.0 if self._backlog else self._options.scale_after / 2
            self._ticking = self._loop.call_later(max(_TICK, rest), self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = monotonic()
        for place in self._backlog.expired(now):
            self._is_wanted(place, now)
        if self._options.bounds is not None:
            self._scale(self._options.bounds, now)
        if self._backlog or self._options.bounds is not None:
            self._tick_soon()

    def _scale(self, bounds: tuple[int, int], now: float) -> None:
        members = self._crew.staying
        if self._crew.is_changing or not members:
            return
        last = members[-1]
        size = scaled(
            len(members),
            bounds,
            age=self._backlog.age(now),
            idle=now - last.idle_since if last.is_free else 0.0,
            has_free=any(member.is_free for member in members),
            scale_after=self._options.scale_after,
        )
        if size < len(members) or (size > len(members) and now >= self._grows_from):
            self._run(self._scale_to(size))

    async def _scale_to(self, size: int) -> None:
        try:
            await self._resize(size)
        except NoexError:
            # What it has raised is in the log; it may need time.
            self._grows_from = monotonic() + 10 * self._options.scale_after
            # Unless somebody has asked for another size meanwhile.
            if self._options.size == size:
                await self._resize(len(self._crew.staying))

    # --- what the pool is asked ------------------------------------------------------------

    def ask(self, request: PoolRequest, sender: From[Any]) -> Outcome[Any]:
        """Do what somebody wants of the pool."""
        match request:
            case Resize(size):
                self._run(self._resize_within_bounds(size), sender)
            case RestartAll():
                self._run(self._crew.restart_all(), sender)
            case Drain():
                self._run(self._done_with(set(self._open)), sender)
            case Broadcast(operation, args, kwargs):
                self._broadcast(operation, tuple(args), kwargs, sender)
            case LimitQueue(limit, discard):
                self._run(self._keep_to(limit, discard), sender)
            case StopTask(number):
                task = self._numbered.get((sender.caller, number))
                if task is not None:
                    self._cancelled(task)
                return request.reply(None)
            case GetStatistics():
                return request.reply(self._statistics())
        return _LATER

    async def _resize_within_bounds(self, size: int) -> int:
        check_size("size", size)
        check_bounds(size, *(self._options.bounds or (size, size)))
        return await self._resize(size)

    async def _resize(self, size: int) -> int:
        await self._want(size=size)
        return await self._crew.resize(size)

    async def _keep_to(self, limit: int | None, discard: Discard | None) -> None:
        await self._want(limit=limit, discard=discard or self._options.discard)
        self._keep_limit()

    async def _want(self, **asked: Any) -> None:
        """Note what the pool is to be like, for the router after this one as well."""
        self._options = options = replace(self._options, **asked)
        note = [options.size, options.limit, options.discard]
        await self._client.request("set_note", self._members.sid, note)

    def _run(self, coroutine: Any, sender: From[Any] | None = None) -> None:
        async def run() -> None:
            try:
                result = await coroutine
            except Exception as error:
                if sender is not None:
                    sender.fail(error)
            else:
                if sender is not None:
                    sender.reply(result)

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _done_with(self, waiting: set[Work]) -> asyncio.Future[None]:
        """Return a future that is done once all of these are."""
        future: asyncio.Future[None] = self._loop.create_future()
        if waiting:
            drain = (waiting, future)
            self._drains.append(drain)
            future.add_done_callback(lambda _: self._drains.remove(drain))
        else:
            future.set_result(None)
        return future

    def _broadcast(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], sender: From[Any]
    ) -> None:
        info = self._known.get(name)
        if info is None:
            asked = f"operation {name!r}"
            sender.fail(UnknownOperationError(self.ref.label, asked, tuple(self._known)))
            return
        left = sender.time_left
        due = inf if left is None else monotonic() + left
        members = self._crew.staying
        replies = _Replies(sender, len(members))
        replies.reply_if_complete()
        sent: list[Work] = []
        for number, member in enumerate(members):
            one = From[Any](replies.taker(number), replies.fail)
            work = Work(self, info, args, dict(kwargs), one, due=due)
            work.is_bound = True
            self._open[work] = None
            work.place = self._backlog.put(work, now=monotonic(), member=member.number, until=due)
            sent.append(work)
            self.is_free(member)
            self._tick_for(work)
        sender.when_cancelled(partial(self._cancel_all, sent))

    def _statistics(self) -> PoolStatistics:
        members = self._crew.staying
        return PoolStatistics(
            size=len(members),
            up=sum(member.is_up for member in members),
            in_flight=sum(member.in_flight for member in self._crew.members),
            waiting=len(self._backlog),
            oldest=self._backlog.age(monotonic()),
            done=self._done,
            discarded=self._discarded,
        )


class _Replies:
    """Gathers the replies to a broadcast."""

    def __init__(self, sender: From[Any], count: int) -> None:
        self._sender = sender
        self._replies: dict[int, Any] = {}
        self._count = count

    def taker(self, index: int) -> Callable[[Any], None]:
        """Return what takes the reply of one member."""

        def take(value: Any) -> None:
            if value is _NOBODY:
                self._count -= 1
            else:
                self._replies[index] = value
            self.reply_if_complete()

        return take

    def reply_if_complete(self) -> None:
        """Reply if nobody's reply is missing."""
        if len(self._replies) == self._count:
            self._sender.reply([self._replies[n] for n in sorted(self._replies)])

    def fail(self, error: BaseException) -> None:
        """Let the caller have the first error."""
        self._sender.fail(error)


def _to_the_pool(router: Router) -> OperationInfo:
    def asked(_: Router, sender: From[Any], request: PoolRequest | int) -> Outcome[Any]:
        if isinstance(request, int):
            # From the command line, whose words are plain values: a size.
            request = Resize(request)
        return router.ask(request, sender)

    return OperationInfo(ToPool.name, "call", asked, wants_sender=True)


def _forwarded(router: Router, info: OperationInfo) -> OperationInfo:
    """Return an operation as the router has it: whatever it is called with goes to a member."""

    def called(_: Router, sender: From[Any], /, *args: Any, **kwargs: Any) -> Any:
        router.take(router.work_of(info, args, kwargs, sender))
        return _LATER

    def told(_: Router, sender: From[Any], /, *args: Any, **kwargs: Any) -> None:
        router.take(Work(router, info, args, kwargs, None, caller=sender.caller))

    function = called if info.kind == "call" else told
    return replace(info, function=function, wants_sender=True, is_async=False)


def _is_bound(work: Work) -> bool:
    return work.is_bound


def _asked(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Return what a function of the user's says about a message.

    Raises:
        ConfigError: It has raised what would end the router, or its caller's process.
        Exception: What else it has raised.
    """
    try:
        return function(*args, **kwargs)
    except Exception:
        raise
    except BaseException as error:
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigError(f"{name}, which says who gets a message, ended with {error!r}") from error


async def _end_orphan(ref: Ref[Lane], grace: float) -> None:
    """Kill a process that is still at a task of the router before this one, which is nobody's.

    Its caller has had an error, and who would have stopped it is gone.
    """
    try:
        await Lane.ready(ref.within(grace))
    except CallTimedOutError:
        await ref.exit(Killed("SIGKILL"))
    except NoexError:
        # It has ended by itself, or starts anew.
        return
