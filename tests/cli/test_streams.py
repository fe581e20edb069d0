"""Writing that never waits for its reader."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from noex_mp.cli.streams import Stream


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    yield read_end, write_end
    for fd in (read_end, write_end):
        try:
            os.close(fd)
        except OSError:  # the test has closed it
            continue


def read_all(fd: int) -> bytes:
    with os.fdopen(os.dup(fd), "rb") as file:
        return file.read()


def test_everything_arrives_in_order(pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    stream = Stream(write_end)
    for number in range(100):
        stream.write(b"%d\n" % number)
    stream.close()
    os.close(write_end)
    assert read_all(read_end) == b"".join(b"%d\n" % number for number in range(100))


def test_a_reader_that_does_not_read_holds_nobody_up(pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    stream = Stream(write_end, room=500_000)
    for _ in range(20):
        stream.write(b"x" * 100_000, droppable=True)
    stream.write(b"the log\n")
    # Gives up waiting, and says what it left out once there is a reader.
    stream.close(patience=0.01)
    reader = threading.Thread(target=stream.close)
    reader.start()
    seen = b""
    while b"the log\n" not in seen:
        seen += os.read(read_end, 65536)
    reader.join()
    assert 500_000 < seen.count(b"x") < 1_000_000
    assert b"lines of output were dropped" in seen
    assert seen.endswith(b"the log\n")


def test_a_reader_that_is_gone_costs_the_lines_only(pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    os.close(read_end)
    stream = Stream(write_end)
    for _ in range(3):
        stream.write(b"nobody hears this\n")
    stream.close()


def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    os.set_blocking(write_end, False)
    stream = Stream(write_end)
    stream.write(b"y" * 1_000_000)
    seen = 0
    while seen < 1_000_000:
        seen += len(os.read(read_end, 65536))
    stream.close()
    assert seen == 1_000_000
