"""The log of names: one writes it, many read it, and nobody reads what is not so."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from noex_mp.client import local_names
from noex_mp.client.local_names import LocalNames
from noex_mp.core.registrations import CLAIMED, FREED, IS_UNIQUE, Claim, RegistryState
from noex_mp.errors import NodeDownError
from noex_mp.node import name_log
from noex_mp.node.name_log import NameLog
from noex_mp.transport import fds
from noex_mp.transport.platform import FALLBACKS


class Writer:
    """What the root does, as far as the log is concerned."""

    def __init__(self) -> None:
        self.state = RegistryState()
        self.log = NameLog(self.state.records)
        self._sizes: dict[str, int] = {}

    def claim(self, key: str, sid: int = 1) -> None:
        record: list[Any] = [CLAIMED, "rooms", key, sid, "Room", IS_UNIQUE, sid, b""]
        size = self._sizes[key] = self.log.append(record)
        self.state.apply(record)
        self.log.lives(size)

    def free(self, key: str, sid: int = 1) -> None:
        record: list[Any] = [FREED, "rooms", key, sid]
        self.log.append(record)
        self.state.apply(record)
        self.log.lives(-self._sizes.pop(key))

    def reader(self) -> LocalNames:
        return LocalNames("node", self.log.open(), allow_pickle=False)

    @property
    def pages(self) -> int:
        """How much memory the log has, in pages."""
        return os.fstat(self.log.fd).st_blocks * 512 // 4096


def keys(names: LocalNames) -> list[str]:
    table = names.table("rooms")
    return table.keys() if table is not None else []


def claims(names: LocalNames) -> list[Claim]:
    table = names.table("rooms")
    return table.claims() if table is not None else []


def first(names: LocalNames, key: str) -> Claim | None:
    table = names.table("rooms")
    return table.first(key) if table is not None else None


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    # So that there are many snapshots.
    monkeypatch.setattr(name_log, "HISTORY", 4096)
    writer = Writer()
    yield writer
    writer.log.close()


def test_a_reader_sees_what_was_written_before_and_after_it_came(writer: Writer) -> None:
    writer.claim("a")
    names = writer.reader()
    assert keys(names) == ["a"]
    writer.claim("b")
    assert keys(names) == ["a", "b"]
    writer.free("a")
    assert keys(names) == ["b"]
    names.close()
    with pytest.raises(NodeDownError):
        keys(names)


def test_readers_that_look_often_or_rarely_or_come_late_see_the_same(writer: Writer) -> None:
    random.seed(1)
    often, rarely = writer.reader(), writer.reader()
    living: list[str] = []
    for n in range(5000):
        if living and random.random() < 0.5:
            writer.free(living.pop(random.randrange(len(living))))
        else:
            living.append(f"key/{n}")
            writer.claim(living[-1])
        if n % 7 == 0:
            assert keys(often) == living
        if n % 1237 == 0:
            assert keys(rarely) == living
            late = writer.reader()
            assert keys(late) == living
            late.close()
    assert keys(often) == keys(rarely) == living
    for names in (often, rarely):
        names.close()


def test_a_reader_that_keeps_up_keeps_its_entries_through_snapshots(writer: Writer) -> None:
    names = writer.reader()
    writer.claim("kept")
    claim = first(names, "kept")
    for n in range(1000):
        writer.claim(f"{n}")
        writer.free(f"{n}")
        assert first(names, "kept") is claim
    names.close()


def test_a_reader_from_whom_history_is_taken_while_it_reads_begins_anew(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = writer.reader()
    writer.claim("old")
    assert keys(names) == ["old"]
    read_all, reads = local_names._read_all, 0  # pyright: ignore[reportPrivateUsage]

    def slowly(fd: int, start: int, end: int) -> bytes:
        nonlocal reads
        reads += 1
        if reads == 1:
            # It has decided what to read, and that is given back before it does.
            for n in range(1000):
                writer.claim(f"{n}")
                writer.free(f"{n}")
            writer.claim("new")
        return read_all(fd, start, end)

    monkeypatch.setattr(local_names, "_read_all", slowly)
    writer.claim("then")
    assert keys(names) == ["old", "then", "new"]
    assert reads == 2
    names.close()


@pytest.mark.skipif(FALLBACKS, reason="no memory is given back there")
def test_history_takes_no_memory(writer: Writer) -> None:
    for n in range(20_000):
        writer.claim(f"{n}")
        writer.free(f"{n}")
    assert writer.pages < 10


@pytest.mark.skipif(FALLBACKS, reason="there it is a descriptor that can write")
def test_a_reader_cannot_write(writer: Writer) -> None:
    with pytest.raises(OSError):
        os.pwrite(writer.log.fd, b"x", 0)
    with pytest.raises(OSError):
        os.ftruncate(writer.log.fd, 0)


@pytest.mark.slow
def test_a_reader_in_another_process_never_sees_what_is_not_so(writer: Writer) -> None:
    # There are always as many names: n to n + 9, each with its number. A reader sees one moment.
    for n in range(10):
        writer.claim(f"{n}", n)
    names = writer.reader()
    reading, told = os.pipe()
    # As a worker is forked: another child would have to give up the log.
    fds.set_forking_a_worker(value=True)
    os_pid = os.fork()
    fds.set_forking_a_worker(value=False)
    if os_pid == 0:
        status = 1
        try:
            status = _look_until(names, last=20_000, told=told)
        finally:
            os._exit(status)
    os.close(told)
    try:
        # It looks: from here on it races with us.
        os.read(reading, 1)
        for n in range(20_000):
            writer.claim(f"{n + 10}", n + 10)
            writer.free(f"{n}", n)
    finally:
        status = os.waitpid(os_pid, 0)[1]
        names.close()
        os.close(reading)
    assert os.waitstatus_to_exitcode(status) == 0


def _look_until(names: LocalNames, *, last: int, told: int) -> int:
    moments = 0
    while True:
        found = list(map(int, keys(names)))
        first = found[0]
        if found not in (list(range(first, first + 10)), list(range(first, first + 11))):
            return 2
        if any(c.key != str(c.sid) for c in claims(names)):
            return 3
        moments += 1
        if moments == 1:
            os.write(told, b"x")
        if first == last:
            return 0 if moments > 2 else 4
