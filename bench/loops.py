"""The least that event loops in Python can do: what a call could cost on this machine at best.

Two processes with a loop each and a socket between them, and nothing else: no operation, no
mailbox, no time limit, no window, no word of who died. What the runtime must reach is a ratio to
the floor in C; where the kernel is fast, and Python is not, this alone takes all of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Final

import msgpack
import uvloop

from bench.floor import MESSAGE_SIZE, ROUNDS, Numbers, percentiles

__all__ = ["one_at_a_time", "one_way", "together"]

_WARM_UP: Final = 2_000
_SIZE: Final = 64 * 1024
_BATCH: Final = 64

Receive = Callable[[bytes], bytes]
"""Takes what has arrived, and returns what is to be sent."""


def one_at_a_time() -> Numbers:
    """40 bytes there and back, and a future for them; nothing is packed: `p50`, `p99` in µs."""

    async def ask(sock: socket.socket) -> Numbers:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        loop.add_reader(sock, lambda: answer.set_result(sock.recv(_SIZE)))
        message = b"x" * MESSAGE_SIZE
        took: list[int] = []
        for i in range(-_WARM_UP, ROUNDS):
            start = perf_counter_ns()
            answer = loop.create_future()
            sock.send(message)
            await answer
            if i >= 0:
                took.append(perf_counter_ns() - start)
        return percentiles(took)

    return _beside_an_echo(ask, lambda: lambda data: data)


def together() -> Numbers:
    """64 numbered messages in a `send`, packed, and a future for each: `per_second`."""

    def numbered() -> Receive:
        unpacker, pack = msgpack.Unpacker(), msgpack.Packer().pack

        def answers(data: bytes) -> bytes:
            unpacker.feed(data)
            return b"".join([pack([number, value]) for number, value in unpacker])

        return answers

    async def ask(sock: socket.socket) -> Numbers:
        loop = asyncio.get_running_loop()
        waiting: dict[int, asyncio.Future[int]] = {}
        unpacker, pack = msgpack.Unpacker(), msgpack.Packer().pack

        def arrived() -> None:
            unpacker.feed(sock.recv(_SIZE))
            for number, value in unpacker:
                waiting.pop(number).set_result(value)

        def call(number: int) -> asyncio.Future[int]:
            out.append(pack([number, number]))
            future = waiting[number] = loop.create_future()
            return future

        loop.add_reader(sock, arrived)
        start = 0
        for number in range(-_WARM_UP, ROUNDS, _BATCH):
            if -_BATCH < number <= 0:
                start = perf_counter_ns()
            out: list[bytes] = []
            calls = [call(each) for each in range(number, number + _BATCH)]
            sock.send(b"".join(out))
            await asyncio.gather(*calls)
        return {"per_second": ROUNDS * 1e9 / (perf_counter_ns() - start)}

    return _beside_an_echo(ask, numbered)


def one_way() -> Numbers:
    """Numbered messages, packed, 64 in a `send`, counted there; no answer but at the end."""
    count = 20 * ROUNDS // _BATCH * _BATCH

    def counting() -> Receive:
        unpacker, seen = msgpack.Unpacker(), 0

        def take(_: int) -> None:
            nonlocal seen
            seen += 1

        def answer(data: bytes) -> bytes:
            unpacker.feed(data)
            for number, _ in unpacker:
                take(number)
            return b"x" if seen == count else b""

        return answer

    async def ask(sock: socket.socket) -> Numbers:
        loop = asyncio.get_running_loop()
        pack = msgpack.Packer().pack
        done = loop.create_future()
        loop.add_reader(sock, lambda: done.set_result(sock.recv(1)))
        start = perf_counter_ns()
        for number in range(0, count, _BATCH):
            data = b"".join([pack([each, each]) for each in range(number, number + _BATCH)])
            # The worker needs the core, too, when its socket is full.
            while True:
                try:
                    sock.send(data)
                    break
                except BlockingIOError:
                    os.sched_yield()
        await done
        return {"per_second": count * 1e9 / (perf_counter_ns() - start)}

    return _beside_an_echo(ask, counting)


def _beside_an_echo(ask: Callable[[socket.socket], Any], receive: Callable[[], Receive]) -> Numbers:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        try:
            uvloop.run(_answer(theirs, receive()))
        finally:
            os._exit(0)
    theirs.close()
    ours.setblocking(False)
    numbers: Numbers = uvloop.run(ask(ours))
    ours.close()
    os.waitpid(child, 0)
    return numbers


async def _answer(sock: socket.socket, receive: Receive) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def arrived() -> None:
        data = sock.recv(_SIZE)
        if not data:
            loop.remove_reader(sock)
            ended.set_result(None)
        elif answer := receive(data):
            sock.send(answer)

    sock.setblocking(False)
    loop.add_reader(sock, arrived)
    await ended
