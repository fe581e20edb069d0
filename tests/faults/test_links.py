"""Nonsense on a link ends that link, with an error that names the peer; all processes live on."""

# The tests take the runtime's own sockets to write what it never would.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from typing import Any

import msgpack
import pytest

from noex_mp import (
    NodeDownError,
    Ref,
    RemoteProtocolError,
    ServerExitedError,
    child,
    spawn,
)
from noex_mp.client import current
from noex_mp.client.client import Client
from noex_mp.transport.link import Link
from noex_mp.wire.envelopes import BUFFERS, CALL, ERROR, LOCATE, REPLY, REQUEST
from tests.nodes.observed import (
    ObservedNode,
    Whistles,
    on_all_loops,
    on_both_loops,
    shared_node,
)
from tests.servers.counters import Counter, Journal
from tests.servers.faulty import Faulty

pytestmark = pytest.mark.usefixtures("shared_nodes")

_random = random.Random(4711)

# Each must end the link by itself; half a frame does so once the peer closes behind it.
NONSENSE: dict[str, bytes] = {
    "no msgpack": b"\xc1" * 10,
    "no list": msgpack.packb("hello"),
    "an empty list": msgpack.packb([]),
    "an unknown kind": msgpack.packb([99, 1, 2]),
    "a frame over the limit": b"\xdd\xff\xff\xff\xff",
    "buffers over the limit": msgpack.packb([BUFFERS, [[False, 2**60]]]),
    "buffers of no size": msgpack.packb([BUFFERS, [[False, -5]]]),
    "buffers that are none": msgpack.packb([BUFFERS]),
    "a message without its elements": msgpack.packb([CALL]),
    "random bytes": b"\xc1" + _random.randbytes(5000),
}
HALF_A_FRAME = msgpack.packb([CALL, 1, 1, "echo", "x" * 100])[:50]
HALF_A_BUFFER = msgpack.packb([BUFFERS, [[False, 200_000]]]) + b"x" * 1000


def client_of(node: ObservedNode) -> Client:
    return current.client(node.id)


def link_to(node: ObservedNode, ref: Ref[Any]) -> Link:
    route = client_of(node).route(ref.sid, ref.label)
    assert route.link is not None
    return route.link


# --- data links --------------------------------------------------------------------------------


async def test_an_idle_link_does_not_keep_what_it_has_read_last() -> None:
    ours, theirs = socket.socketpair()
    seen: list[int] = []
    ended = asyncio.Event()

    def on_frames(link: Link) -> None:
        seen.extend(len(link.reader.data) for _ in link.arrived)

    def on_close(link: Link, problem: Exception | None) -> None:
        ended.set()

    loop = asyncio.get_running_loop()
    link = Link(loop, ours, peer="us", on_frames=on_frames, on_close=on_close)
    with theirs:
        theirs.send(msgpack.packb([CALL, "x" * 1000]) * 2)
        link.drain()
        assert seen == [2010, 2010]
        assert link.reader.data == b""
    await ended.wait()


@pytest.mark.slow
@on_both_loops
async def test_nonsense_from_a_client_ends_its_link_and_not_the_worker() -> None:
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        os_pid = await Faulty.os_pid(faulty)
        for n, (kind, data) in enumerate(NONSENSE.items()):
            os.write(link_to(node, faulty).fd, data)
            assert await Faulty.os_pid(faulty) == os_pid, kind
            assert "link closed" in node.lines[n], kind
        # The errors name the peer: this program.
        assert all(sys.argv[0].rpartition("/")[2] in line for line in node.lines), node.lines


@pytest.mark.parametrize("half", [HALF_A_FRAME, HALF_A_BUFFER], ids=["frame", "buffer"])
async def test_a_client_that_closes_in_the_middle_of_a_frame_is_named(half: bytes) -> None:
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        os_pid = await Faulty.os_pid(faulty)
        link = link_to(node, faulty)
        os.write(link.fd, half)
        link._sock.shutdown(socket.SHUT_WR)
        line = await node.line("link closed")
        assert "beginning of a frame" in line or "bytes are missing" in line
        assert await Faulty.os_pid(faulty) == os_pid


@on_all_loops
async def test_calls_that_had_not_begun_when_the_link_broke_are_sent_again() -> None:
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 0)
        before = [Faulty.step(faulty, n) for n in range(5)]
        link = link_to(node, faulty)
        link.flush()
        os.write(link.fd, NONSENSE["no msgpack"])
        after = [Faulty.step(faulty, n) for n in range(5, 10)]
        assert await asyncio.gather(*before, *after) == list(range(10))
        assert await Faulty.all(faulty) == list(range(10))


@pytest.mark.slow
@on_both_loops
async def test_the_end_of_a_link_is_heard_though_its_worker_has_not_read_everything(
    whistles: Whistles,
) -> None:
    # The kernel makes a reset of such an end, which uvloop would keep to itself.
    started, release = whistles(), whistles()
    async with shared_node() as node:
        journal = await spawn(Journal)
        blocked = Journal.block(journal.within(None), started.path, release.path)
        await started.heard()
        os.write(link_to(node, journal).fd, NONSENSE["no msgpack"] + bytes(150_000))
        release.blow()
        await blocked
        assert await Journal.record(journal, 1) == 1


@pytest.mark.slow
async def test_no_call_runs_twice_when_its_link_breaks(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    async with shared_node() as node:
        journal = await spawn(Journal)
        paused = Journal.pause(journal.within(None), started.path, release.path)
        # Read by the worker, and in the server's queue.
        queued = [Journal.record(journal.within(None), n) for n in range(3)]
        await started.heard()
        os.write(link_to(node, journal).fd, NONSENSE["no msgpack"])
        # The pause had begun: it fails, and its server goes on with it all the same.
        with pytest.raises(ServerExitedError):
            await paused
        release.blow()
        assert await asyncio.gather(*queued) == [0, 1, 2]
        assert await Journal.all(journal) == [0, 1, 2]


@pytest.mark.slow
async def test_a_call_in_hand_fails_at_once_when_its_link_breaks(whistles: Whistles) -> None:
    started = whistles()
    async with shared_node() as node:
        faulty = await spawn(child(Faulty).options(shutdown=0.05))
        waiting = Faulty.wait(faulty.within(None), started.path)
        await started.heard()
        os.write(link_to(node, faulty).fd, NONSENSE["no msgpack"])
        with pytest.raises(ServerExitedError) as failure:
            await waiting
        assert failure.value.started
        assert "link" in failure.value.report.summary


async def test_a_link_that_breaks_does_not_disturb_the_other_clients() -> None:
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 0)
        lost = link_to(node, faulty)

        async def use_from_another_loop() -> None:
            for n in range(50):
                assert await Faulty.echo(faulty, n) == n

        others = asyncio.gather(
            *(asyncio.to_thread(asyncio.run, use_from_another_loop()) for _ in range(2))
        )
        os.write(lost.fd, NONSENSE["no msgpack"])
        await others
        assert await Faulty.echo(faulty, 1) == 1


REPLY_NONSENSE: dict[str, bytes] = {
    **{kind: NONSENSE[kind] for kind in NONSENSE if kind != "a message without its elements"},
    "a reply without its elements": msgpack.packb([REPLY]),
}


@pytest.mark.slow
@on_both_loops
async def test_nonsense_from_a_worker_ends_the_link_and_not_the_program() -> None:
    async with shared_node() as node:
        for kind, data in REPLY_NONSENSE.items():
            faulty = await spawn(Faulty)
            os_pid = await Faulty.os_pid(faulty)
            # What the worker would send arrives here: our own reader gets it.
            link = link_to(node, faulty)
            link._recv = lambda size, data=data: data  # type: ignore[misc]
            link.read()
            assert link.closed, kind
            assert await Faulty.os_pid(faulty) == os_pid, kind


async def test_an_error_that_is_none_does_not_leave_its_call_hanging() -> None:
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 0)
        link = link_to(node, faulty)
        calling = Faulty.echo(faulty, 1)
        data = msgpack.packb([ERROR, faulty.sid, 2, "no exception"])
        link._recv = lambda size: data
        link.read()
        link._recv = link._sock.recv
        with pytest.raises(RemoteProtocolError, match="an error that is none"):
            await calling
        assert await Faulty.echo(faulty, 1) == 1


# --- control links -----------------------------------------------------------------------------

CONTROL_NONSENSE: dict[str, bytes] = {
    **{k: v for k, v in NONSENSE.items() if k != "a message without its elements"},
    "a frame without its elements": msgpack.packb([REQUEST]),
    "a request of no method": msgpack.packb([REQUEST, 1, [0], 3]),
    "a server with a strange number": msgpack.packb([LOCATE, [1]]),
}


@on_both_loops
async def test_nonsense_on_a_programs_control_link_ends_no_process() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        os_pid = await Faulty.os_pid(faulty)
        for kind, data in CONTROL_NONSENSE.items():
            client = client_of(node)
            os.write(client._control.fd, data)
            # Whatever the root makes of it, afterwards we can go on.
            with_what = [client.request("names"), asyncio.sleep(0)]
            await asyncio.gather(*with_what, return_exceptions=True)
            async with asyncio.timeout(2):
                assert await Faulty.os_pid(faulty) == os_pid, kind
                assert await faulty.is_running(), kind


@on_both_loops
async def test_the_end_of_a_control_link_is_heard_though_not_everything_was_read() -> None:
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        client = client_of(node)
        os.write(client._control.fd, NONSENSE["no msgpack"] + bytes(150_000))
        with pytest.raises(NodeDownError):
            await client.request("names")
        assert await Faulty.echo(faulty, 1) == 1


async def test_a_broken_control_link_of_a_program_fails_its_requests_at_once() -> None:
    async with shared_node() as node:
        await spawn(Faulty)
        client = client_of(node)
        os.write(client._control.fd, NONSENSE["no msgpack"])
        with pytest.raises(NodeDownError):
            await client.request("names")


@on_both_loops
async def test_nonsense_from_a_workers_control_link_costs_that_worker() -> None:
    async with ObservedNode() as node:
        counter = await spawn(Counter)
        before = await Counter.os_pid(counter)
        for data in (NONSENSE["no msgpack"], NONSENSE["an unknown kind"], NONSENSE["no list"]):
            faulty = await spawn(Faulty)
            # It may be dead before its reply has left.
            await asyncio.gather(Faulty.say_to_root(faulty, data), return_exceptions=True)
            await node.event("restarted", faulty)
            assert await Faulty.echo(faulty, 1) == 1
        assert await Counter.os_pid(counter) == before


async def test_a_worker_that_talks_nonsense_is_said_to_have_done_so() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 1)
        Faulty.say_to_root(faulty, NONSENSE["no msgpack"])
        report = (await node.event("crashed", faulty)).report
        assert report is not None
        # We killed it, and say so, instead of "killed by SIGKILL".
        assert "msgpack" in report.summary


async def test_nonsense_from_the_root_ends_the_worker_with_a_line_that_says_so() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        assert node._root is not None
        assert node._loop is not None
        (worker,) = node._root._workers.all()
        os.write(worker.connection.control.fd, NONSENSE["no msgpack"])
        assert "the root sent" in await node.line("the root sent")
        assert (await node.event("restarted", faulty)).incarnation == 2
        assert await Faulty.echo(faulty, 1) == 1


async def test_nonsense_from_the_root_fails_what_a_program_asked_for() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 1)
        assert node._root is not None
        (connection,) = node._root._connections
        os.write(connection.control.fd, NONSENSE["no msgpack"])
        client = client_of(node)
        while not client.closed:
            # Some may come back before the nonsense is read.
            await asyncio.gather(client.request("names"), return_exceptions=True)
        with pytest.raises(NodeDownError):
            await client.request("names")
        assert await Faulty.echo(faulty, 1) == 1


@pytest.mark.slow
async def test_random_bytes_never_bring_a_worker_down() -> None:
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        os_pid = await Faulty.os_pid(faulty)
        for _ in range(20):
            link = link_to(node, faulty)
            os.write(link.fd, _random.randbytes(_random.randrange(1, 300)))
            # Random bytes may be the start of something long: end it.
            link._sock.shutdown(socket.SHUT_WR)
            assert await Faulty.os_pid(faulty) == os_pid
