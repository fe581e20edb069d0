"""Dead letters, as whoever may act on them has them: to look at, to send again, to drop."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noex_mp.core.dead_letters import DeadLetter, letter_from_plain
from noex_mp.errors import NoDeadLetterError, NodeDownError

if TYPE_CHECKING:
    from noex_mp.client.client import Client

__all__ = ["dead_letters_on", "drop_on", "retry_on"]


@dataclass(frozen=True)
class _Again:
    """The operation of a letter, as far as a route needs to know it.

    Attributes:
        letter: The number of the letter, which stays the same if it is given up once more.
    """

    name: str
    max_deliveries: int
    letter: int
    idempotent: bool = True


async def dead_letters_on(client: Client) -> list[DeadLetter]:
    """Return the dead letters of a client's node, the oldest first."""
    answer: dict[str, Any] = await client.request("dead_letters", True)
    return [letter_from_plain(plain, client.node) for plain in answer["letters"]]


async def retry_on(client: Client, letter: int | DeadLetter, timeout: float | None) -> Any:
    """Send a letter's message again; forget the letter when the reply has come, and return that.

    Raises:
        NoDeadLetterError: There is no such letter, or its message was not kept.
        CallError: As of any call; the letter stays.
    """
    number = _number(client, letter)
    plain, payload = await client.request("unearth", number)
    operation = _Again(plain["operation"], plain["deliveries"], number)
    packed = payload[0] if len(payload) == 1 else payload
    route = client.route(plain["sid"], plain["label"])
    reply = await route.send_again(operation, packed, timeout)
    await drop_on(client, number)
    return reply


async def drop_on(client: Client, letter: int | DeadLetter) -> None:
    """Forget a letter."""
    # With the node all of them are gone.
    with contextlib.suppress(NodeDownError):
        await client.request("drop_dead_letter", _number(client, letter))


def _number(client: Client, letter: int | DeadLetter) -> int:
    if not isinstance(letter, DeadLetter):
        return letter
    if letter.ref.node != client.node:
        raise NoDeadLetterError(letter.id, "it belongs to another node")
    return letter.id
