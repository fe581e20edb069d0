"""A byte stream -> frames. No I/O: the caller owns the socket.

```python
reader = FrameReader(peer="worker 3")
reader.feed(data)
for frame in reader.frames():
    ...
```

A stream is a plain concatenation of frames, each one msgpack array. Buffers of 128 KiB and
more travel outside of msgpack: a frame `[BUFFERS, [[is_array, size], ...]]`, the bytes of each
buffer, and then the frame that refers to them.

While a buffer is incomplete, `wanted` is the memory where its next bytes belong: receive into
it, and call `advance`. So a big buffer is never copied, but for what arrived together with the
frame ahead of it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final

from msgpack import BufferFull

from noex_mp.errors import (
    BadEnvelopeError,
    FrameTooLargeError,
    ProtocolError,
    RemoteProtocolError,
    TruncatedFrameError,
)
from noex_mp.wire.codec import Decoder, pack_plain
from noex_mp.wire.envelopes import BUFFERS, CALL_KW
from noex_mp.wire.values import MAX_FRAME_SIZE, new_unpacker

__all__ = ["MAX_BUFFER_SIZE", "MAX_FRAME_SIZE", "FrameReader", "size_in"]

MAX_BUFFER_SIZE: Final = 16 * 2**30
"""The largest sum of the buffers of one frame, in bytes."""

# Small, so that the memory that the stream runs through stays in the processor's cache. It
# grows when a frame needs more.
_FIRST_BUFFER: Final = 64 * 1024


class FrameReader:
    """Cuts a byte stream back into the frames that were written to it.

    The hot path does without `frames`:

    ```python
    reader.feed(data)
    for frame in reader.unpacker:
        if frame[0] == BUFFERS:
            reader.begin(frame)
        elif reader.failures:
            ...
    ```

    It passes what `feed` or the loop raises to `translate`. After an error the stream is
    unusable.

    Attributes:
        peer: Who sends, for error messages.
        unpacker: Yields the complete frames. The loop ends by itself when `begin` wants more.
        feed: Add bytes that arrived from the peer. Its bound C method.
        failures: What could not be rebuilt in the frame just read; clear it after each frame.
        wanted: Where the next bytes from the peer belong, if a buffer is incomplete.
    """

    def __init__(
        self,
        *,
        peer: str,
        allow_pickle: bool = True,
        trusted: bool = True,
        max_frame_size: int = MAX_FRAME_SIZE,
        max_buffer_size: int = MAX_BUFFER_SIZE,
        on_borrowed: Callable[[], object] | None = None,
    ) -> None:
        self.peer = peer
        self.wanted: memoryview | None = None
        self._max_buffer_size = max_buffer_size
        self._decoder = Decoder(
            peer=peer, allow_pickle=allow_pickle, trusted=trusted, max_size=max_frame_size
        )
        self.failures = self._decoder.failures
        self.listen(on_borrowed)
        self.unpacker = new_unpacker(
            self._decoder.hook, max_size=max_frame_size, first_buffer=_FIRST_BUFFER
        )
        self.feed = self.unpacker.feed
        # How many bytes were fed; whoever wants `few` counts them.
        self.fed = 0
        # What was fed last, while several frames may be in it.
        self.data = b""
        # Of whoever wants to know sizes: where the next frame begins, if that is known ...
        self.next_at: int | None = 0
        # ... and else where it begins if nobody was stopped in the middle of one, and what was fed
        # there.
        self.head_at = 0
        self.head = b""
        # The buffers still to come, the last one first.
        self._announced: list[tuple[bool, int]] = []
        # How much of a buffer there was no memory for is still to come, in bytes.
        self._to_skip = 0
        # Where in the msgpack stream the frame that owns the buffers begins.
        self._owner_at: int | None = None

    def listen(self, on_borrowed: Callable[[], object] | None) -> None:
        """Set what is called for each piece of shared memory that a frame names, if anything."""
        self._decoder.on_borrowed = on_borrowed or bool

    def before_code(self, call: Callable[[], object]) -> None:
        """Set what is called before the code of a value runs, which may end this process."""
        self._decoder.before_code = call

    def frames(self) -> Iterator[list[Any]]:
        """Yield every complete frame, its buffers in place.

        Raises:
            RemoteProtocolError: What the peer sent cannot be understood.
            MemoryError: This process has none for it.
        """
        while self.wanted is None:
            try:
                frame: list[Any] = next(self.unpacker)
            except StopIteration:
                return
            except Exception as error:  # msgpack raises many kinds
                raise self.translate(error) from error
            if type(frame) is not list or not frame or type(frame[0]) is not int:
                raise BadEnvelopeError(self.peer, "a frame that is no list with a kind in front")
            if frame[0] == BUFFERS:
                self.begin(frame)
            else:
                yield frame

    def few(self, data: bytes) -> Iterable[list[Any]]:
        """Return what has arrived, where that is little: for a lone frame, it alone.

        To find out by another try that there is no more costs an exception, inside of msgpack:
        as much as to decode a small call.
        """
        unpacker = self.unpacker
        first = next(unpacker, None)
        if first is None:
            return ()
        if unpacker.tell() == self.fed:
            return (first,)
        self.data = data
        return chain((first,), unpacker)

    def mark(self) -> None:
        """Note that the next frame begins here."""
        self.next_at, self.head = self.unpacker.tell(), b""

    def size_of(self, frame: list[Any]) -> int:
        """Return the size of a message that has just come out, or 0 if that is not known.

        The next one begins here.
        """
        at, head, end = self.next_at, self.head, self.unpacker.tell()
        self.next_at, self.head = end, b""
        if at is not None:
            return end - at
        return end - self.head_at if head and _begins_with(head, frame) else 0

    def begin(self, frame: list[Any]) -> None:
        """Take a BUFFERS frame, and what has already arrived of its buffers.

        Raises:
            BadEnvelopeError: It is none.
            FrameTooLargeError: Its buffers are larger than the limit.
        """
        sizes = self._checked_sizes(frame)
        self._decoder.buffers.clear()
        self._announced = sizes[::-1]
        # They belong to the next frame, and do not pass through the unpacker.
        self.next_at = self.unpacker.tell() - sum(size for _, size in sizes)
        self.head = b""
        self._next_buffer()
        while self.wanted is not None:
            chunk = self.unpacker.read_bytes(len(self.wanted))
            if not chunk:
                return
            self.next_at += len(chunk)
            self.wanted[: len(chunk)] = chunk
            self.advance(len(chunk))

    def advance(self, size: int) -> None:
        """Note that `size` bytes were received into `wanted`."""
        if self.wanted is None or size > len(self.wanted):
            raise ValueError(f"nobody wants {size} bytes")
        filled = self.wanted
        if size < len(filled):
            self.wanted = filled[size:]
        elif self._to_skip:
            self._skip_some()
        else:
            self._next_buffer()
        # Whoever kept it would write into a value that others may have seen by now.
        filled.release()

    def receive_eof(self) -> None:
        """Note that no more bytes will arrive. Take the complete frames first.

        Raises:
            TruncatedFrameError: The peer closed in the middle of a frame or a buffer.
        """
        if self.wanted is not None:
            missing = len(self.wanted) + self._to_skip + sum(size for _, size in self._announced)
            raise TruncatedFrameError(self.peer, f"a buffer of which {missing} bytes are missing")
        if self._owner_at == self.unpacker.tell():
            raise TruncatedFrameError(self.peer, "buffers without the frame they belong to")
        if self._is_inside_a_frame():
            raise TruncatedFrameError(self.peer, "only the beginning of a frame")

    def translate(self, error: Exception) -> ProtocolError | MemoryError:
        """Return our own error for one that was raised while the unpacker was read."""
        if isinstance(error, ProtocolError):
            return error
        if isinstance(error, MemoryError):
            # No fault of the peer's. A new one: the frames of that may hold what needs so much.
            return MemoryError(f"there is no memory to go on with what {self.peer} has sent")
        # msgpack has no class for a length above the limit, only this text.
        if isinstance(error, BufferFull) or "exceeds max_" in str(error):
            problem = f"a frame above the limit: {error}".rstrip(": ")
            too_large = FrameTooLargeError(self.peer, problem)
            too_large.__cause__ = error
            return too_large
        problem = f"what is not valid msgpack: {type(error).__name__}: {error}".rstrip(": ")
        return RemoteProtocolError(self.peer, problem)

    def _checked_sizes(self, frame: list[Any]) -> list[tuple[bool, int]]:
        """Return what a BUFFERS frame announces; nothing is allocated before it is checked."""
        match frame:
            case [_, [_, *_]]:
                entries: list[Any] = frame[1]
                sizes = [self._checked_size(entry) for entry in entries]
            case _:
                raise BadEnvelopeError(self.peer, "a BUFFERS frame without a list of buffers")
        total = sum(size for _, size in sizes)
        if total > self._max_buffer_size:
            raise FrameTooLargeError(
                self.peer, f"buffers of {total} bytes (the limit is {self._max_buffer_size})"
            )
        return sizes

    def _checked_size(self, entry: Any) -> tuple[bool, int]:
        match entry:
            case [bool() as is_array, int() as size] if size > 0 and size is not True:
                return is_array, size
            case _:
                raise BadEnvelopeError(self.peer, "a BUFFERS frame with a buffer of no size")

    def _next_buffer(self) -> None:
        """Make room for the next buffer, or note that all are complete."""
        if not self._announced:
            self.wanted = None
            self._owner_at = self.unpacker.tell()
            return
        is_array, size = self._announced.pop()
        # One at a time: a peer that announces much and sends nothing costs us no memory.
        try:
            buffer, self.wanted = _new_array(size) if is_array else _new_bytes(size)
        except (MemoryError, OverflowError):
            # It costs its own message, and not the link with all others on it.
            buffer = MemoryError(f"no memory for a buffer of {size} bytes")
            self._to_skip = size
            self._skip_some()
        self._decoder.buffers.append(buffer)

    def _skip_some(self) -> None:
        """Let the next bytes of a buffer come that nobody will see."""
        size = min(self._to_skip, _FIRST_BUFFER)
        self._to_skip -= size
        self.wanted = memoryview(bytearray(size))

    def _is_inside_a_frame(self) -> bool:
        # The unpacker does not tell, so ask it: a nil comes out as it went in only between two
        # frames; inside one it becomes part of it.
        try:
            self.feed(b"\xc0")
            return next(self.unpacker, self) is not None
        except Exception:
            return True


def size_in(data: bytes, sid: int, seq: int) -> int | None:
    """Return the size of a message that lies among others, or None if it is not there.

    Args:
        data: Frames, the last of which may be cut off.
        sid: Whom it was for.
        seq: Its number.
    """
    unpacker = new_unpacker(_Unread, max_size=len(data) or 1, first_buffer=_FIRST_BUFFER)
    unpacker.feed(data)
    begins = 0
    try:
        for frame in unpacker:
            if frame[0] == BUFFERS:
                unpacker.read_bytes(sum(size for _, size in frame[1]))
            elif frame[1:3] == [sid, seq] and frame[0] <= CALL_KW:
                return unpacker.tell() - begins
            begins = unpacker.tell()
    except Exception:
        # What somebody else has written there while it was read.
        return None
    return None


class _Unread:
    """Stands for a value of which only the size matters."""

    def __init__(self, code: int, data: bytes) -> None:
        """Take what the unpacker has found."""


def _begins_with(data: bytes, frame: list[Any]) -> bool:
    """Return whether a message begins where some bytes begin, and not before."""
    length = _LONGER.get(data[0], 1)
    return data.startswith(pack_plain(frame[:3])[1:], length)


# How long the head of a list is that does not fit into one byte, by its first.
_LONGER: Final = {0xDC: 3, 0xDD: 5}


def _new_array(size: int) -> tuple[Any, memoryview]:
    """Return writable memory for an array, and a view of it."""
    # Unlike a bytearray, it is not filled with zeros first: half the time for 16 MiB.
    empty = getattr(sys.modules.get("numpy"), "empty", None)
    buffer = empty(size, "u1") if empty else bytearray(size)
    return buffer, memoryview(buffer)


def _new_bytes(size: int) -> tuple[bytes, memoryview]:
    """Return a new bytes object with undefined content, and a view to fill it through.

    Bytes are immutable to Python code. CPython's own C code makes them in just this way: it
    allocates the object with `PyBytes_FromStringAndSize(NULL, size)`, and fills it before
    anybody else sees it. That is sound here because the object stays in this reader until it
    is complete: nobody has read it, hashed it or shared it before (sizes above 1 are never
    shared, and the hash is computed on first use). The view does not keep the object alive;
    the reader holds both, and drops the view when the last byte is in.
    """
    new, address, view = _bytes_functions()
    buffer: bytes = new(None, size)
    writable: memoryview = view(address(buffer), size, 0x200)  # PyBUF_WRITE
    return buffer, writable


@functools.cache
def _bytes_functions() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    # Imported here: most processes never receive a big buffer, and it takes some ms.
    import ctypes

    new = ctypes.pythonapi.PyBytes_FromStringAndSize
    new.argtypes, new.restype = (ctypes.c_void_p, ctypes.c_ssize_t), ctypes.py_object
    address = ctypes.pythonapi.PyBytes_AsString
    address.argtypes, address.restype = (ctypes.py_object,), ctypes.c_void_p
    view = ctypes.pythonapi.PyMemoryView_FromMemory
    view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
    view.restype = ctypes.py_object
    return new, address, view
