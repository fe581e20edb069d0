"""A stream comes apart into its frames, however it was cut; rubbish is told as such."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
import socket
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noex_mp.errors import (
    BadEnvelopeError,
    FrameTooLargeError,
    RemoteProtocolError,
    TruncatedFrameError,
)
from noex_mp.transport.link import Link
from noex_mp.wire.codec import BIG, Encoder, pack_plain
from noex_mp.wire.envelopes import BUFFERS, CALL, CAST, GRANT
from noex_mp.wire.stream import FrameReader, size_in
from tests.wire.samples import Point


def receive(reader: FrameReader, stream: bytes, sizes: Iterator[int]) -> Iterator[list[Any]]:
    """Do what a link does: `recv` of any size, or `recv_into` what is wanted."""
    at = 0
    while at < len(stream):
        wanted, size = reader.wanted, next(sizes)
        if wanted is None:
            reader.feed(stream[at : at + size])
            at += size
        else:
            piece = stream[at : at + min(size, len(wanted))]
            wanted[: len(piece)] = piece
            at += len(piece)
            reader.advance(len(piece))
        yield from reader.frames()


def joined(chunks: list[bytes | memoryview]) -> bytes:
    return b"".join(chunks)


simple = st.lists(st.integers() | st.binary(max_size=50) | st.tuples(st.integers()), max_size=4)


@settings(max_examples=60)
@given(
    bodies=st.lists(simple, max_size=6),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=10),
)
def test_frames_survive_any_cut_of_the_stream(bodies: list[list[Any]], cuts: list[int]) -> None:
    encoder, reader = Encoder(), FrameReader(peer="worker 1")
    frames = [[1, *body] for body in bodies]
    stream = b"".join(map(encoder.pack, frames))
    sizes = iter(cuts * (len(stream) + 1))
    assert list(receive(reader, stream, sizes)) == frames
    reader.receive_eof()


messages = st.tuples(
    st.sampled_from([CAST, CALL]), st.sampled_from([7, 300]), st.sampled_from(["note", "n" * 200])
)


@settings(max_examples=60)
@given(
    kinds=st.lists(messages, min_size=1, max_size=20),
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=10),
    asks=st.lists(st.booleans(), min_size=1, max_size=5),
)
def test_a_message_has_its_size_or_none_however_the_stream_was_cut(
    kinds: list[tuple[int, int, str]], cuts: list[int], asks: list[bool]
) -> None:
    frames: list[list[Any]] = [
        [kind, sid, seq, name] for seq, (kind, sid, name) in enumerate(kinds)
    ]
    sizes = [len(pack_plain(frame)) for frame in frames]
    stream = b"".join(map(pack_plain, frames))
    found: list[int] = []
    whether = itertools.cycle(asks)

    def on_frames(link: Link) -> None:
        for frame in link.arrived:
            asked = next(whether)
            found.append(link.reader.size_of(frame) if asked else 0)
            if not asked:
                link.reader.next_at = None

    ours, theirs = socket.socketpair()
    loop = asyncio.new_event_loop()
    link = Link(loop, ours, peer="worker 1", on_frames=on_frames, on_close=lambda link, _: None)
    for size in itertools.cycle(cuts):
        theirs.send(stream[:size])
        assert link.read()
        stream = stream[size:]
        if not stream:
            break
    assert all(size in (0, right) for size, right in zip(found, sizes, strict=True))
    if all(asks):
        assert found == sizes
    link.close()
    theirs.close()
    loop.close()


@given(kinds=st.lists(messages, min_size=1, max_size=20), data=st.data())
def test_the_size_of_a_message_is_found_among_others(
    kinds: list[tuple[int, int, str]], data: st.DataObject
) -> None:
    frames: list[list[Any]] = [
        [kind, sid, seq, name] for seq, (kind, sid, name) in enumerate(kinds)
    ]
    buffers = pack_plain([BUFFERS, [[False, 3]]]) + b"\xc1\xc1\xc1"
    ahead = data.draw(st.sampled_from([b"", buffers, pack_plain([GRANT, 7, 1, 2, 3])]))
    stream = b"".join(ahead + pack_plain(frame) for frame in frames)
    frame: list[Any] = data.draw(st.sampled_from(frames))
    _, sid, seq, _ = frame
    assert size_in(stream, sid, seq) == len(pack_plain(frame))
    assert size_in(stream, sid, len(frames)) is None
    assert size_in(stream[: data.draw(st.integers(0, len(stream)))], sid, seq) in (
        None,
        len(pack_plain(frame)),
    )


def test_big_buffers_survive_any_cut_of_the_stream() -> None:
    generator = random.Random(1)
    array = np.arange(BIG, dtype=">i2").reshape(4, -1, order="F")
    data = generator.randbytes(2 * BIG + 3)
    frames: list[list[Any]] = [
        [1, "small", (1,)],
        [1, data, {"a": [bytearray(data), (memoryview(data), Point(1, data))]}, b"x"],
        [1, array, np.asfortranarray(array)],
        [1, "last"],
    ]
    encoder = Encoder()
    stream = b"".join(joined(encoder.pack_big(frame)) for frame in frames)
    for scale in (7_000, 100_000, 10**6, 10**7):
        reader = FrameReader(peer="worker 1")
        sizes = iter(functools.partial(generator.randint, 1, scale), 0)
        small, big, arrays, last = receive(reader, stream, sizes)
        reader.receive_eof()
        assert (small, last) == (frames[0], frames[3])
        inner = big[2]["a"]
        found = [big[1], inner[0], inner[1][0], inner[1][1].y]
        assert [type(value) for value in found] == [bytes] * 4
        assert found == [data] * 4
        assert (arrays[1] == array).all()
        assert arrays[1].dtype == array.dtype
        assert arrays[2].flags.f_contiguous
        assert reader.failures == []


def test_buffers_of_several_sizes_keep_their_order() -> None:
    values = [b"a" * BIG, b"b" * (BIG + 5), b"c" * (BIG + 2)]
    encoder, reader = Encoder(), FrameReader(peer="worker 1")
    stream = joined(encoder.pack_big([1, *values]))
    assert encoder.buffers == []
    assert list(receive(reader, stream, iter(lambda: 10**5, 0))) == [[1, *values]]


def test_a_received_bytes_object_is_like_any_other() -> None:
    data = random.Random(2).randbytes(BIG)
    reader = FrameReader(peer="worker 1")
    stream = joined(Encoder().pack_big([1, data]))
    [frame] = receive(reader, stream, iter(lambda: 1000, 0))
    assert frame[1] == data
    assert hash(frame[1]) == hash(data)
    assert {data: 1}[frame[1]] == 1


def test_memory_that_is_full_cannot_be_written_to_any_more() -> None:
    reader = FrameReader(peer="worker 1")
    reader.feed(msgpack.packb([BUFFERS, [[False, 3]]]))
    list(reader.frames())
    view = reader.wanted
    assert view is not None
    view[:] = b"abc"
    reader.advance(3)
    with pytest.raises(ValueError, match="released"):
        view[0] = 1


def test_the_loop_over_the_unpacker_ends_by_itself_when_bytes_are_missing() -> None:
    reader = FrameReader(peer="worker 1")
    chunks = Encoder().pack_big([1, bytes(BIG)])
    reader.feed(bytes(chunks[0]) + bytes(1000))
    seen: list[int] = []
    for frame in reader.unpacker:
        seen.append(frame[0])
        reader.begin(frame)
    assert seen == [BUFFERS]
    assert reader.wanted is not None
    assert len(reader.wanted) == BIG - 1000


def test_small_bytes_stay_in_the_message() -> None:
    chunks = Encoder().pack_big([1, bytes(BIG - 1), [b"x"], {"a": b"y"}])
    assert len(chunks) == 1


def test_bytes_of_the_limit_leave_it() -> None:
    value = bytes(BIG)
    header, view, message = Encoder().pack_big([1, value])
    assert isinstance(view, memoryview)
    assert view.obj is value
    assert len(header) + len(message) < 50


def test_a_view_with_gaps_cannot_be_sent() -> None:
    encoder = Encoder()
    with pytest.raises(BufferError):
        encoder.pack_big([1, memoryview(bytes(2 * BIG))[::2]])
    assert encoder.buffers == []


def test_a_failed_pack_big_leaves_nothing_behind() -> None:
    encoder = Encoder()
    with pytest.raises(Exception):  # noqa: B017 - what pickle raises
        encoder.pack_big([1, bytes(BIG), (i for i in [1])])
    assert encoder.buffers == []
    assert encoder.pack_big([1, 2]) == [encoder.pack([1, 2])]


def test_a_failed_pack_leaves_no_buffers() -> None:
    encoder = Encoder()
    with pytest.raises(Exception):  # noqa: B017 - what pickle raises
        encoder.pack([1, np.zeros(BIG), (i for i in [1])])
    assert encoder.buffers == []
    with pytest.raises(UnicodeEncodeError) as failure:
        encoder.pack([1, np.zeros(BIG), "\ud800"])
    encoder.explain(["\ud800"], {}, failure.value)
    assert encoder.buffers == []


@settings(max_examples=300)
@given(garbage=st.binary(max_size=200), prefix=st.sampled_from([b"", b"\x92\x01", b"\x92\x09"]))
def test_garbage_is_either_accepted_or_a_remote_protocol_error(
    garbage: bytes, prefix: bytes
) -> None:
    # Without pickle: what it would load may be anything.
    reader = FrameReader(
        peer="worker 1", allow_pickle=False, max_frame_size=2**20, max_buffer_size=2**20
    )
    with contextlib.suppress(RemoteProtocolError):
        reader.feed(prefix + garbage)
        list(reader.frames())
        reader.receive_eof()


@pytest.mark.parametrize(
    "stream",
    [
        b"\xc1",
        b"\x81\x90\x01",
        b"\xa1\xff",
        b"\x91" * 5000,
        b"\xd4\xff\x00",
    ],
    ids=["no such byte", "list as a key", "no UTF-8", "too deep", "bad timestamp"],
)
def test_what_is_no_msgpack_names_the_peer(stream: bytes) -> None:
    reader = FrameReader(peer="worker 1")
    reader.feed(stream)
    with pytest.raises(RemoteProtocolError) as failure:
        list(reader.frames())
    assert str(failure.value).startswith("worker 1 sent what is not valid msgpack")


@pytest.mark.parametrize("value", [1, "a", None, [], ["a"], [None], [True], {}, [[1]]], ids=repr)
def test_a_frame_begins_with_its_kind(value: Any) -> None:
    reader = FrameReader(peer="worker 1")
    reader.feed(msgpack.packb(value))
    with pytest.raises(BadEnvelopeError):
        list(reader.frames())


@pytest.mark.parametrize(
    "rest",
    [
        [],
        [[]],
        [5],
        [[5]],
        [[[False]]],
        [[[False, -1]]],
        [[[False, 0]]],
        [[[False, True]]],
        [[[False, 1.5]]],
        [[[1, 5]]],
        [[[False, 5]], 1],
    ],
    ids=repr,
)
def test_a_bad_announcement_of_buffers_is_refused(rest: list[Any]) -> None:
    reader = FrameReader(peer="worker 1")
    reader.feed(msgpack.packb([BUFFERS, *rest]))
    with pytest.raises(BadEnvelopeError):
        list(reader.frames())


@pytest.mark.parametrize("sizes", [[2**34 + 1], [2**33, 2**33, 1], [2**63], [2**64 - 1]], ids=repr)
def test_buffers_above_the_limit_are_refused_before_anything_is_allocated(
    sizes: list[int],
) -> None:
    reader = FrameReader(peer="worker 1")
    reader.feed(msgpack.packb([BUFFERS, [[True, size] for size in sizes]]))
    with pytest.raises(FrameTooLargeError):
        list(reader.frames())
    assert reader.wanted is None


@pytest.mark.parametrize("cut", [1000, 70_000, 10**9])
def test_a_buffer_without_memory_is_skipped_and_fails_its_own_frame_only(
    cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(size: int) -> Any:
        raise MemoryError

    encoder, reader = Encoder(), FrameReader(peer="worker 1")
    big = bytes(3 * BIG + 1)
    stream = joined(encoder.pack_big([1, 2, "x", big, np.zeros(BIG), big]))
    # A failure that is not looked at stays; the owner of the stream clears it after each frame.
    monkeypatch.setattr("noex_mp.wire.stream._new_bytes", no_memory)
    frames = list(receive(reader, stream, iter([cut] * len(stream))))
    assert [frame[:3] for frame in frames] == [[1, 2, "x"]]
    assert "no memory for a buffer of 393217 bytes" in str(reader.failures[0])
    reader.failures.clear()
    monkeypatch.undo()
    stream = joined(encoder.pack_big([1, big]))
    assert list(receive(reader, stream, iter([cut] * len(stream)))) == [[1, big]]
    assert not reader.failures
    reader.receive_eof()


def test_the_end_within_a_buffer_that_is_skipped_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(size: int) -> Any:
        raise MemoryError

    monkeypatch.setattr("noex_mp.wire.stream._new_bytes", no_memory)
    reader = FrameReader(peer="worker 1")
    reader.feed(msgpack.packb([BUFFERS, [[False, 200_000], [True, 5]]]) + b"x" * 1000)
    list(reader.frames())
    with pytest.raises(TruncatedFrameError, match="199005 bytes are missing"):
        reader.receive_eof()


def test_buffers_of_exactly_the_limit_are_accepted() -> None:
    reader = FrameReader(peer="worker 1", max_buffer_size=100)
    reader.feed(msgpack.packb([BUFFERS, [[True, 60], [False, 40]]]))
    list(reader.frames())
    assert reader.wanted is not None


@pytest.mark.parametrize(
    "header",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdd\x04\x00\x00\x01",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
    ],
    ids=["array", "array above 2**26", "map", "ext"],
)
def test_a_length_above_the_limit_is_refused_when_it_is_announced(header: bytes) -> None:
    reader = FrameReader(peer="worker 1")
    reader.feed(b"\x92\x01" + header)
    with pytest.raises(FrameTooLargeError):
        list(reader.frames())


def test_a_frame_that_grows_above_the_limit_is_refused() -> None:
    reader = FrameReader(peer="worker 1", max_frame_size=1000)
    reader.feed(msgpack.packb([1, b"x" * 900]))
    assert len(list(reader.frames())) == 1
    reader.feed(b"\xdc\x03\xe8" + b"\xc4\x50" + b"x" * 80)
    with pytest.raises(Exception) as failure:  # msgpack's own
        reader.feed(b"x" * 950)
    assert isinstance(reader.translate(failure.value), FrameTooLargeError)


def test_a_lack_of_memory_is_no_fault_of_the_peers() -> None:
    told = FrameReader(peer="worker 1").translate(MemoryError())
    assert isinstance(told, MemoryError)
    assert told.__traceback__ is None


@settings(max_examples=40)
@given(body=simple, data=st.data())
def test_half_a_frame_is_noticed_at_the_end(body: list[Any], data: st.DataObject) -> None:
    stream = Encoder().pack([1, *body])
    cut = data.draw(st.integers(1, len(stream) - 1))
    reader = FrameReader(peer="worker 1")
    reader.feed(stream[:cut])
    assert list(reader.frames()) == []
    with pytest.raises(TruncatedFrameError) as failure:
        reader.receive_eof()
    assert failure.value.peer == "worker 1"


def test_half_a_buffer_and_a_missing_owner_are_noticed_at_the_end() -> None:
    stream = joined(Encoder().pack_big([1, bytes(BIG), bytes(BIG)]))
    header = len(msgpack.packb([BUFFERS, [[False, BIG]] * 2]))
    for cut in (header, header + 1, header + BIG, header + 2 * BIG - 1, header + 2 * BIG):
        reader = FrameReader(peer="worker 1")
        assert list(receive(reader, stream[:cut], iter(lambda: 10**5, 0))) == []
        with pytest.raises(TruncatedFrameError):
            reader.receive_eof()


def test_the_end_between_two_frames_is_fine() -> None:
    reader = FrameReader(peer="worker 1")
    reader.receive_eof()
    reader = FrameReader(peer="worker 1")
    stream = joined(Encoder().pack_big([1, bytes(BIG)]))
    assert len(list(receive(reader, stream, iter(lambda: 10**6, 0)))) == 1
    reader.receive_eof()


def test_a_buffer_belongs_to_one_message_only() -> None:
    reader = FrameReader(peer="worker 1")
    stream = joined(Encoder().pack_big([1, bytes(BIG)]))
    message = stream[-20:][stream[-20:].index(b"\x92\x01") :]
    list(receive(reader, stream + message, iter(lambda: 10**6, 0)))
    assert "used twice" in str(reader.failures[0])


def test_nobody_advances_what_is_not_wanted() -> None:
    with pytest.raises(ValueError, match="nobody wants"):
        FrameReader(peer="worker 1").advance(1)
