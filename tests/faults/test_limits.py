"""Servers with limits, wherever they run: with the fall-backs, too."""

from __future__ import annotations

import sys

import pytest

from noex_mp import Hung, InitFailedError, ServerExitedError, child, spawn
from noex_mp.core.reasons import Verdict
from noex_mp.transport.platform import FALLBACKS
from tests.nodes.observed import ObservedNode
from tests.servers.limited import Eats, Hangs

pytestmark = pytest.mark.slow


async def test_a_handler_that_hangs_is_ended_whatever_the_system_says_of_it() -> None:
    async with ObservedNode():
        ref = await spawn(child(Hangs).options(hang_timeout=0.2))
        with pytest.raises(ServerExitedError) as failure:
            await Hangs.loop(ref.within(None))
        verdict: Verdict = "unknown" if FALLBACKS else "python"
        assert failure.value.report.reason == Hung(0.2, verdict, "", "loop")
        assert failure.value.report.rule == "hang_timeout"
        # It is up again.
        assert await Hangs.os_pid(ref) > 0


@pytest.mark.skipif(sys.platform == "linux", reason="Linux has such a limit")
async def test_without_such_a_limit_it_is_refused_in_a_sentence() -> None:
    async with ObservedNode():
        with pytest.raises(InitFailedError, match="only Linux has memory_limit="):
            await spawn(child(Eats).options(memory_limit="64MB"))
