"""What stands in the queue of a server: messages of links, and what comes from its own process.

A message stands there as its frame, beside the `Target` that says whose it is; its size, or 0 if
that is not known, has the place of the server's number. When its handler has begun and waits for
something, an `Awaited` takes the place of the operation's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from noex_mp.transport.link import Link
from noex_mp.wire.envelopes import CALL, CALL_KW, CAST_KW, callback_name

if TYPE_CHECKING:
    from noex_mp.worker.activation import Activation
    from noex_mp.worker.mailbox import Mailbox

__all__ = [
    "CALLS",
    "Arrival",
    "Awaited",
    "Target",
    "arguments_of",
    "callback_of",
    "has_begun",
    "is_waiting_call",
]

CALLS: Final = frozenset((CALL, CALL_KW))


class Target:
    """Where the messages of one link to one server go.

    Attributes:
        mailbox: The server's.
        link: Where replies go.
        cell: The place of the started cell: the number of the last message begun.
        is_server: Whether a server sends them, and not a program.
        handler: What the name stands for that the root would find.
        frame: The message that was begun last where it was read.
    """

    __slots__ = ("cell", "frame", "handler", "is_server", "link", "mailbox")

    def __init__(self, mailbox: Mailbox, link: Link, cell: int, *, is_server: bool) -> None:
        self.mailbox = mailbox
        self.link = link
        self.cell = cell
        self.is_server = is_server
        self.frame: list[Any] = []
        self.handler: object = None


class Awaited(NamedTuple):
    """Stands in the queue for a message that has begun: what the task has to await for it.

    Attributes:
        promise: A coroutine that waits for something, or what an operation returned.
        activation: The message's, if no code of the promise's has run yet.
    """

    promise: Any
    activation: Activation | None

    def discard(self) -> None:
        """Drop the promise, which nobody is going to await, without a warning about it."""
        drop = getattr(self.promise, "close", None) or getattr(self.promise, "cancel", None)
        if drop is not None:
            drop()


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


def arguments_of(frame: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a message by position, and those by name."""
    first = 5 if frame[0] in CALLS else 4
    return (frame[first + 1 :], frame[first]) if frame[0] >= CAST_KW else (frame[first:], {})


def has_begun(frame: list[Any]) -> bool:
    """Return whether the handler of a message has begun."""
    return frame[0] <= CALL_KW and isinstance(frame[3], Awaited)


def is_waiting_call(frame: list[Any]) -> bool:
    """Return whether this is a call that has not begun."""
    return frame[0] in CALLS and not isinstance(frame[3], Awaited)


def callback_of(frame: list[Any]) -> str:
    """Return the name of what handles a message, for people."""
    # Behind an `Awaited` stands what was there before.
    name: str = frame[4] if isinstance(frame[3], Awaited) else frame[3]
    return callback_name(name, is_call=frame[0] in CALLS)
