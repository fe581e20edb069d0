"""One of two processes dies while 64 MiB are on their way between them, in each direction."""

from __future__ import annotations

import os
import signal

import pytest

from noex_mp import Killed, NoServerError, ServerExitedError, child, spawn
from tests.faults.aftermath import scene
from tests.nodes.observed import Whistles, on_both_loops
from tests.servers.faulty import Faulty
from tests.servers.hostile import MIB, Asker, Hostile, stop_half_way

pytestmark = pytest.mark.slow

BIG = 64 * MIB


@on_both_loops
async def test_a_server_that_dies_with_half_an_argument_has_not_begun() -> None:
    async with scene() as (node, _):
        for restart in ("transient", "temporary"):
            faulty = await spawn(child(Faulty).options(restart=restart))
            os_pid = await Faulty.os_pid(faulty)
            sending = Faulty.size(faulty.within(None), bytes(BIG))
            await stop_half_way(faulty, os_pid, BIG)
            behind = Faulty.step(faulty.within(None), 1)
            node.kill(faulty)
            if restart == "transient":
                assert [await sending, await behind] == [BIG, 1]
            else:
                with pytest.raises(NoServerError) as failure:
                    await sending
                assert failure.value.report is not None
                assert failure.value.report.reason == Killed("SIGKILL")
                with pytest.raises(NoServerError):
                    await behind


@on_both_loops
async def test_a_server_that_dies_with_half_a_reply_had_begun(whistles: Whistles) -> None:
    async with scene() as (node, _):
        faulty, asker, started = await spawn(Hostile), await spawn(Asker), whistles()
        asker_os_pid = await Asker.os_pid(asker)
        asking = Asker.ask_for_big_and_stop(asker.within(None), faulty, BIG, started.path)
        await started.heard()
        # It is in its handler. When `echo` has its turn, it has sent what the socket takes.
        assert await Faulty.echo(faulty, 1) == 1
        node.kill(faulty)
        await node.event("restarted", faulty)
        os.kill(asker_os_pid, signal.SIGCONT)
        with pytest.raises(ServerExitedError) as failure:
            await asking
        cause = failure.value.__cause__
        assert isinstance(cause, ServerExitedError)
        assert (cause.started, cause.report.reason) == (True, Killed("SIGKILL"))
        assert len(await Faulty.big(faulty, BIG)) == BIG


@on_both_loops
async def test_a_client_that_dies_with_half_an_argument_leaves_its_server_unharmed(
    whistles: Whistles,
) -> None:
    async with scene() as (node, _):
        faulty, asker, started = await spawn(Faulty), await spawn(Asker), whistles()
        os_pid = await Faulty.os_pid(faulty)
        sending = Asker.send_big(asker.within(None), faulty, BIG, started.path)
        await started.heard()
        node.kill(asker)
        with pytest.raises(ServerExitedError):
            await sending
        os.kill(os_pid, signal.SIGCONT)
        # It is told who left it in the middle, and of how much.
        assert "bytes are missing" in await node.line("link closed: ")
        assert await Faulty.size(faulty, bytes(BIG)) == BIG
        assert await Faulty.os_pid(faulty) == os_pid
        assert await Asker.os_pid(asker)


@on_both_loops
async def test_a_client_that_dies_with_half_a_reply_leaves_its_server_unharmed(
    whistles: Whistles,
) -> None:
    async with scene() as (node, _):
        faulty, asker, started = await spawn(Hostile), await spawn(Asker), whistles()
        os_pid = await Faulty.os_pid(faulty)
        asking = Asker.ask_for_big_and_stop(asker.within(None), faulty, BIG, started.path)
        await started.heard()
        assert await Faulty.echo(faulty, 1) == 1
        node.kill(asker)
        with pytest.raises(ServerExitedError):
            await asking
        assert len(await Faulty.big(faulty, BIG)) == BIG
        assert await Faulty.os_pid(faulty) == os_pid
        await node.event("restarted", asker)
        assert await Asker.ask_for_big(asker, faulty, BIG) == BIG
