"""A root that is killed while a program outside of its node waits for a reply."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from noex_mp import ExitReport, NodeDownError, RootDied, ServerExitedError, Shutdown
from noex_mp.client.client import Client
from tests.cli.harness import PATIENCE, command, environment, running
from tests.nodes.outside import Sent, outside

pytestmark = pytest.mark.slow


@asynccontextmanager
async def a_call_in_work() -> AsyncGenerator[tuple[Client, asyncio.Future[None]]]:
    """Connect as another program does, and call what never replies, until that has begun."""
    async with outside("shop") as client:
        (server,) = [each for each in await client.request("ps") if each["name"] == "visits"]
        route = client.route(server["sid"], server["server"])
        waiting = route.invoke(Sent("never"), (), {}, None)
        # Behind it, on the same link.
        assert await route.invoke(Sent("increment"), (), {}, PATIENCE) == 11
        yield client, waiting


async def test_a_call_from_outside_learns_that_the_root_has_died() -> None:
    with running("app:tree", "--name", "shop") as run:
        async with a_call_in_work() as (client, waiting):
            asked = client.request("ps")
            os.kill(run.process.pid, signal.SIGKILL)
            with pytest.raises(NodeDownError) as failure:
                await asyncio.wait_for(waiting, PATIENCE)
            report = failure.value.report
            assert isinstance(report, ExitReport)
            assert report.reason == RootDied(run.process.pid)
            assert (report.server, report.incarnation) == ("Counter", 1)
            assert str(failure.value) == (
                f"the root process of the node has died (os pid {run.process.pid}), "
                f"and Counter with it"
            )
            assert "ended with the root process of its node" in report.text
            # Answered just before, or not.
            with contextlib.suppress(NodeDownError):
                await asked
            with pytest.raises(NodeDownError, match="has died"):
                await client.request("ps")


async def test_a_node_that_is_stopped_in_good_order_has_not_died() -> None:
    with running("app:tree", "--name", "shop") as run:
        async with a_call_in_work() as (client, waiting):
            run.send(signal.SIGTERM)
            with pytest.raises(ServerExitedError) as failure:
                await asyncio.wait_for(waiting, PATIENCE)
            assert failure.value.report.reason == Shutdown("the node is stopping")
            assert run.status() == 0
            with pytest.raises(NodeDownError, match="has stopped"):
                await client.request("ps")
            assert client.root_died is None


async def test_a_program_that_is_sent_away_does_not_take_the_root_for_dead() -> None:
    with running("app:tree", "--name", "shop") as run:
        async with a_call_in_work() as (client, waiting):
            # No frame of the control plane has this kind.
            client._control.post([99])  # pyright: ignore[reportPrivateUsage]
            with pytest.raises(NodeDownError) as failure:
                await asyncio.wait_for(waiting, PATIENCE)
            assert failure.value.report is None
            assert run.process.poll() is None


def test_noex_mp_call_says_so() -> None:
    with running("app:tree", "--name", "shop") as run:
        words = command("call", "visits", "never", "--timeout", "60")
        with subprocess.Popen(
            words, env=environment(), stderr=subprocess.PIPE, text=True
        ) as calling:
            run.until("never replies", in_="out")
            os.kill(run.process.pid, signal.SIGKILL)
            _, said = calling.communicate(timeout=PATIENCE)
        assert calling.returncode == 1
        assert "the root process of the node has died" in said
