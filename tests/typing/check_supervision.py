"""What mypy and pyright must say about events and supervisors. Read, never run.

An ignore that a checker does not need is an error, so each one below proves a complaint.
"""

from __future__ import annotations

from typing import Any, assert_type

from noex_mp import (
    Event,
    ExitReason,
    Node,
    Ref,
    Supervisor,
    SupervisorRef,
    child,
    current_node,
    supervisor,
    sync,
)
from tests.typing.servers import Counter


async def check_events(node: Node) -> None:
    async for event in node.events(buffer=10):
        assert_type(event, Event)
        assert_type(event.ref, Ref[Any] | SupervisorRef)
        assert_type(event.reason, ExitReason | None)
        if event.kind == "crashd":  # type: ignore[comparison-overlap]  # pyright: ignore[reportUnnecessaryComparison]
            return
    stop_listening = current_node().on_event(takes_an_event)
    assert_type(stop_listening(), None)
    node.on_event(takes_a_text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_blocking_events() -> None:
    for event in sync.current_node().events():
        assert_type(event, Event)


def takes_an_event(event: Event) -> None:
    raise NotImplementedError


def takes_a_text(text: str) -> None:
    raise NotImplementedError


async def check_supervisors() -> None:
    assert_type(await supervisor("rooms").start_child(child(Counter)), Ref[Counter])
    assert_type(await supervisor("rooms").start_child(Supervisor()), SupervisorRef)
    assert_type(await supervisor("rooms").start_child("lobby"), Ref[Any])


def check_blocking_supervisors() -> None:
    assert_type(sync.supervisor("rooms").start_child(child(Counter)), Ref[Counter])
    assert_type(sync.supervisor("rooms").start_child(Supervisor()), SupervisorRef)
    assert_type(sync.supervisor("rooms").start_child("lobby"), Ref[Any])
