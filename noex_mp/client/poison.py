"""Calls of which a server ends: who sends them counts, and gives them up in the end.

A call to an operation marked `@call(idempotent=True)` is sent again when its server ends in the
middle of it. If it is what ends the server, it would end each incarnation. So its sender counts:

1. An incarnation ends. Its started cell says which calls had begun (see `Route.ended`); each that
   had, and has no answer, has been delivered once more. Where somebody wanted that end (a stop, the
   restart of a group) it does not count: the call had no part in it.
2. At `max_deliveries` the call is sent no more. The root gets it, with the reports of all these
   ends, and keeps it as a dead letter.
3. When the root has it, the call fails with `PoisonedMessageError`. So whoever hears of that
   finds the letter.

If the sender dies before the root has it, there is no letter, and nobody who waits for the call. If
the root does not answer, the call fails all the same.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from noex_mp.client.packed import size_of
from noex_mp.core.dead_letters import MAX_BYTES
from noex_mp.errors import PoisonedMessageError

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.client.route import Pending
    from noex_mp.core.reasons import ExitReport

__all__ = ["Deliveries", "bury", "one_more"]

# Of so many ends the reports are kept.
MAX_REPORTS: Final = 10

# How long the root may take to keep a letter, in seconds.
PATIENCE: Final = 1.0


class Deliveries(NamedTuple):
    """How often a call had begun when its server ended.

    Attributes:
        times: So often.
        reports: The last of these ends, the newest last.
    """

    times: int
    reports: tuple[ExitReport, ...]


_NONE: Final = Deliveries(0, ())


def one_more(before: Deliveries | None, report: ExitReport) -> Deliveries:
    """Return the deliveries of a call whose server has ended in the middle of it once more."""
    times, reports = before or _NONE
    return Deliveries(times + 1, (*reports, report)[-MAX_REPORTS:])


def bury(
    client: Client,
    sid: int,
    label: str,
    entry: Pending,
    deliveries: Deliveries,
    cause: BaseException | None,
) -> None:
    """Let the root keep a call as a dead letter, and then fail it.

    Args:
        client: Who has sent it.
        sid: The server that it was for.
        label: The server's class, for people.
        entry: The call.
        deliveries: How often it had begun.
        cause: What its handler has raised at last, if it has.
    """
    future, data, operation, due, _ = entry
    assert operation is not None
    name, again = operation.name, getattr(operation, "letter", 0)
    size = size_of(data)
    chunks = [data] if data.__class__ is bytes else data
    # Shared memory, for which an empty chunk stands, is not kept for a letter.
    is_kept = size <= MAX_BYTES and all(chunks)
    payload = [bytes(chunk) for chunk in chunks] if is_kept else []
    times, reports = deliveries

    def fail(letter: int | None) -> None:
        patience.cancel()
        if not future.done():
            server = reports[-1].server
            error = PoisonedMessageError(f"{label}.{name}", server, times, reports, letter)
            error.__cause__ = cause
            future.set_exception(error)

    def told(answer: asyncio.Future[int]) -> None:
        fail(None if answer.cancelled() or answer.exception() else answer.result())

    patience = client.loop.call_later(max(0.0, min(PATIENCE, due - monotonic())), fail, None)
    answer = client.request("bury", sid, name, size, times, reports, payload, again)
    answer.add_done_callback(told)
