"""The window of a sender: what may be on its way, and that nobody waits for ever."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noex_mp.client.window import Ranges, Window
from noex_mp.core.specs import MAX_BYTES, MAX_MESSAGES


def test_a_sender_asks_behind_its_first_message() -> None:
    window = Window()
    assert window.takes(10)
    window.add(10)
    assert window.should_ask


def test_a_message_above_the_whole_mailbox_goes_alone() -> None:
    window = Window(10, 1000)
    assert window.takes(10**9)
    window.add(10**9)
    assert not window.takes(1)
    window.ask()
    window.grant(1, 10, 1000)
    assert window.takes(1)


def test_the_defaults_are_ten_thousand_messages_and_64_mib() -> None:
    assert (MAX_MESSAGES, MAX_BYTES) == (10_000, 64 * 2**20)


sizes = st.one_of(st.integers(10, 200), st.integers(200, 10**5), st.integers(10**6, 10**8))


@given(
    max_messages=st.integers(1, 300),
    max_bytes=st.integers(1, 10**7),
    messages=st.lists(sizes, max_size=400),
    shares=st.lists(st.integers(1, 5), max_size=10),
    patience=st.integers(1, 50),
)
def test_what_is_on_its_way_keeps_within_the_window_and_everything_arrives(
    max_messages: int, max_bytes: int, messages: list[int], shares: list[int], patience: int
) -> None:
    window = Window(max_messages, max_bytes)
    on_their_way: deque[tuple[int, int]] = deque()
    asks: deque[int] = deque()
    shares = shares or [1]
    sent = 0

    def receive() -> None:
        # The server comes to the next ASK: everything ahead of it has begun.
        count = asks.popleft()
        while on_their_way and on_their_way[0][0] <= count:
            on_their_way.popleft()
        share = shares[sent % len(shares)]
        window.grant(count, max(1, max_messages // share), max(1, max_bytes // share))

    for size in messages:
        while not window.takes(size):
            if not window.has_asked:
                asks.append(window.ask()[0])
            assert asks, "the sender would wait for ever"
            receive()
        window.add(size)
        sent += 1
        on_their_way.append((sent, size))
        if window.should_ask:
            asks.append(window.ask()[0])
        assert len(on_their_way) <= max_messages
        alone = len(on_their_way) == 1
        assert alone or sum(size for _, size in on_their_way) <= max_bytes
        if len(asks) > patience:
            receive()


@pytest.mark.parametrize("max_messages", [1, 2, 5, 10, 100, 256])
def test_the_first_window_holds_as_many_small_messages_as_the_mailbox(max_messages: int) -> None:
    window = Window(max_messages)
    for _ in range(max_messages):
        assert window.takes(window.weighed_from - 1)
        window.add(window.weighed_from - 1)
    assert not window.takes(1)


def test_many_senders_share_their_first_windows() -> None:
    assert [Window(256, 2**20, senders).messages for senders in (1, 2, 30, 1000)] == [
        256,
        128,
        8,
        1,
    ]
    assert Window(256, 2**20, 4).size == 2**18


def test_an_ask_tells_the_bytes_of_the_heavy_messages_since_the_last() -> None:
    window = Window(10, 2**20)
    for size in (100, 300_000, 400_000):
        window.add(size)
    assert window.ask() == (3, 700_000)
    assert window.ask() == (3, 0)


@given(max_messages=st.integers(1, 2000), count=st.integers(0, 3000))
def test_what_is_free_may_be_sent_without_a_look(max_messages: int, count: int) -> None:
    window = Window(max_messages, 2**20)
    for _ in range(count):
        free = window.free()
        if free:
            window.add_small(1)
            assert window.free() == free - 1
        else:
            if not window.takes(1):
                window.grant(window.ask()[0], max_messages, 2**20)
            window.add(1)
            if window.should_ask:
                window.ask()


@given(numbers=st.sets(st.integers(1, 200)), above=st.integers(0, 200), up_to=st.integers(0, 200))
def test_ranges_count_as_a_set_would(numbers: set[int], above: int, up_to: int) -> None:
    ranges = Ranges()
    for number in sorted(numbers):
        ranges.add(number)
    assert ranges.count(above, up_to) == len([n for n in numbers if above < n <= up_to])
    ranges.forget(above)
    assert ranges.count(above, 200) == len([n for n in numbers if n > above])
