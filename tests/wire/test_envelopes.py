"""The kinds of frames."""

from __future__ import annotations

from noex_mp.wire import envelopes


def test_every_kind_has_a_number_of_its_own() -> None:
    kinds = {
        name: value
        for name, value in vars(envelopes).items()
        if isinstance(value, int) and name != "PROTOCOL_VERSION"
    }
    assert len(kinds) > 30
    assert len(set(kinds.values())) == len(kinds)
