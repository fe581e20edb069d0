"""The memory that processes share: who has it, when it is given back, and to whom it is refused."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from noex_mp.errors import SharedValueGoneError
from noex_mp.transport import arena, fds, shared_file
from noex_mp.transport.arena import Arena
from noex_mp.transport.shared_file import SPAN, Kind, SharedFile

pytestmark = pytest.mark.linux_only("values are copied where there are no memfds")

BIG = 1_000_000


class Sharing:
    """A file, and what some processes have of it: here they are all in one."""

    def __init__(self) -> None:
        made = shared_file._make()  # pyright: ignore[reportPrivateUsage]
        assert made is not None
        self.file = made
        self.files = [made]
        self.owner = self.process(0)

    def process(self, span: int) -> Arena:
        file = SharedFile(os.dup(self.file.fd), span)
        self.files.append(file)
        file.arena = Arena(file)
        return file.arena

    def end(self, arena: Arena) -> None:
        """End a process: the kernel drops its locks, whatever is mapped."""
        arena.close()

    @property
    def memory(self) -> int:
        return os.fstat(self.file.fd).st_blocks * 512


@pytest.fixture
def sharing() -> Iterator[Sharing]:
    sharing = Sharing()
    yield sharing
    for file in sharing.files:
        file.close()


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep no memory for the next value."""
    monkeypatch.setattr(arena, "WARM", 0)


def put(owner: Arena, data: bytes) -> memoryview:
    placed = owner.put([memoryview(data)])
    assert placed is not None
    return placed[0]


def handle_of(owner: Arena, view: memoryview) -> bytes:
    found = owner.lend(view)
    assert found is not None
    return found[0]


def test_what_one_process_puts_in_another_reads_in_place(sharing: Sharing) -> None:
    first, second = b"a" * BIG, b"bc" * BIG
    placed = sharing.owner.put([memoryview(first), memoryview(second)])
    assert placed is not None
    assert placed == [first, second]
    reader = sharing.process(1)
    there = [reader.borrow(handle_of(sharing.owner, view)) for view in placed]
    assert there == [first, second]
    assert all(view.readonly for view in (*placed, *there))
    # Both are in one block, which is mapped once.
    assert there[0].obj is there[1].obj
    assert sharing.memory < 1.1 * len(first + second)


def test_a_part_of_a_value_is_lent_too_also_by_who_has_borrowed_it(sharing: Sharing) -> None:
    data = bytes(range(256)) * 4096
    placed = put(sharing.owner, data)
    reader, third = sharing.process(1), sharing.process(2)
    part = reader.borrow(handle_of(sharing.owner, placed[5000:900_000]))
    assert part == data[5000:900_000]
    smaller = third.borrow(handle_of(reader, part[100:]))
    assert smaller == data[5100:900_000]


def test_other_memory_is_not_lent(sharing: Sharing) -> None:
    view = put(sharing.owner, b"a" * BIG)
    assert sharing.owner.lend(memoryview(b"a" * BIG)) is None
    del view
    assert sharing.owner.lend(memoryview(b"a" * BIG)) is None


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("last", ["owner", "reader"])
def test_the_last_to_let_a_value_go_gives_its_memory_back(sharing: Sharing, last: str) -> None:
    reader = sharing.process(1)
    placed = put(sharing.owner, b"a" * BIG)
    there = reader.borrow(handle_of(sharing.owner, placed))
    if last == "owner":
        del there
    else:
        del placed
    assert sharing.memory >= BIG
    placed = there = memoryview(b"")
    assert sharing.memory == 0


@pytest.mark.usefixtures("cold")
def test_the_last_two_may_let_it_go_at_the_same_moment(
    sharing: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = sharing.process(1)
    placed = put(sharing.owner, b"a" * BIG)
    there = [reader.borrow(handle_of(sharing.owner, placed))]
    tried = shared_file.lock

    def lock(fd: int, kind: int, *where: int) -> bool:
        # Before and after each step of the one, the other may do all of its own.
        succeeded = tried(fd, kind, *where)
        monkeypatch.setattr(arena, "lock", tried)
        there.clear()
        return succeeded

    monkeypatch.setattr(arena, "lock", lock)
    del placed
    assert there == []
    assert sharing.memory == 0


@pytest.mark.usefixtures("cold")
def test_a_value_lives_as_long_as_any_part_of_it(sharing: Sharing) -> None:
    placed = put(sharing.owner, bytes(range(250)) * 4000)
    part = memoryview(placed[100:200])
    nested = part[10:20]
    del placed, part
    assert sharing.memory >= BIG
    assert bytes(nested) == bytes(range(110, 120))
    del nested
    assert sharing.memory == 0


def test_memory_is_kept_for_the_next_values_up_to_a_bound(
    sharing: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena, "WARM", 3 * BIG)
    many = [put(sharing.owner, b"a" * BIG) for _ in range(5)]
    assert sharing.memory >= 5 * BIG
    many.clear()
    assert 2 * BIG < sharing.memory < 3 * BIG
    before = sharing.memory
    # The same memory, and no more of it.
    again = [put(sharing.owner, b"b" * BIG) for _ in range(2)]
    assert sharing.memory == before
    again.clear()
    assert sharing.memory == before


def test_what_is_kept_makes_room_for_what_is_needed(
    sharing: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena, "WARM", 5 * BIG)
    many = [put(sharing.owner, b"a" * BIG) for _ in range(4)]
    many.clear()
    put(sharing.owner, b"b" * (4 * BIG))
    # The large one is kept now, and as many of the small ones as there is room for.
    assert 4 * BIG <= sharing.memory < 5 * BIG + 100_000
    before = sharing.memory
    put(sharing.owner, b"c" * (4 * BIG))
    assert sharing.memory == before


def test_a_place_is_not_used_again_while_anybody_reads_it(sharing: Sharing) -> None:
    reader = sharing.process(1)
    there = reader.borrow(handle_of(sharing.owner, put(sharing.owner, b"a" * BIG)))
    # Nobody but the reader has it.
    others = [put(sharing.owner, b"b" * BIG) for _ in range(20)]
    assert bytes(there) == b"a" * BIG
    del there
    before = sharing.memory
    others.append(put(sharing.owner, b"c" * BIG))
    assert sharing.memory == before


@pytest.mark.parametrize("end", ["given back", "used again", "being used again"])
def test_a_handle_that_comes_too_late_never_leads_to_other_data(
    sharing: Sharing, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena, "WARM", 0 if end == "given back" else 2 * BIG)
    reader = sharing.process(1)
    placed = put(sharing.owner, b"a" * BIG)
    late = handle_of(sharing.owner, placed)
    del placed
    kept: Any = None
    if end == "used again":
        kept = put(sharing.owner, b"b" * BIG)
        assert handle_of(sharing.owner, kept)[:8] == late[:8]
    elif end == "being used again":
        kept = sharing.owner._take_place(BIG)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(SharedValueGoneError):
        reader.borrow(late)
    if end != "being used again":
        # The refused has left no lock.
        del kept
        sharing.end(sharing.owner)
        sharing.file.sweep()
        assert sharing.memory == 0


def test_a_value_comes_home_though_its_owner_has_let_it_go(sharing: Sharing) -> None:
    reader = sharing.process(1)
    there = reader.borrow(handle_of(sharing.owner, put(sharing.owner, b"a" * BIG)))
    home = sharing.owner.borrow(handle_of(reader, there))
    del there
    # Its place is not free: the owner reads it.
    other = put(sharing.owner, b"b" * BIG)
    assert (bytes(home), bytes(other)) == (b"a" * BIG, b"b" * BIG)


def test_the_memory_of_the_dead_is_given_back_but_for_what_others_read(sharing: Sharing) -> None:
    owner, reader = sharing.process(1), sharing.process(2)
    values = [put(owner, bytes([i]) * BIG) for i in range(5)]
    kept = [reader.borrow(handle_of(owner, values[i])) for i in (3, 1)]
    values.clear()
    sharing.end(owner)
    sharing.file.sweep()
    assert 2 * BIG <= sharing.memory < 3 * BIG
    assert [bytes(view) for view in kept] == [b"\x03" * BIG, b"\x01" * BIG]
    # Whoever reads it last needs nobody else.
    kept.pop()
    assert BIG <= sharing.memory < 2 * BIG
    kept.clear()
    assert sharing.memory == 0


def test_a_span_that_is_used_up_takes_nothing_more(
    sharing: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = sharing.process(1)
    monkeypatch.setattr(owner, "_end", 2 * SPAN - 2**20)
    placed = put(owner, b"a" * BIG)
    assert owner.put([memoryview(b"b" * BIG)]) is None
    assert bytes(placed) == b"a" * BIG


def test_without_memory_there_is_an_error_and_the_next_value_finds_its_place(
    sharing: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(MemoryError, match="1,003,520 bytes"):
            put(sharing.owner, b"a" * BIG)
    assert sharing.memory == 0
    put(sharing.owner, b"a" * BIG)


def test_nobody_can_take_the_file_away_under_a_reader(sharing: Sharing) -> None:
    placed = put(sharing.owner, b"a" * BIG)
    for size in (0, 2**62 + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(sharing.file.fd, size)
    # Whatever a peer gives back reads as zeros.
    shared_file.punch(sharing.file.fd, 0, SPAN)
    assert bytes(placed) == bytes(BIG)


@pytest.mark.usefixtures("cold")
def test_a_value_may_end_in_the_middle_of_another(sharing: Sharing) -> None:
    first = put(sharing.owner, b"a" * BIG)
    second = put(sharing.owner, b"b" * BIG)
    with sharing.owner._section():  # pyright: ignore[reportPrivateUsage]
        # As a collection of garbage might do it, in any allocation.
        del first
        assert sharing.memory > 2 * BIG
    assert BIG < sharing.memory < 2 * BIG
    assert bytes(second) == b"b" * BIG


def in_a_child(action: Callable[[], object]) -> int:
    """Do something in a forked process; return what has ended it."""
    # Not as a fork of the user's: it keeps the file.
    fds.set_forking_a_worker(value=True)
    os_pid = os.fork()
    if os_pid == 0:
        try:
            action()
        finally:
            os._exit(1)
    fds.set_forking_a_worker(value=False)
    return os.waitstatus_to_exitcode(os.waitpid(os_pid, 0)[1])


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("at", ["before the lock", "between lock and map", "when it is mapped"])
def test_a_reader_that_is_killed_anywhere_leaves_nothing_locked(
    sharing: Sharing, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = put(sharing.owner, b"a" * BIG)
    handle = handle_of(sharing.owner, placed)
    reader = sharing.process(1)

    def read() -> None:
        if at != "when it is mapped":
            monkeypatch.setattr(arena, "lock" if at == "before the lock" else "_map", die)
        kept = reader.borrow(handle)
        assert bytes(kept) == b"a" * BIG
        die()

    assert in_a_child(read) == -signal.SIGKILL
    assert bytes(placed) == b"a" * BIG
    del placed
    assert sharing.memory == 0


@pytest.mark.usefixtures("cold")
def test_an_owner_that_is_killed_in_the_middle_leaves_what_can_be_swept(
    sharing: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = sharing.process(1)

    def share() -> None:
        monkeypatch.setattr(ctypes, "memmove", die)
        put(owner, b"a" * BIG)

    assert in_a_child(share) == -signal.SIGKILL
    assert sharing.memory >= BIG
    sharing.file.sweep()
    assert sharing.memory == 0


@pytest.mark.usefixtures("cold")
def test_what_the_last_reader_has_left_behind_by_its_death_is_swept(sharing: Sharing) -> None:
    reader = sharing.process(1)
    kept = put(sharing.owner, b"b" * BIG)
    placed = put(sharing.owner, b"a" * BIG)
    there = reader.borrow(handle_of(sharing.owner, placed))
    del placed
    sharing.end(reader)
    assert sharing.memory >= 2 * BIG
    sharing.file.sweep()
    assert BIG <= sharing.memory < 2 * BIG
    assert bytes(kept) == b"b" * BIG
    del there


def test_a_sweep_leaves_what_is_kept_for_the_next_values(sharing: Sharing) -> None:
    put(sharing.owner, b"a" * BIG)
    before = sharing.memory
    sharing.file.sweep()
    assert sharing.memory == before >= BIG
    sharing.end(sharing.owner)
    sharing.file.sweep()
    assert sharing.memory == 0


def test_locks_of_two_processes_forbid_each_other(sharing: Sharing) -> None:
    mine, theirs = sharing.file.description(), sharing.file.description()
    try:
        assert shared_file.lock(mine, Kind.READ, 0, 4096)
        assert shared_file.lock(theirs, Kind.READ, 0, 4096)
        assert not shared_file.lock(mine, Kind.WRITE, 0, 4096)
        assert shared_file.lock(theirs, Kind.NONE, 0, 4096)
        assert shared_file.lock(mine, Kind.WRITE, 0, 4096)
        assert not shared_file.lock(theirs, Kind.READ, 100, 1)
    finally:
        os.close(mine)
        os.close(theirs)


def test_where_files_may_not_be_large_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(27, "File too large")

    monkeypatch.setattr(os, "ftruncate", refuse)
    assert shared_file._make() is None  # pyright: ignore[reportPrivateUsage]
