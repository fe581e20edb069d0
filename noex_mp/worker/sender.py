"""`Sender`: who waits for a reply, as the server that replies later holds it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from noex_mp.core.gen_server import From
from noex_mp.wire.envelopes import CALL

if TYPE_CHECKING:
    from noex_mp.worker.mailbox import Mailbox
    from noex_mp.worker.queued import Target

__all__ = ["Sender"]


class Sender(From[Any]):
    """The caller of one call, whose reply goes back on the link that it came on."""

    __slots__ = ("_due", "_is_cancelled", "_mailbox", "_seq", "_target")

    def __init__(self, mailbox: Mailbox, target: Target, seq: int, due: float) -> None:
        # Not that of the base: it is given functions, and each would have to be made.
        self._mailbox: Mailbox | None = mailbox
        self._target = target
        self._seq = seq
        self._due = due
        self._is_cancelled = False

    @override
    def reply(self, value: Any) -> None:
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None and mailbox.take_late(self._target, self._seq):
            mailbox.reply(self._target, self._seq, value)

    @override
    def fail(self, error: BaseException) -> None:
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None and mailbox.take_late(self._target, self._seq):
            mailbox.refuse(self._target, [CALL, mailbox.sid, self._seq], error)

    @property
    @override
    def cancelled(self) -> bool:
        return self._is_cancelled or monotonic() >= self._due or self._target.link.closed

    @property
    @override
    def time_left(self) -> float | None:
        return None if self._due == inf else max(0.0, self._due - monotonic())

    @property
    @override
    def caller(self) -> object:
        return self._target.link.state

    @property
    @override
    def number(self) -> int | None:
        return self._seq

    @override
    def when_cancelled(self, then: Callable[[], object]) -> None:
        def cancelled() -> None:
            self._is_cancelled = True
            then()

        if self._mailbox is not None:
            self._mailbox.when_cancelled(self._target, self._seq, cancelled)
