"""Values whose own code sends messages while they are being sent."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from noex_mp import GenServer, Node, Ref, UnencodableError, call, spawn
from noex_mp.wire.codec import BIG
from tests.nodes.observed import (
    SERVERS,
    on_both_loops,
    shared_node,
)
from tests.servers.counters import Journal
from tests.wire.samples import Talking

pytestmark = pytest.mark.usefixtures("shared_nodes")


@pytest.fixture(autouse=True)
def says() -> Iterator[Callable[..., None]]:
    """Set what `Talking` sends."""
    yield lambda *said: Talking.said.extend(said)
    Talking.said.clear()


class Speaker(GenServer):
    """Replies with a value that sends a note to a journal first."""

    @call
    def speak(self, journal: Ref[Journal], content: object) -> Talking:
        Talking.said[:] = [lambda: Journal.note.nowait(journal, "by the way")]
        return Talking(content)


def contents(items: list[object]) -> list[object]:
    return [item.content if isinstance(item, Talking) else item for item in items]


@on_both_loops
async def test_what_a_value_says_comes_before_the_value(says: Callable[..., None]) -> None:
    async with shared_node():
        journal = await spawn(Journal)
        says(lambda: Journal.note(journal, "by the way"))
        for i in range(3):
            await Journal.note(journal, Talking(i))
            await Journal.record(journal, Talking(10 + i))
        assert contents(await Journal.all(journal)) == [
            *("by the way", 0, "by the way", 10),
            *("by the way", 1, "by the way", 11),
            *("by the way", 2, "by the way", 12),
        ]


async def test_a_call_out_of_a_value_has_a_reply_of_its_own(says: Callable[..., None]) -> None:
    async with shared_node():
        journal = await spawn(Journal)
        replies: list[Awaitable[object]] = []
        says(lambda: replies.append(Journal.record(journal, "inner")))
        outer = await Journal.record(journal, Talking("outer"))
        assert isinstance(outer, Talking)
        assert [await reply for reply in replies] == ["inner"]


async def test_big_values_and_values_that_say_such_arrive_whole(
    says: Callable[..., None],
) -> None:
    async with shared_node():
        journal = await spawn(Journal)
        inner, outer = b"i" * (2 * BIG), b"o" * (2 * BIG)
        says(lambda: Journal.note(journal, [inner, (1, 2)]))
        await Journal.note(journal, [outer, Talking("x"), outer])
        await Journal.note(journal, "last")
        got = await Journal.all(journal)
        # It is packed once to see that it is big, and once to leave.
        assert got[:-2] == [[inner, (1, 2)]] * (len(got) - 2)
        assert (got[-2][0], got[-2][2], got[-1]) == (outer, outer, "last")


async def test_what_a_value_says_may_be_the_first_message_to_a_server(
    says: Callable[..., None],
) -> None:
    async with shared_node():
        journal, other = await spawn(Journal), await spawn(Journal)
        says(lambda: Journal.note(other, "first"))
        await Journal.note(journal, Talking(1))
        assert await Journal.all(other) == ["first"]


async def test_a_value_that_says_what_cannot_be_sent_fails_alone(
    says: Callable[..., None],
) -> None:
    async with shared_node():
        journal = await spawn(Journal)
        says(lambda: Journal.note(journal, threading.Lock()))
        with pytest.raises(UnencodableError, match=r"args\[0\]: <Talking>.*args\[0\]: <lock>"):
            await Journal.note(journal, Talking(1))
        Talking.said.clear()
        await Journal.note(journal, Talking(2))
        assert contents(await Journal.all(journal)) == [2]


async def test_a_value_that_says_itself_is_refused(says: Callable[..., None]) -> None:
    async with shared_node():
        journal = await spawn(Journal)
        says(lambda: Journal.note(journal, Talking(1)))
        with pytest.raises(UnencodableError, match="<Talking>"):
            await Journal.note(journal, Talking(1))
        Talking.said.clear()
        assert await Journal.record(journal, 3) == 3


async def test_a_reply_may_say_something_too() -> None:
    async with shared_node():
        journal, speaker = await spawn(Journal), await spawn(Speaker)
        for content in (1, b"b" * (2 * BIG)):
            reply = await Speaker.speak(speaker, journal, content)
            assert reply.content == content
        assert set(await Journal.all(journal)) == {"by the way"}


def test_a_thread_may_block_in_a_value(says: Callable[..., None]) -> None:
    with Node(preload=SERVERS) as node:
        journal = node.spawn(Journal)
        says(lambda: Journal.record.sync(journal, "by the way"))
        Journal.note.sync(journal, Talking(1))
        assert isinstance(Journal.record.sync(journal, Talking(2)), Talking)
        assert contents(Journal.all.sync(journal)) == ["by the way", 1, "by the way", 2]
