"""What mypy and pyright must say about operations, refs and messages. Read, never run.

An ignore that a checker does not need is an error, so each one below proves a complaint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, assert_never, assert_type

from typing_extensions import override

from noex_mp import Node, sync
from noex_mp.core.gen_server import From, GenServer
from noex_mp.core.operations import cast
from noex_mp.core.outcomes import NoReply, Outcome, Reply
from noex_mp.core.ref import Ref
from tests.typing.servers import Counter, LoudCounter, Pop, Push, Size, Stack

P = ParamSpec("P")
S = TypeVar("S", bound=GenServer[Any, Any, Any])


async def spawn(server: Callable[P, S], /, *args: P.args, **kwargs: P.kwargs) -> Ref[S]:
    raise NotImplementedError


async def check_spawn() -> None:
    assert_type(await spawn(Counter, start=3), Ref[Counter])
    assert_type(await spawn(Stack), Ref[Stack])
    await spawn(Counter, start="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await spawn(str, 3)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def check_operations(
    counter: Ref[Counter], loud: Ref[LoudCounter], stack: Ref[Stack]
) -> None:
    assert_type(Counter.increment(counter), asyncio.Future[int])
    assert_type(await Counter.increment(counter, by=2), int)
    assert_type(await Counter.increment(counter.within(0.5)), int)
    assert_type(await Counter.value(counter), int)
    assert_type(await Counter.nothing(counter), None)
    assert_type(await Counter.maybe(counter, "a", "b", loud=True), dict[str, int] | None)
    assert_type(await Counter.lookup(counter, "a"), list[str])
    assert_type(await Counter.slow_lookup(counter, "a"), list[str])
    assert_type(await Counter.reset(counter), None)
    assert_type(await Counter.add(counter, 2), None)
    assert_type(await Counter.finish(counter), None)
    assert_type(await Counter.finish_soon(counter), None)
    assert_type(
        await asyncio.gather(Counter.value(counter), LoudCounter.shout(loud)), tuple[int, str]
    )

    await Counter.increment(stack)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Counter.increment(counter, by="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Counter.increment(counter, to=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await Counter.increment(Counter())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Counter.add(counter)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await counter.increment()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


async def check_outcomes_are_unwrapped(counter: Ref[Counter]) -> None:
    assert_type(await Counter.close(counter), int)
    assert_type(await Counter.close_now(counter), int)
    assert_type(await Counter.wait_for(counter, target=9), int)
    assert_type(await Counter.wait_for_sync(counter), int)
    assert_type(await Counter.now_or_later(counter, 9), int)
    assert_type(await Counter.reply_or_later(counter, 9), str)


async def check_a_parameter_that_takes_anything_is_no_sender(counter: Ref[Counter]) -> None:
    assert_type(await Counter.store(counter, "a"), int)
    assert_type(await Counter.store_many(counter, "a", 3), int)
    assert_type(await Counter.store_and_stop(counter, "a"), int)
    assert_type(await Counter.configure(counter, size="3"), int)
    await Counter.store(counter)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def check_subclasses(loud: Ref[LoudCounter], counter: Ref[Counter]) -> None:
    assert_type(await Counter.increment(loud), int)
    assert_type(await LoudCounter.increment(loud), int)
    assert_type(await LoudCounter.shout(loud), str)
    await LoudCounter.shout(counter)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def check_bound(counter: Ref[Counter], stack: Ref[Stack]) -> None:
    bump = Counter.increment.on(counter)
    assert_type(await bump(by=2), int)
    assert_type(await Counter.wait_for.on(counter)(3), int)
    await bump(by="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Counter.increment.on(stack)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_sync(counter: Ref[Counter], loud: Ref[LoudCounter], stack: Ref[Stack]) -> None:
    assert_type(Counter.increment.sync(counter, by=2), int)
    assert_type(Counter.increment.sync(loud.within(0.5)), int)
    assert_type(Counter.value.sync(counter), int)
    assert_type(Counter.close.sync(counter), int)
    assert_type(Counter.wait_for.sync(counter, target=9), int)
    Counter.increment.sync(counter, by="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Counter.increment.sync(stack)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Counter.add.sync(counter)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    LoudCounter.shout.sync(counter)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(sync.spawn(Counter, start=3), Ref[Counter])
    sync.spawn(Counter, start="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    assert_type(sync.whereis("counter", Counter), Ref[Counter] | None)
    assert_type(sync.call(stack, Pop()), str)
    assert_type(sync.call(stack, "get"), Any)
    with Node() as node:
        assert_type(node.spawn(Counter, start=3), Ref[Counter])


async def check_instances(sender: From[int]) -> None:
    pending = Counter().increment(3)
    _: Coroutine[Any, Any, int] = pending
    assert_type(await pending, int)
    assert_type(Counter().value(), int)
    assert_type(await LoudCounter(start=3).increment(), int)
    assert_type(Counter().close_now(), Reply[int])
    assert_type(await Counter().close(), Reply[int])
    assert_type(await Counter().now_or_later(sender, 3), Reply[int] | NoReply)
    assert_type(Counter().add(3), None)
    Counter().value(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    sender.reply("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def check_messages(stack: Ref[Stack]) -> None:
    assert_type(await stack.call(Pop()), str)
    assert_type(await stack.call(Size()), int)
    assert_type(await stack.call("get"), Any)
    assert_type(await stack.cast(Push("a")), None)
    assert_type(await stack.is_running(), bool)
    assert_type(Push("a").item, str)
    assert_type(Pop().reply("a"), Outcome[str])
    Push(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Push("a").item = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    Pop().reply(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_refs(loud: Ref[LoudCounter], counter: Ref[Counter]) -> tuple[Ref[Counter], Ref[Stack]]:
    assert_type(counter.within(None), Ref[Counter])
    assert_type(Counter().ref, Ref[Counter])
    return loud, loud  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


class Odd(GenServer):
    @cast  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    def answers(self) -> int:
        return 3


class Unhandled(GenServer[Pop | Size]):
    @override
    def handle_call(self, request: Pop | Size, sender: From[Any]) -> Outcome[Any]:
        match request:
            case Pop():
                return request.reply(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            case _:
                assert_never(request)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class BadOption(GenServer, restart="always"):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
    pass
