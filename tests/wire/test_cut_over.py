"""From which size on bytes leave their message: what is measured holds, in each process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from noex_mp.wire.codec import Encoder
from noex_mp.wire.cut_over import here
from noex_mp.wire.values import BIG

WRAPS: list[Callable[[bytes], object]] = [lambda v: v, lambda v: [v], lambda v: {"of": (v,)}]


@pytest.mark.parametrize("wrap", WRAPS)
def test_bytes_leave_their_message_from_the_cut_over_on(
    monkeypatch: pytest.MonkeyPatch, wrap: Callable[[bytes], object]
) -> None:
    monkeypatch.setattr(here, "bytes_from", 3 * BIG)
    chunks_for = {n: len(Encoder().pack_big([1, wrap(bytes(n))])) for n in (BIG, 3 * BIG)}
    assert chunks_for == {BIG: 1, 3 * BIG: 3}


def test_many_bytes_leave_their_message_that_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "bytes_from", 3 * BIG)
    encoder = Encoder()
    # Two of them stay, in each message.
    for _ in range(2):
        assert len(encoder.pack_big([1, [bytes(BIG)] * 100])) == 1 + 98 + 1


def test_an_array_leaves_it_before_that(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = pytest.importorskip("numpy")
    monkeypatch.setattr(here, "bytes_from", 3 * BIG)
    assert len(Encoder().pack_big([1, numpy.zeros(BIG, "u1")])) == 3
