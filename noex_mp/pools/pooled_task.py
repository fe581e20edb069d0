"""A task of a pool that the whole node shares, as its router has it: it can be stopped there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from noex_mp.errors import ServerExitedError
from noex_mp.pools.dispatcher import RUN_LIMITED
from noex_mp.pools.functions import name_of_code
from noex_mp.pools.ladder import Ladder
from noex_mp.pools.members import Work
from noex_mp.pools.requests import LaneExitedError

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.core.gen_server import From
    from noex_mp.core.ref import SentOperation
    from noex_mp.pools.members import Owner
    from noex_mp.transport.link import Link

__all__ = ["PooledTask"]


class PooledTask(Work):
    """One task, and who waits for it; most have no ladder."""

    __slots__ = ("_client", "_grace", "_ladder")

    def __init__(
        self,
        client: Client,
        grace: float,
        pool: Owner,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sender: From[Any],
        *,
        due: float,
    ) -> None:
        super().__init__(pool, operation, args, kwargs, sender, due=due, caller=sender.caller)
        self._client = client
        self._grace = grace
        self._ladder: Ladder | None = None

    @property
    @override
    def is_wanted(self) -> bool:
        return super().is_wanted and not (self._ladder is not None and self._ladder.rung)

    @override
    def sent(self) -> None:
        if self.limit is not None:
            self._climb(self.limit).watch()

    @override
    def stop(self) -> None:
        if self.is_over:
            return
        self._climb(None).stop()
        if self.member is None or self.position() is None:
            self.end()

    def _climb(self, limit: float | None) -> Ladder:
        if self._ladder is None:
            self._ladder = Ladder(self._client, self, grace=self._grace, limit=limit)
        return self._ladder

    @override
    def set_result(self, result: Any) -> None:
        stopped = None if self._ladder is None else self._ladder.outcome(None)
        if stopped is None:
            super().set_result(result)
        else:
            super().set_exception(stopped)

    @override
    def set_exception(self, error: BaseException) -> None:
        if isinstance(error, ServerExitedError) and self._is_end_of_lane(error):
            end = LaneExitedError(error.report)
            end.__cause__ = error.__cause__
            error = end
        outcome = None if self._ladder is None else self._ladder.outcome(error)
        super().set_exception(outcome or error)

    def _is_end_of_lane(self, error: ServerExitedError) -> bool:
        return self.member is not None and self.member.has_ended_by(error)

    @override
    def end(self, error: BaseException | None = None) -> None:
        if self._ladder is not None:
            self._ladder.rest()
            if self._ladder.rung:
                error = error or self._ladder.dropped()
        super().end(error)

    # --- as the ladder knows it ---------------------------------------------------------------

    def position(self) -> tuple[int, Link | None, int] | None:
        """Return where it is; None if no member has it."""
        return None if self.member is None else self.member.place_of(self)

    def what(self) -> str:
        """Return what it does."""
        at = 2 if self.operation.name == RUN_LIMITED.name else 0
        return name_of_code(self.args[at]) if len(self.args) > at else self.operation.name

    def is_stopping(self) -> None:
        """Do nothing: whether it is run again is for its sender to say."""

    def is_dropped(self) -> None:
        """Tell whoever waits, at once."""
        self.end()
