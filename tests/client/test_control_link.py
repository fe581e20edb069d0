"""What a link of the control plane gathers, and the order in which it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from noex_mp import UnencodableError
from noex_mp.transport.control_link import MAX_REQUESTED, ControlLink
from noex_mp.wire.codec import Encoder
from noex_mp.wire.envelopes import LOST, REQUESTS
from noex_mp.wire.stream import FrameReader


class Peer:
    """The other end of a link: what has arrived there."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = FrameReader(peer="the link")

    def frames(self) -> list[list[Any]]:
        with contextlib.suppress(BlockingIOError):
            while data := self._sock.recv(65536):
                self._reader.feed(data)
        return list(self._reader.frames())


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def link_on(sock: socket.socket) -> ControlLink:
    return ControlLink(
        asyncio.get_running_loop(),
        sock,
        peer="the root",
        on_frame=lambda link, frame: None,
        on_close=lambda link, problem: None,
        encoder=Encoder(),
    )


async def test_requests_of_one_turn_leave_together_and_before_what_is_posted_after_them(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    link, peer = link_on(ends[0]), Peer(ends[1])
    link.post_request([1, "register", "a"])
    with pytest.raises(UnencodableError):
        link.post_request([2, "register", "\ud800"])
    link.post_request([3, "register", "b"])
    assert peer.frames() == []
    link.post([LOST, 7, 1, 1])
    link.post_request([4, "unregister", "a"])
    together = [REQUESTS, [[1, "register", "a"], [3, "register", "b"]]]
    assert peer.frames() == [together, [LOST, 7, 1, 1]]
    await asyncio.sleep(0)
    assert peer.frames() == [[REQUESTS, [[4, "unregister", "a"]]]]
    link.post_request([5, "register", "c"])
    link.close()
    assert peer.frames() == [[REQUESTS, [[5, "register", "c"]]]]


async def test_many_requests_do_not_wait_for_the_end_of_the_turn(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    link, peer = link_on(ends[0]), Peer(ends[1])
    requests: list[list[Any]] = [[n, "register", f"lobby/{n}", None, b""] for n in range(5000)]
    for request in requests:
        link.post_request(request)
    arrived = peer.frames()
    await asyncio.sleep(0)
    arrived += peer.frames()
    assert [request for _, gathered in arrived for request in gathered] == requests
    sizes = [len(Encoder().pack(frame)) for frame in arrived]
    assert MAX_REQUESTED < max(sizes) < 2 * MAX_REQUESTED
    assert max(sizes) == pytest.approx(min(sizes[:-1]), rel=0.01)
    link.close()
