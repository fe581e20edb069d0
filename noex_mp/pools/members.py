"""The members of a pool as its router sees them: what each has, and what becomes of that.

A message that is out with a member stands where the future of its call does (see `Work`), and the
route to the member says by itself what has happened: the reply has come, the member has died in the
middle of the message or before it, it is back, it is gone for good. There is no future, no task and
no monitor.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from typing_extensions import override

from noex_mp.client.route import Route
from noex_mp.core.reasons import Replaced
from noex_mp.errors import CallTimedOutError, MailboxFullError, ServerExitedError

if TYPE_CHECKING:
    import asyncio

    from noex_mp.client.client import Client
    from noex_mp.core.gen_server import From
    from noex_mp.core.reasons import ExitReport
    from noex_mp.core.ref import Ref, SentOperation
    from noex_mp.pools.backlog import Place
    from noex_mp.pools.recycling import RecyclingRules
    from noex_mp.transport.link import Link

__all__ = ["Member", "Owner", "Work"]


class _Unknown:
    """No server has an operation of this name: each says so when its turn has come."""

    name = "(are you free?)"
    idempotent = False
    max_deliveries = None


_ARE_YOU_FREE: Final = _Unknown()

# When a member whose mailbox had no room for that is asked once more, in seconds.
_ASK_AGAIN: Final = 0.05

_NOBODY_WAITS: Final = CallTimedOutError("a call that nobody waits for", 0.0)


class Owner(Protocol):
    """The pool, as its members know it: what they tell of themselves."""

    def is_free(self, member: Member) -> None:
        """It has room for a message."""
        ...

    def take_back(self, works: list[Work]) -> None:
        """It had these, and has not begun them; oldest first."""
        ...

    def is_due(self, member: Member) -> None:
        """Another is to take its place; from now on it is to get no new messages."""
        ...

    def went_down(self, member: Member) -> None:
        """Its process has ended, and is started again."""
        ...

    def lost(self, member: Member) -> None:
        """It is gone for good."""
        ...

    def finished(self, work: Work) -> None:
        """The caller of a message has got what there was to get."""
        ...

    def settle(self, work: Work) -> None:
        """A member has it no more, whatever has become of it."""
        ...

    def nobody_hears(self, work: Work, error: BaseException) -> None:
        """A cast has failed, and has no caller to be told."""
        ...


class Work:
    """One message for a pool, and who waits for the reply.

    Attributes:
        pool: Whose it is.
        operation: What it asks for.
        args, kwargs: What it is called with.
        sender: Who waits; None for a cast.
        due: When nobody waits any more, by the monotonic clock; inf is never.
        caller: Who has sent it, told from others by `==`.
        is_message: It is no operation, and must arrive as the cast that it is.
        is_bound: It is for the member that it was meant for, or for nobody.
        member: Who has it, or had it last.
        place: Its place in the backlog, in which it waits or has waited.
        limit: How long its task may run, in seconds; None: for ever.
        key: What keeps it in its order with others, or None.
        number: Of a message that is no operation: its number at the member.
        is_late: Nobody waits any more, and the member has it still.
        is_over: Its caller has got what there was to get.
    """

    __slots__ = (
        "args",
        "caller",
        "due",
        "is_bound",
        "is_late",
        "is_message",
        "is_over",
        "key",
        "kwargs",
        "limit",
        "member",
        "number",
        "operation",
        "place",
        "pool",
        "sender",
    )

    def __init__(
        self,
        pool: Owner,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sender: From[Any] | None,
        *,
        due: float = inf,
        caller: object = None,
        is_message: bool = False,
    ) -> None:
        self.pool = pool
        self.due = due
        self.caller = caller
        self.is_bound = False
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.sender = sender
        self.is_message = is_message
        self.member: Member | None = None
        self.place: Place[Work] | None = None
        self.limit: float | None = None
        self.number = 0
        self.key: bytes | None = None
        self.is_late = False
        self.is_over = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it still."""
        return not self.is_over and (self.sender is None or not self.sender.cancelled)

    def sent(self) -> None:
        """Note that a member has it."""

    def stop(self) -> None:
        """Note that nobody waits any more. A member that has it is told by its route."""
        self.end()

    def end(self, error: BaseException | None = None) -> None:
        """Note that it is done, or that it never will be; its caller gets the error."""
        if self.is_over:
            return
        self.is_over = True
        if self.sender is not None:
            # If it has the reply already, this is nothing. If nobody waits any more, the worker
            # forgets by it who did.
            self.sender.fail(error or _NOBODY_WAITS)
        elif error is not None:
            self.pool.nobody_hears(self, error)
        self.pool.finished(self)

    # --- as the future of a call ----------------------------------------------------------

    def done(self) -> bool:
        """Return whether its member is to be told that nobody waits any more.

        Until that is on its way the reply counts, if only to know that the member is free.
        """
        return self.is_over and self.is_late

    def set_result(self, result: Any) -> None:
        """Take the reply, and pass it on."""
        if self.sender is not None and not self.is_over:
            self.sender.reply(result)
        self._leave()
        self.end()

    def set_exception(self, error: BaseException) -> None:
        """Take the error, and pass it on."""
        if not self.is_late:
            self._leave()
        self.end(error)

    def exception(self) -> None:
        """Do as the future of a cast does, whose error nobody looks at."""

    def _leave(self) -> None:
        if self.member is not None:
            self.member.has_finished(self)


class _Free:
    """Stands for the future of a message that only asks whether a member is free again."""

    __slots__ = ("member",)

    is_over: Final = False

    def __init__(self, member: Member) -> None:
        self.member = member

    def done(self) -> bool:
        """Return that its reply is wanted."""
        return False

    def set_result(self, result: Any) -> None:
        """Take the reply."""
        self.member.is_free_again()

    def set_exception(self, error: BaseException) -> None:
        """Take the reply, which is that there is no such operation; or the member's death."""
        if isinstance(error, MailboxFullError):
            self.member.ask_again_later()
        else:
            self.member.is_free_again()

    def exception(self) -> None:
        """Do as `Work` does."""


class MemberRoute(Route):
    """The route to a member: its calls have works for futures, and it tells what has happened."""

    __slots__ = ("_member", "_next")

    def __init__(self, client: Client, member: Member, ref: Ref[Any]) -> None:
        super().__init__(client, ref.sid, ref.label)
        self._member = member
        self._next: Work | _Free | None = None
        make = self._create_future

        def next_future() -> Any:
            work, self._next = self._next, None
            return make() if work is None else work

        self._create_future: Any = next_future

    def send(self, work: Work, timeout: float | None) -> None:
        """Send a message.

        Raises:
            UnencodableError: An argument cannot be sent.
        """
        if work.is_message:
            self.cast(work.operation, work.args, work.kwargs, timeout)
            work.number = self.seq
            return
        self._next = work
        try:
            self.invoke(work.operation, work.args, work.kwargs, timeout)
        finally:
            self._next = None

    def _ours(self) -> dict[int, Any]:
        pending: dict[int, tuple[Any, ...]] = {**self.pending}
        return {seq: e[0] for seq, e in pending.items() if isinstance(e[0], Work | _Free)}

    def number_of(self, work: Work) -> int | None:
        """Return the number of a message that has no reply yet."""
        return next((seq for seq, found in self._ours().items() if found is work), None)

    def keeps(self, work: Work) -> bool:
        """Return whether a message is still to be sent: to the next incarnation, if need be."""
        return work.number in self.pending

    def is_about_member(self, error: BaseException) -> bool:
        """Return whether an error is the end of the member, and not what its handler has raised."""
        return isinstance(error, ServerExitedError) and error.report is self.report

    def ask_whether_it_is_free(self) -> None:
        """Send what is answered when all that was sent before is done."""
        self._next = _Free(self._member)
        self.invoke(_ARE_YOU_FREE, (), {}, None)

    @override
    def located(self, incarnation: int, link: Link, mailbox: tuple[int, int, str, int]) -> None:
        super().located(incarnation, link, mailbox)
        self._member.came_up()

    @override
    def ended(self, begun: int, report: ExitReport, cause: BaseException | None) -> int:
        self._member.is_up = False
        lost = super().ended(begun, report, cause)
        # A cast that waits for the window stays, and is for the next incarnation.
        unbegun = [seq for seq in self._ours() if seq > begun]
        self._member.went_down([self._remove(seq) for seq in unbegun], report)
        return lost

    @override
    def gone(self, report: ExitReport | None, cause: BaseException | None) -> None:
        self._member.is_up = False
        left = [self._remove(seq) for seq in self._ours()]
        super().gone(report, cause)
        self._member.has_gone(left)

    @override
    def sweep(self, now: float) -> None:
        if self.soonest <= now and self.link is not None:
            self.link.drain()
        ours = self._ours()
        late = [w for seq, w in ours.items() if self.pending[seq][3] <= now or w.is_over]
        for work in late:
            work.is_late = True
        super().sweep(now)
        if late:
            self._member.is_late()


class Member:
    """One member of a pool.

    Attributes:
        ref: Its address.
        number: No other has it.
        is_up: Its process runs, as far as is known.
        is_leaving: It gets no new messages, and stops when it has done what it has.
        idle_since: Since when it has had nothing to do, by the monotonic clock.
    """

    def __init__(
        self, pool: Owner, client: Client, ref: Ref[Any], depth: int, rules: RecyclingRules
    ) -> None:
        self._pool = pool
        self._depth = depth
        self._rules = rules
        self._loop = client.loop
        # After how many more messages it is due; 0 is never.
        self._left = 0
        self._aging: asyncio.TimerHandle | None = None
        # What it has, in the order in which it was sent, those included for which nobody waits.
        self._has: dict[Work, None] = {}
        # Those that it has done once it has answered whether it is free; None if nobody has asked.
        self._asked: list[Work] | None = None
        self.ref = ref
        self.is_up = False
        self.is_leaving = False
        self.idle_since = 0.0
        self._route = MemberRoute(client, self, ref)
        client.routes[ref.sid] = self._route
        client.locate(self._route)

    @property
    def number(self) -> int:
        """No other member has it."""
        return self.ref.sid

    @property
    def in_flight(self) -> int:
        """How many messages it has."""
        return len(self._has)

    @property
    def is_free(self) -> bool:
        """Whether it takes messages, and has none."""
        return self.is_up and not self._has

    def has(self, work: Work) -> bool:
        """Return whether it has a message still."""
        return work in self._has

    @property
    def has_room(self) -> bool:
        """Whether it may have one more message."""
        return self.is_up and not self.is_leaving and self.in_flight < self._depth

    def send(self, work: Work, now: float) -> None:
        """Give it a message."""
        work.member = self
        timeout = None if work.due == inf else work.due - now
        self._has[work] = None
        try:
            self._route.send(work, timeout)
        except Exception as error:
            del self._has[work]
            work.end(error)
            return
        work.sent()
        self._left -= 1
        if not self._left:
            self._is_due()
        if work.is_message:
            # It has no reply: it is done when what follows it is.
            work.end()
            self.is_late()

    def place_of(self, work: Work) -> tuple[int, Link | None, int] | None:
        """Return where a message is: its server, the link, its number there; None if nowhere."""
        number = self._route.number_of(work)
        return None if number is None else (self.ref.sid, self._route.link, number)

    def has_ended_by(self, error: BaseException) -> bool:
        """Return whether an error says that its process has ended, and not some other."""
        return self._route.is_about_member(error)

    # --- when it is due -------------------------------------------------------------------

    def begin_life(self) -> None:
        """Count its messages and its time from now on."""
        self.end_life()
        self._left = self._rules.tasks_of_one() or 0
        age = self._rules.age_of_one()
        if age is not None:
            self._aging = self._loop.call_later(age, self._is_due)

    def end_life(self) -> None:
        """Count no more."""
        self._left = 0
        if self._aging is not None:
            self._aging.cancel()

    def _is_due(self) -> None:
        if not self.is_leaving:
            self._pool.is_due(self)

    # --- what has happened ----------------------------------------------------------------

    def has_finished(self, work: Work) -> None:
        """Note that it is done with a message."""
        self._forget(work)
        if self.is_up:
            self._pool.is_free(self)

    def _forget(self, work: Work) -> None:
        self._has.pop(work, None)
        self._pool.settle(work)

    def is_late(self) -> None:
        """Note that nobody waits for what it does: it counts as busy until it is done."""
        if self._asked is None:
            self._asked = self._late()
            self._route.ask_whether_it_is_free()

    def ask_again_later(self) -> None:
        """Note that the question had no room."""
        self._asked = None
        self._loop.call_later(_ASK_AGAIN, self._ask_again)

    def _ask_again(self) -> None:
        if self._late():
            self.is_late()

    def _late(self) -> list[Work]:
        return [work for work in self._has if work.is_late or work.is_message]

    def is_free_again(self) -> None:
        """Note that it has done what was sent before it was asked."""
        done, self._asked = self._asked or [], None
        for work in done:
            self._forget(work)
        if self._late():
            # Others have become so since.
            self.is_late()
        if self.is_up:
            self._pool.is_free(self)

    def came_up(self) -> None:
        """Note that it takes messages."""
        self.is_up = True
        self.begin_life()
        self._ask_again()
        self._pool.is_free(self)

    def went_down(self, unbegun: list[Any], report: ExitReport) -> None:
        """Note the end of an incarnation, and what it had not begun."""
        self._asked = None
        self.end_life()
        left = self._has_lost(unbegun)
        if not isinstance(report.reason, Replaced):
            self._pool.went_down(self)
        self._pool.take_back(left)

    def has_gone(self, left: list[Any]) -> None:
        """Note that it does not come back."""
        self._asked = None
        self.end_life()
        self._pool.take_back(self._has_lost(left))
        self._pool.lost(self)

    def _has_lost(self, unbegun: list[Any]) -> list[Work]:
        """Forget what it had; return what is to be done elsewhere."""
        # A call that may run twice does so in the next incarnation, and a message that had to wait
        # for the window goes there.
        kept: set[Any] = {entry[0] for entry in self._route.pending.values()}
        for work in list(self._has):
            if work not in kept and not (work.is_message and self._route.keeps(work)):
                self._forget(work)
        return [work for work in unbegun if isinstance(work, Work) and not work.is_over]
