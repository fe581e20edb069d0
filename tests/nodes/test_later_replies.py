"""Who replies later can also refuse, and knows whether anybody waits still."""

from __future__ import annotations

import asyncio

import pytest

from noex_mp import CallTimedOutError, spawn
from noex_mp.client import current
from tests.nodes.observed import (
    Whistles,
    shared_node,
)
from tests.servers.deferring import Deferring

pytestmark = pytest.mark.usefixtures("shared_nodes")


async def test_a_later_reply_may_be_an_error_and_the_server_lives_on() -> None:
    async with shared_node():
        ref = await spawn(Deferring)
        asked = Deferring.ask(ref, "a")
        await Deferring.refuse(ref, "a", "no")
        with pytest.raises(ValueError, match="no"):
            await asked
        # Only the first one counts.
        await Deferring.reply(ref, "a", 1)
        again = Deferring.ask(ref, "a")
        await Deferring.reply(ref, "a", 2)
        await Deferring.refuse(ref, "a", "no")
        assert await again == 2


async def test_a_sender_knows_whether_it_still_waits() -> None:
    async with shared_node():
        ref = await spawn(Deferring)
        for_ever, for_long = (
            Deferring.ask(ref.within(limit), name) for limit, name in ((None, "a"), (60.0, "b"))
        )
        while not await Deferring.has_asked(ref, "c"):
            # One that comes too late, on a busy machine, is never begun.
            with pytest.raises(CallTimedOutError):
                await Deferring.ask(ref.within(0.05), "c")
        assert await Deferring.is_wanted(ref, "a") == (True, None)
        is_wanted, left = await Deferring.is_wanted(ref, "b")
        assert is_wanted
        assert left is not None
        assert 0 < left < 60
        assert await Deferring.is_wanted(ref, "c") == (False, 0.0)
        for_ever.cancel()
        while await Deferring.who_left(ref) != ["a"]:
            pass
        assert not (await Deferring.is_wanted(ref, "a"))[0]
        await Deferring.reply(ref, "b", 1)
        assert await for_long == 1


async def test_callers_are_told_apart() -> None:
    async with shared_node():
        ref = (await spawn(Deferring)).within(None)
        asked = [Deferring.ask(ref, name) for name in "ab"]
        thread = asyncio.create_task(asyncio.to_thread(Deferring.ask.sync, ref, "c"))
        while not await Deferring.has_asked(ref, "c"):
            pass
        callers = [await Deferring.who(ref, name) for name in "abc"]
        assert callers[0] == callers[1] != callers[2]
        for name in "abc":
            await Deferring.reply(ref, name, 1)
        await asyncio.gather(*asked, thread)


async def test_on_a_link_for_which_nothing_has_run_at_once_a_call_may_be_cancelled(
    whistles: Whistles,
) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        ref = (await spawn(Deferring)).within(None)
        asked = Deferring.ask(ref, "a")
        while not await asyncio.to_thread(Deferring.has_asked.sync, ref, "a"):
            pass
        blocked = asyncio.create_task(
            asyncio.to_thread(Deferring.block.sync, ref, coming.path, going.path)
        )
        await coming.heard()
        # The news of it arrives together with another message.
        other = Deferring.ask(ref, "b")
        asked.cancel()
        client = current.client()
        while len(client.route(ref.sid, ref.label).pending) > 1:
            await client.next_turn()
        going.blow()
        await blocked
        assert await Deferring.who_left(ref) == ["a"]
        await Deferring.reply(ref, "b", 2)
        assert await other == 2
