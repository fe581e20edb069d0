"""What is kept of messages that are not delivered any more, and what can be done with it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    CallTimedOutError,
    ConfigError,
    DeadLetter,
    ExitReport,
    Killed,
    Node,
    NoDeadLetterError,
    NoServerError,
    PoisonedMessageError,
    Ref,
    ServerExitedError,
    Supervisor,
    child,
    named,
    spawn,
)
from noex_mp.client import poison
from noex_mp.client.client import Client
from noex_mp.client.courier import Courier
from noex_mp.core.dead_letters import letter_as_plain, letter_from_plain
from noex_mp.node import dead_letters
from noex_mp.node.dead_letters import DeadLetters
from noex_mp.node.directory import Directory
from noex_mp.node.events import Events
from noex_mp.node.registries import Registries
from noex_mp.node.registry_files import RegistryFiles
from tests.faults.test_poison import PRELOAD, at, error_of, lair, patient
from tests.nodes.observed import ObservedNode, Whistles, on_both_loops
from tests.nodes.outside import outside
from tests.processes.harness import REPOSITORY
from tests.servers.poisonous import Poisonous

BIG = b"p" * 300_000


async def letter_of(node: Node, **sent: Any) -> DeadLetter:
    """Return the letter of a call that has just poisoned the lair."""
    error = await error_of(Poisonous.swallow(at("lair"), "kill", **sent))
    [letter] = [each for each in await node.dead_letters() if each.id == error.letter]
    return letter


def test_the_example_of_the_page_prints_what_the_page_says(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "dead-letters.md").read_text()
    [code] = re.findall(r"```python\n(# poison\.py\n.*?)```", page, re.DOTALL)
    script = tmp_path / "poison.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=15, check=True
    )
    assert f"```text\n{done.stdout}```" in page


# --- what is kept -------------------------------------------------------------------------------


async def test_a_letter_says_what_it_was_and_how_its_server_ended() -> None:
    tree = Supervisor(lair(), max_restarts=1000)
    async with ObservedNode(tree, preload=PRELOAD, debug=True) as node:
        ref = await Poisonous.me(at("lair"))
        error = await error_of(Poisonous.swallow(at("lair"), "kill", cure="/nowhere"))
        [letter] = await node.dead_letters()
        assert (letter.id, letter.server, letter.name) == (error.letter, "lair", "lair")
        assert (letter.ref, letter.operation, letter.deliveries) == (ref, "swallow", 3)
        assert letter.arguments == "'kill', cure='/nowhere'"
        assert 20 < letter.size < 100
        assert letter.is_kept
        assert letter.reports == error.reports
        assert letter.summary.endswith("; the last: lair killed by SIGKILL; restarting")
        assert "message:  swallow('kill', cure='/nowhere'), " in letter.text
        assert letter.text.count("incarnation") == 3
        event = await node.event("dead_letter", ref)
        assert (event.letter, event.count, event.incarnation) == (letter, 0, 3)
        assert event.report == letter.reports[-1]


async def test_a_letter_is_plain_data() -> None:
    async with patient(lair()) as node:
        letter = await letter_of(node)
        assert letter_from_plain(letter_as_plain(letter), node.id) == letter
        assert "reports" not in letter_as_plain(letter, in_full=False)


async def test_a_letter_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "noex_mp"):
        async with Node(Supervisor(lair()), preload=PRELOAD):
            await error_of(Poisonous.swallow(at("lair"), "kill"))
    assert "dead letter 1: swallow ended lair 3 times; the last: lair killed by" in caplog.text


async def test_a_message_too_large_to_be_kept_leaves_its_description(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(poison, "MAX_BYTES", 1000)
    async with patient(lair()) as node:
        letter = await letter_of(node, load=BIG)
        assert (letter.is_kept, letter.arguments) == (False, "")
        assert letter.size > len(BIG)
        assert "not kept: it is too large" in letter.text
        with pytest.raises(NoDeadLetterError, match=r"dead letter 1 .* too much to keep"):
            await node.retry(letter)
        await node.drop(letter)
        assert await node.dead_letters() == []


# --- bounds -------------------------------------------------------------------------------------

REPORT = ExitReport(
    server="lair", sid=7, incarnation=1, reason=Killed("SIGKILL"), os_pid=1, uptime=1.0
)


async def _nothing(wire: dict[str, Any]) -> list[Any]:
    raise AssertionError("nothing is to be spawned here")


class Office:
    """Dead letters without a node around them."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        events = Events("node", loop, lambda event: None, wants=lambda kind: False)
        self._registries = Registries(
            events, lambda target: None, RegistryFiles(loop, {}, lambda text: None), lambda: False
        )
        directory = Directory(loop, lambda text: None, self._registries)
        self._letters = DeadLetters("node", directory, events, spawn=_nothing)

    async def bury(self, payload: bytes = b"x", again: int = 0) -> int:
        """Keep a message of which nothing else matters; return its number."""
        bury: Callable[..., Any] = self._letters.methods["bury"]
        number: int = await bury(7, "swallow", len(payload), 3, (REPORT,), [payload], again)
        return number

    async def kept(self) -> tuple[list[int], int]:
        """Return the numbers of the letters, and how many were dropped."""
        answer = await self._letters.methods["dead_letters"]()
        return [letter["id"] for letter in answer["letters"]], answer["dropped"]

    def close(self) -> None:
        """Give back what it has open."""
        self._registries.log.close()


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    office = Office()
    yield office
    office.close()


async def test_the_oldest_letters_go_first_and_are_counted(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_LETTERS", 3)
    assert [await office.bury() for _ in range(5)] == [1, 2, 3, 4, 5]
    assert await office.kept() == ([3, 4, 5], 2)


async def test_letters_have_a_bound_in_bytes_together(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each with its report.
    monkeypatch.setattr(dead_letters, "MAX_BYTES", 3 * 20_000)
    for _ in range(5):
        await office.bury(b"x" * 1000)
    assert await office.kept() == ([3, 4, 5], 2)
    await office.bury(b"x" * 40_000)
    assert await office.kept() == ([6], 5)
    await office.bury()
    assert await office.kept() == ([7], 6)


async def test_a_letter_that_was_tried_again_stays_the_same_one(office: Office) -> None:
    assert [await office.bury(), await office.bury(), await office.bury(again=1)] == [1, 2, 1]
    assert await office.kept() == ([2, 1], 0)
    # It was dropped meanwhile.
    assert await office.bury(again=17) == 3


# --- to send it again ---------------------------------------------------------------------------


@on_both_loops
async def test_a_message_is_sent_again_and_its_letter_forgotten(tmp_path: Path) -> None:
    cure = tmp_path / "cure"
    async with patient(lair()) as node:
        small = await letter_of(node, cure=str(cure))
        big = await letter_of(node, cure=str(cure), load=BIG)
        assert [letter.id for letter in await node.dead_letters()] == [1, 2]
        cure.touch()
        assert await node.retry(small) == "well"
        assert await node.dead_letters() == [big]
        assert await node.retry(big) == "well"
        assert await node.dead_letters() == []
        with pytest.raises(NoDeadLetterError) as caught:
            await node.retry(big)
        assert (caught.value.letter, caught.value.reason) == (2, "it is not there (any more)")
        # Nor does it disturb what comes behind it.
        assert await Poisonous.note(at("lair"), 1) == 1


@on_both_loops
async def test_poison_that_is_tried_again_stays_one_letter() -> None:
    async with patient(lair()) as node:
        letter = await letter_of(node)
        other = await letter_of(node)
        with pytest.raises(PoisonedMessageError) as caught:
            await node.retry(letter)
        error = caught.value
        # Counted anew.
        assert (error.letter, error.deliveries, error.operation) == (1, 3, "Poisonous.swallow")
        first, second = await node.dead_letters()
        assert (first, second.id) == (other, letter.id)
        assert second.reports == error.reports != letter.reports
        assert second.time > letter.time
        assert dataclasses.replace(second, reports=letter.reports, time=letter.time) == letter
        assert await Poisonous.note(at("lair"), 1) == 1


async def test_a_retry_has_a_time_limit_and_leaves_the_letter(whistles: Whistles) -> None:
    started = whistles()
    async with patient(lair()) as node:
        letter = await letter_of(node)
        blocking = Poisonous.block(at("lair"), started.path)
        await started.heard()
        with pytest.raises(CallTimedOutError):
            await node.retry(letter, timeout=0.05)
        assert await node.dead_letters() == [letter]
        node.kill(letter.ref)
        await asyncio.gather(blocking, return_exceptions=True)


async def test_a_letter_that_is_dropped_is_gone_and_may_be_dropped_twice() -> None:
    async with patient(lair()) as node:
        letter = await letter_of(node)
        for _ in range(2):
            await node.drop(letter)
            assert await node.dead_letters() == []


async def test_a_letter_of_another_node_is_not_taken_for_one_of_this() -> None:
    async with Node() as other, patient(lair()) as node:
        letter = await letter_of(node)
        for act in (other.retry, other.drop):
            with pytest.raises(NoDeadLetterError, match="belongs to another node"):
                await act(letter)


def test_a_program_without_an_event_loop_has_them_too(tmp_path: Path) -> None:
    cure = tmp_path / "cure"
    with Node(Supervisor(lair(), max_restarts=1000), preload=PRELOAD) as node:
        for _ in range(2):
            with pytest.raises(PoisonedMessageError):
                Poisonous.swallow.sync(named("lair", Poisonous), "kill", str(cure))
        first, second = node.dead_letters()
        with pytest.raises(PoisonedMessageError):
            node.retry(first)
        cure.touch()
        assert node.retry(first) == "well"
        node.drop(second)
        assert node.dead_letters() == []


# --- programs outside ---------------------------------------------------------------------------


async def test_programs_outside_may_look_and_drop_but_send_nothing_themselves() -> None:
    tree = Supervisor(lair(), max_restarts=1000)
    async with Node(tree, name="letters", preload=PRELOAD) as node, outside("letters") as program:
        letter = await letter_of(node)
        answer = await program.request("dead_letters")
        assert answer == {"letters": [letter_as_plain(letter, in_full=False)], "dropped": 0}
        assert await program.request("dead_letter", letter.id) == letter_as_plain(letter)
        for method in ("bury", "unearth"):
            with pytest.raises(ConfigError, match="only the node's own processes"):
                await program.request(method, letter.id)
        assert await program.request("drop_dead_letter", letter.id) is True
        assert await program.request("drop_dead_letter", letter.id) is False
        assert await program.request("dead_letter", letter.id) is None


async def courier_of(program: Client, letter: DeadLetter) -> Ref[Courier]:
    """Return the courier that a program has asked for."""
    sid, label = await program.request("send_courier", letter.id)
    return Ref(letter.ref.node, sid, label=label)


async def test_a_courier_sends_a_letter_again_and_ends(tmp_path: Path) -> None:
    cure = tmp_path / "cure"
    tree = Supervisor(lair(), max_restarts=1000)
    node = ObservedNode(tree, name="letters", preload=PRELOAD)
    async with node, outside("letters") as program:
        letter = await letter_of(node, cure=str(cure))
        courier = await courier_of(program, letter)
        with pytest.raises(PoisonedMessageError) as caught:
            await Courier.deliver(courier, 5.0)
        assert caught.value.letter == letter.id
        await node.event("exited", courier)
        cure.touch()
        courier = await courier_of(program, letter)
        assert await Courier.deliver(courier, 5.0) == "well"
        await node.event("exited", courier)
        assert await node.dead_letters() == []
        with pytest.raises(NoDeadLetterError):
            await courier_of(program, letter)


async def test_a_courier_that_is_killed_leaves_the_letter(whistles: Whistles) -> None:
    started = whistles()
    tree = Supervisor(lair(), max_restarts=1000)
    node = ObservedNode(tree, name="letters", preload=PRELOAD)
    async with node, outside("letters") as program:
        letter = await letter_of(node)
        blocking = Poisonous.block(at("lair"), started.path)
        await started.heard()
        courier = await courier_of(program, letter)
        delivering = Courier.deliver(courier, 5.0)
        # Another gets none meanwhile.
        with pytest.raises(NoDeadLetterError, match="somebody sends it again at this moment"):
            await courier_of(program, letter)
        await node.event("ready", courier)
        node.kill(courier)
        with pytest.raises((ServerExitedError, NoServerError)):
            await delivering
        assert await node.dead_letters() == [letter]
        node.kill(letter.ref)
        await asyncio.gather(blocking, return_exceptions=True)
        await courier_of(program, letter)


async def test_couriers_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MAX_COURIERS", 1)
    tree = Supervisor(lair(), max_restarts=1000)
    async with Node(tree, name="letters", preload=PRELOAD) as node, outside("letters") as program:
        first, second = await letter_of(node), await letter_of(node)
        await courier_of(program, first)
        with pytest.raises(NoDeadLetterError, match="1 others are under way"):
            await courier_of(program, second)


async def test_a_courier_that_nobody_calls_ends() -> None:
    async with ObservedNode() as node:
        courier = await spawn(child(Courier, 1, patience=0.05))
        await node.event("exited", courier)
