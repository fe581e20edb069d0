"""The state of registries, as records make it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from noex_mp.core.registrations import (
    CLAIMED,
    FREED,
    IS_UNIQUE,
    UPDATED,
    Claim,
    Duplicate,
    RegistryState,
    Table,
    Unique,
)

KEYS = ["a", "b", "c"]
SIDS = [1, 2, 3]


def contents(state: RegistryState) -> dict[str, list[tuple[Any, ...]]]:
    return {
        name: [(c.key, c.sid, c.label, c.flags, c.version, c.metadata) for c in table.claims()]
        for name, table in state.tables.items()
    }


def flags_of(registry: str) -> int:
    return IS_UNIQUE if registry == "unique" else 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["claim", "free", "update"]),
            st.sampled_from(["unique", "duplicate"]),
            st.sampled_from(KEYS),
            st.sampled_from(SIDS),
        ),
        max_size=60,
    )
)
def test_the_records_of_a_state_make_that_state(steps: list[tuple[str, str, str, int]]) -> None:
    state = RegistryState()
    known: dict[tuple[str, str], list[int]] = {}
    for version, (what, registry, key, sid) in enumerate(steps):
        holders = known.setdefault((registry, key), [])
        is_free = sid not in holders and not (registry == "unique" and holders)
        if what == "claim" and is_free:
            flags = flags_of(registry)
            state.apply([CLAIMED, registry, key, sid, "Room", flags, version, b"m"])
            holders.append(sid)
        elif what == "free" and sid in holders:
            state.apply([FREED, registry, key, sid])
            holders.remove(sid)
        elif what == "update" and sid in holders:
            state.apply([UPDATED, registry, key, sid, version, b"new"])
    for (registry, key), holders in known.items():
        table = state.tables.get(registry)
        found = [claim.sid for claim in table.of(key)] if table is not None else []
        assert found == holders
    copy = RegistryState()
    for record in state.records():
        copy.apply(record)
    assert contents(copy) == contents(state)
    counts = {name: len(table) for name, table in state.tables.items()}
    assert counts == {name: len(claims) for name, claims in contents(state).items()}


def test_a_registry_that_nobody_is_in_is_forgotten() -> None:
    state = RegistryState()
    state.apply([CLAIMED, "rooms", "a", 1, "Room", IS_UNIQUE, 1, b""])
    state.apply([FREED, "rooms", "a", 1])
    assert state.tables == {}
    state.apply([CLAIMED, "rooms", "a", 1, "Room", 0, 2, b""])
    assert not state.tables["rooms"].is_unique


def test_what_was_found_stays_as_it_was() -> None:
    state = RegistryState()
    old = state.apply([CLAIMED, "rooms", "a", 1, "Room", IS_UNIQUE, 1, b"old"])
    assert old is not None
    old.ref = object()
    new = state.apply([UPDATED, "rooms", "a", 1, 2, b"new"])
    assert new is not None
    assert (old.version, old.metadata, new.version, new.metadata) == (1, b"old", 2, b"new")
    assert new.ref is old.ref


def test_lists_of_a_table_are_copies() -> None:
    table: Table
    for table in (Unique(), Duplicate()):
        table.add(Claim("a", 1, "Room", 0, 1, b""))
        for listed in (table.of("a"), table.claims(), table.keys()):
            listed.clear()
        assert len(table.of("a")) == len(table.claims()) == len(table.keys()) == 1
