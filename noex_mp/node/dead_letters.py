"""The dead letters of a node: messages that are not delivered any more, kept until somebody acts.

They are kept in the root's memory, and gone with the node.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from noex_mp.client.api import spec_to_wire
from noex_mp.client.courier import Courier
from noex_mp.core.dead_letters import MAX_BYTES, DeadLetter, letter_as_plain
from noex_mp.core.reasons import ExitReport
from noex_mp.core.ref import Ref
from noex_mp.core.specs import child
from noex_mp.errors import NoDeadLetterError
from noex_mp.node.directory import Directory
from noex_mp.node.events import Events
from noex_mp.wire.codec import Encoder

__all__ = ["DeadLetters"]

MAX_LETTERS: Final = 500

# So many may be sent again at a time by programs outside of the node: each takes a process.
MAX_COURIERS: Final = 8

# What a report takes at most, in bytes: so much is counted for each.
_REPORT: Final = 16 * 1024


class _Kept(NamedTuple):
    letter: DeadLetter
    # The packed message, in chunks; empty if it was too large.
    payload: list[bytes]
    weight: int


class DeadLetters:
    """Keeps the last letters: 500, of 32 MiB together with their reports. The oldest go first.

    Args:
        node: The node's id.
        directory: Knows the servers.
        events: Tells of each letter.
        spawn: Starts a server, of which it takes the description; returns its number and class.

    Attributes:
        methods: What processes may ask for, by name.
    """

    def __init__(
        self,
        node: str,
        directory: Directory,
        events: Events,
        spawn: Callable[[dict[str, Any]], Awaitable[list[Any]]],
    ) -> None:
        self._node = node
        self._directory = directory
        self._events = events
        self._spawn = spawn
        # By the letter that it has; 0 while it starts.
        self._couriers: dict[int, int] = {}
        # By number, the oldest first.
        self._kept: dict[int, _Kept] = {}
        self._bytes = 0
        self._dropped = 0
        self._ids = itertools.count(1)
        self.methods: dict[str, Callable[..., Any]] = {
            "bury": self._bury,
            "dead_letters": self._dead_letters,
            "dead_letter": self._dead_letter,
            "drop_dead_letter": self._drop,
            "unearth": self._unearth,
            "send_courier": self._send_courier,
        }

    async def _bury(
        self,
        sid: int,
        operation: str,
        size: int,
        deliveries: int,
        reports: tuple[ExitReport, ...],
        payload: list[bytes],
        again: int,
    ) -> int:
        """Keep a message, tell of it, and return its number.

        Args:
            sid: Whom it was for.
            operation: What it asks for.
            size: How many bytes it has.
            deliveries: How often it had begun.
            reports: How its server has ended.
            payload: The packed message, in chunks; empty if it is too large.
            again: The number of the letter that it was, if somebody has tried to deliver it again.
        """
        letter = DeadLetter(
            id=again if self._take_out(again) else next(self._ids),
            server=reports[-1].server,
            ref=self._ref_of(sid),
            name=self._name_of(sid),
            operation=operation,
            size=size,
            time=time.time(),
            deliveries=deliveries,
            reports=reports,
            is_kept=bool(payload),
        )
        dropped = self._keep(letter, payload)
        self._tell(letter, dropped)
        return letter.id

    def _ref_of(self, sid: int) -> Ref[Any]:
        child = self._directory.known(sid)
        return Ref(self._node, sid, label=child.label if child else "Server")

    def _name_of(self, sid: int) -> str | None:
        child = self._directory.known(sid)
        return child.name if child else None

    def _keep(self, letter: DeadLetter, payload: list[bytes]) -> int:
        """Keep a letter; return how many older ones had to go for it."""
        weight = sum(map(len, payload)) + _REPORT * len(letter.reports)
        dropped = 0
        while self._kept and (len(self._kept) >= MAX_LETTERS or self._bytes + weight > MAX_BYTES):
            self._take_out(next(iter(self._kept)))
            dropped += 1
        self._kept[letter.id] = _Kept(letter, payload, weight)
        self._bytes += weight
        self._dropped += dropped
        return dropped

    def _take_out(self, number: int) -> bool:
        kept = self._kept.pop(number, None)
        self._bytes -= kept.weight if kept else 0
        return kept is not None

    def _tell(self, letter: DeadLetter, dropped: int) -> None:
        child = self._directory.known(letter.ref.sid)
        if child is not None:
            last = letter.reports[-1]
            self._events.tell(
                "dead_letter",
                child,
                report=last,
                incarnation=last.incarnation,
                attempt=0,
                count=dropped,
                letter=letter,
            )

    # --- what processes ask for --------------------------------------------------------

    async def _dead_letters(self, in_full: bool = False) -> dict[str, Any]:
        """Return the letters, the oldest first, and how many there was no room for."""
        letters = [letter_as_plain(kept.letter, in_full=in_full) for kept in self._kept.values()]
        return {"letters": letters, "dropped": self._dropped}

    async def _dead_letter(self, number: int) -> dict[str, Any] | None:
        kept = self._kept.get(number)
        return letter_as_plain(kept.letter) if kept else None

    async def _drop(self, number: int) -> bool:
        """Forget a letter; return whether it was there."""
        return self._take_out(number)

    async def _unearth(self, number: int) -> list[Any]:
        """Return what is needed to send a letter again: its plain values, and the message.

        Raises:
            NoDeadLetterError: It is not there any more, or the message was too large.
        """
        kept = self._retriable(number)
        return [letter_as_plain(kept.letter, in_full=False), kept.payload]

    def _retriable(self, number: int) -> _Kept:
        kept = self._kept.get(number)
        if kept is None:
            raise NoDeadLetterError(number, "it is not there (any more)")
        if not kept.payload:
            raise NoDeadLetterError(number, f"{kept.letter.size} bytes were too much to keep")
        return kept

    async def _send_courier(self, number: int) -> list[Any]:
        """Start the server that sends a letter again when it is called; return which it is.

        Raises:
            NoDeadLetterError: It cannot be sent again, or not now.
            StartFailedError: The courier did not start.
        """
        self._retriable(number)
        couriers = self._couriers = {
            letter: sid
            for letter, sid in self._couriers.items()
            if not sid or self._directory.get(sid)
        }
        if number in couriers:
            raise NoDeadLetterError(number, "somebody sends it again at this moment")
        if len(couriers) >= MAX_COURIERS:
            raise NoDeadLetterError(number, f"{MAX_COURIERS} others are under way; wait for them")
        spec = child(Courier, number).options(restart="temporary", id=f"courier-{number}")
        couriers[number] = 0
        try:
            found = await self._spawn(spec_to_wire(Encoder(allow_pickle=False), spec))
            self._couriers[number] = found[0]
        except BaseException:
            self._couriers.pop(number, None)
            raise
        return found
