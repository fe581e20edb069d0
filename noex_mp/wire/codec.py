"""Values <-> msgpack: the encoder and the decoder. No I/O.

```python
encoder = Encoder()
data = encoder.pack([CALL, 7, 123, "increment", 1])
if encoder.buffers:
    chunks = encoder.take(data)
```

What comes out equals what went in, in type and value, with these exceptions:

- `bytearray` and `memoryview` arrive as `bytes`.
- An array arrives contiguous and writable.
- An exception that cannot be rebuilt arrives as `RemoteError`.
- A value that stands in two places arrives as two equal values, as with JSON. (Inside what is
  pickled it stays one.)

The hooks below cost nothing while a message is made of msgpack's own types: msgpack calls them
only for a type that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from msgpack import ExtType, Unpacker

# It enters its own loader.
import noex_mp.wire.registration  # noqa: F401  # pyright: ignore[reportUnusedImport]
from noex_mp.errors import NoexError, RemoteProtocolError, UnencodableError
from noex_mp.wire import lending
from noex_mp.wire.cut_over import here
from noex_mp.wire.envelopes import BUFFERS
from noex_mp.wire.extensions import LOADERS, dumper_for
from noex_mp.wire.values import (
    BIG,
    BUFFER,
    FROM_OUTSIDE,
    LENT,
    MAX_FRAME_SIZE,
    MAX_LENGTH,
    MAX_NESTING,
    PACKED,
    Pack,
    extension,
    new_packer,
    new_unpacker,
    pack_plain,
)

__all__ = ["BIG", "Decoder", "Encoder", "pack_frame", "pack_plain"]

# What a frame may have beside what it carries.
_SMALL = frozenset((int, bool, float))
_BYTES_LIKE = frozenset((bytes, bytearray, memoryview))
_MAY_HOLD_BYTES = _BYTES_LIKE | {list, dict}
# How far down the search for big bytes goes; what lies deeper stays in the message.
_SEARCH_DEPTH = 64
_OUTSIDE_LOADERS = {code: LOADERS[code] for code in FROM_OUTSIDE}
# A peer that sends nothing but rubbish must not fill our memory with errors about it.
_MAX_FAILURES = 16
# msgpack lets 1024 lists lie in each other, at about 350 bytes of C stack each, and 24 extensions
# full of them overran 8 MiB: tried. So from some level of extensions on, payloads are looked at.
_TRUSTED_DEPTH = 4
_DEEP_PAYLOAD = 32
# So many messages may be packed in the middle of each other. Each that fails is looked through for
# the reason, which runs the code inside of it again: their number must stay small.
_MAX_LEVEL = 4


class Encoder:
    """Packs messages, each into bytes of its own.

    A message that cannot be encoded takes nothing along: the next one is packed as if nothing
    had been. Not thread-safe: one encoder for each thread.

    A value's own code (`__getstate__`, `__reduce__`, the `encode` of a registered type) runs in the
    middle of a message, and may send one: a class that logs, to a server. Such a message must not
    come into the buffer of the one around it, so a spare encoder packs it. Everything here does so
    by itself, but `pack`, which is C and knows of nothing: it is locked meanwhile.

    Attributes:
        pack: Return the bytes of one frame. The bound C method of a msgpack packer; raises
            whatever the value raised. In the middle of another message it raises BufferError:
            use `pack_big` then.
        buffers: The big buffers that the last pack left out of the message, each with whether
            it is an array. Test it after `pack`; take them with `take`.
        allow_pickle: Whether pickle is the last resort for other types.
        allow_lambdas: Whether a lambda may go by pickle too.
        exceptions: The ids of the exceptions being packed, outermost first.
    """

    def __init__(self, *, allow_pickle: bool = True) -> None:
        self.allow_pickle = allow_pickle
        self.allow_lambdas = False
        self.buffers: list[tuple[bool, memoryview]] = []
        # What keeps the shared memory that the message names: empty views.
        self._lent: list[memoryview] = []
        self._lends = False
        self.exceptions: list[int] = []
        # Any: its stubs do not know that it is a buffer.
        self._packer: Any = new_packer(self._encode)
        self.pack: Pack = self._packer.pack
        self._depth = 0
        self._level = 0
        self._spare: Encoder | None = None
        self._lifts_bytes = False
        # How many big bytes were left in the message so far.
        self._within = 0
        # One packer for each level of nesting: a packer cannot begin a second value while it
        # is inside the first.
        self._payload_packs: list[Pack] = []

    def chunks(self, frame: list[Any]) -> list[bytes | memoryview]:
        """Return the chunks to send for a frame; also in the middle of another one."""
        if self._depth:
            return self._inner().chunks(frame)
        return self.take(self._packed(frame))

    def recover(self) -> None:
        """Forget a message for the bytes of which `pack` had no memory.

        msgpack keeps such a one, and would send it together with the next.
        """
        if not self._depth:
            self._packer.reset()

    def _packed(self, value: Any) -> bytes:
        try:
            return self.pack(value)
        except MemoryError:
            self.recover()
            raise

    def take(self, data: bytes) -> list[bytes | memoryview]:
        """Return the chunks to send, in order, for a message that was just packed.

        Raises:
            ValueError: It is larger than the peer would take.
        """
        if len(data) > MAX_FRAME_SIZE:
            raise ValueError(
                f"it takes {len(data):,} bytes, and a frame may have {MAX_FRAME_SIZE:,}; send it "
                f"in parts"
            )
        lent, self._lent = self._lent, []
        if not self.buffers:
            return [*lent, data]
        buffers = self.buffers.copy()
        self.buffers.clear()
        header = pack_plain([BUFFERS, [[is_array, view.nbytes] for is_array, view in buffers]])
        return [header, *(view for _, view in buffers), *lent, data]

    def pack_big(self, frame: list[Any], *, lends: bool = False) -> list[bytes | memoryview]:
        """Return the chunks to send for a frame whose big bytes leave out of band too.

        So does all that it holds, packed, if that is more than a frame may have. Looks into lists,
        tuples, sets, dict values and dataclasses. Until the chunks are sent, nobody may change a
        buffer in them. Works in the middle of another message, too.

        Args:
            frame: The frame.
            lends: Shared memory may be lent: it is named, and an empty chunk stands for it, which
                is to be kept until the peer has said `TAKEN`.
        """
        if self._depth:
            return self._inner().pack_big(frame, lends=lends)
        self._forget()
        self.recover()
        self._within = 0
        self._lifts_bytes = True
        self._lends = lends and lending.lender is not None
        try:
            data = self._packed(self._lifted(frame))
            if len(data) > MAX_FRAME_SIZE or (len(data) > MAX_LENGTH and _is_long(frame)):
                # There may be no room for both.
                del data
                self._forget()
                data = self._packed([self._packed_apart(item) for item in frame])
            return self.take(data)
        except BaseException:
            self._forget()
            raise
        finally:
            self._lifts_bytes = self._lends = False

    def _forget(self) -> None:
        self.buffers.clear()
        self._lent.clear()

    def explain(
        self, args: tuple[Any, ...] | list[Any], kwargs: dict[str, Any] | None, error: Exception
    ) -> UnencodableError | MemoryError:
        """Return the error that names the argument that cannot be sent.

        Where it is memory that was missing, it says so: no argument is to blame.

        Args:
            args: The positional arguments of the message.
            kwargs: Its keyword arguments.
            error: What `pack` raised.
        """
        roots = [(f"args[{i}]", value) for i, value in enumerate(args)]
        roots += [(f"kwargs[{name!r}]", value) for name, value in (kwargs or {}).items()]
        return self._explain(roots, error)

    def explain_reply(self, value: Any, error: BaseException) -> UnencodableError | MemoryError:
        """Return the error that names what cannot be sent in a reply."""
        return self._explain([("reply", value)], error)

    def explain_value(
        self, root: str, value: Any, error: Exception
    ) -> UnencodableError | MemoryError:
        """Return the error that names what cannot be sent in one value, called `root`."""
        return self._explain([(root, value)], error)

    def _explain(
        self, roots: list[tuple[str, Any]], error: BaseException
    ) -> UnencodableError | MemoryError:
        if isinstance(error, MemoryError):
            self.recover()
            return MemoryError(str(error) or "there is no memory to pack it for another process")
        # Loaded when there is something to explain: most processes never have.
        from noex_mp.wire.unencodable import find_unencodable

        if self._depth:
            if self._level == _MAX_LEVEL:
                return UnencodableError("the message", str(error))
            return self._inner()._explain(roots, error)
        try:
            return find_unencodable(self._packed, roots, error)
        finally:
            self.buffers.clear()

    def _encode(self, value: object) -> ExtType:
        """Return the extension for a value that msgpack does not know."""
        self._depth = depth = self._depth + 1
        try:
            if depth > MAX_NESTING:
                raise ValueError(f"it is nested too deeply: more than {MAX_NESTING} levels")
            dump = dumper_for(type(value))
            if depth > 1:
                return dump(self, value)
            # A packer whose buffer is looked at refuses to pack: what the value's code sends
            # meanwhile must take another one. That costs plain values nothing, and others 60 ns.
            with memoryview(self._packer):
                return dump(self, value)
        except BaseException:
            if depth == 1:  # the whole message has failed
                self.buffers.clear()
            raise
        finally:
            self._depth = depth - 1

    def _inner(self) -> Encoder:
        """Return what packs a message that is sent in the middle of this one."""
        if self._level == _MAX_LEVEL:
            raise ValueError(
                "the code of a value sends a message when the value is sent, with a value whose "
                "code sends another, and so on"
            )
        spare = self._spare
        if spare is None:
            spare = self._spare = Encoder(allow_pickle=self.allow_pickle)
            spare._level = self._level + 1
        spare.allow_lambdas = self.allow_lambdas
        return spare

    def nested(self, value: Any) -> bytes:
        """Return a payload: the value as msgpack. For dumpers only."""
        depth = self._depth
        if depth > len(self._payload_packs):
            self._payload_packs.append(new_packer(self._encode, for_payloads=True).pack)
        if depth > _TRUSTED_DEPTH and _is_deeper(value, _DEEP_PAYLOAD):
            raise ValueError(f"it is nested too deeply: {_DEEP_PAYLOAD} lists in many extensions")
        pack = self._payload_packs[depth - 1]
        left, lent = len(self.buffers), len(self._lent)
        try:
            return pack(self._lifted(value) if self._lifts_bytes else value)
        except BaseException as error:
            # Who goes on without this value (an exception's args) must not send its buffers.
            del self.buffers[left:], self._lent[lent:]
            if isinstance(error, MemoryError):
                # It may keep what it had no memory for (see `recover`).
                self._payload_packs[depth - 1] = new_packer(self._encode, for_payloads=True).pack
            raise

    def can_pack(self, value: Any) -> bool:
        """Tell whether a value can be sent, and leave no trace. For dumpers only."""
        left, lent = len(self.buffers), len(self._lent)
        try:
            self.nested(value)
        except Exception:
            return False
        del self.buffers[left:], self._lent[lent:]
        return True

    def out_of_band(self, view: memoryview, *, is_array: bool) -> ExtType:
        """Let a big buffer travel behind the message, or lend it. For dumpers only."""
        return self._lent_out(view) or self._apart(view, is_array=is_array)

    def _lent_out(self, view: memoryview) -> ExtType | None:
        lender = lending.lender if self._lends else None
        found = lender.lend(view) if lender is not None else None
        if found is None:
            return None
        handle, kept = found
        self._lent.append(kept)
        return extension(LENT, handle)

    def _apart(self, view: memoryview, *, is_array: bool) -> ExtType:
        self.buffers.append((is_array, view))
        return extension(BUFFER, (len(self.buffers) - 1).to_bytes(4, "big"))

    def _packed_apart(self, value: Any) -> Any:
        """Return what stands for a value that travels behind the message, packed."""
        if value is None or value.__class__ in _SMALL:
            return value
        # Not by the one for messages, which would keep the memory.
        packed = new_packer(self._encode).pack(self._lifted(value))
        self._apart(memoryview(packed), is_array=False)
        return extension(PACKED, (len(self.buffers) - 1).to_bytes(4, "big"))

    def _lifted(self, value: Any, depth: int = 0) -> Any:
        """Return the value with references in place of its big bytes."""
        kind = type(value)  # pyright: ignore[reportUnknownVariableType]
        if kind in _BYTES_LIKE:
            return self._lifted_bytes(value)
        if depth < _SEARCH_DEPTH:
            # One pass in C tells whether there is anything to look for.
            if kind is list and not _MAY_HOLD_BYTES.isdisjoint(map(type, value)):
                return [self._lifted(child, depth + 1) for child in value]
            if kind is dict and not _MAY_HOLD_BYTES.isdisjoint(map(type, value.values())):
                return {key: self._lifted(child, depth + 1) for key, child in value.items()}
        return value

    def _lifted_bytes(self, value: bytes | bytearray | memoryview) -> Any:
        view = memoryview(value)
        if view.nbytes < BIG or not view.c_contiguous:
            return value
        if (lent := self._lent_out(view.cast("B"))) is not None:
            return lent
        # All together: a message has a limit of its own.
        if self._within + view.nbytes < here.bytes_from:
            self._within += view.nbytes
            return value
        return self._apart(view.cast("B"), is_array=False)


def pack_frame(kind: int, items: list[bytes | memoryview]) -> bytes:
    """Return the frame `[kind, [item, ...]]` of items that were packed, each by itself."""
    # An array of two, and one of 32 bits.
    head = b"\x92%b\xdd%b" % (pack_plain(kind), len(items).to_bytes(4, "big"))
    return b"".join((head, *items))


def _is_deeper(value: Any, limit: int) -> bool:
    """Tell whether more than `limit` lists and dicts lie in each other."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is not list and kind is not dict:
        return False
    children: Iterable[Any] = value if kind is list else value.values()
    return limit == 0 or any(_is_deeper(child, limit - 1) for child in children)


def _is_long(value: Any) -> bool:
    """Tell whether there is a list or dict longer than may be in a frame."""
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        return False
    children = cast("dict[Any, Any] | list[Any]", value)
    inner = children.values() if isinstance(children, dict) else children
    return len(children) > MAX_LENGTH or any(map(_is_long, inner))


class Decoder:
    """Turns extensions back into values.

    A peer that is not `trusted`, because it does not belong to the node, may send what needs
    neither pickle nor a class of anybody's.

    Attributes:
        peer: Who sends, for error messages.
        allow_pickle: Whether to load what was pickled.
        failures: What could not be rebuilt since the list was last cleared; None stands in its
            place in the message. At most 16 are kept.
        buffers: The big buffers that came ahead of the next message.
        on_borrowed: Is called for each piece of shared memory that a message names.
        before_code: Is called before a pickle is loaded, which may run any code.
    """

    def __init__(
        self,
        *,
        peer: str,
        allow_pickle: bool = True,
        trusted: bool = True,
        max_size: int = MAX_FRAME_SIZE,
    ) -> None:
        self.peer = peer
        self.allow_pickle = allow_pickle
        self._loaders = LOADERS if trusted else _OUTSIDE_LOADERS
        self.failures: list[Exception] = []
        self.buffers: list[Any] = []
        self.on_borrowed: Callable[[], object] = bool
        self.before_code: Callable[[], object] = bool
        self._max_size = max_size
        self._depth = 0
        self._payload_unpackers: list[Unpacker] = []

    def hook(self, code: int, data: bytes) -> Any:
        """Return the value of an extension, or None and a failure. Never raises."""
        self._depth += 1
        try:
            if self._depth > MAX_NESTING:
                raise ValueError(f"nested more than {MAX_NESTING} levels deep")
            load = self._loaders.get(code)
            if load is None:
                kind = "a forbidden" if code in LOADERS else "the unknown"
                raise RemoteProtocolError(self.peer, f"{kind} extension type {code}")
            return load(self, data)
        except NoexError as error:
            self._fail(error)
        except KeyboardInterrupt:
            raise
        except MemoryError as error:
            # Nobody's fault but this process's; without the frames, which may hold a lot.
            self._fail(MemoryError(*error.args))
        except BaseException as error:  # loading runs the user's code
            text = f"a value that cannot be rebuilt here: {type(error).__name__}: {error}"
            failure = RemoteProtocolError(self.peer, text)
            failure.__cause__ = error
            self._fail(failure)
        finally:
            self._depth -= 1

    def nested(self, data: bytes) -> Any:
        """Return the value that a payload holds. For loaders only."""
        if len(data) > MAX_LENGTH:
            return self.packed(data)
        level = self._depth - 1
        while level >= len(self._payload_unpackers):
            self._payload_unpackers.append(self._new_unpacker())
        unpacker = self._payload_unpackers[level]
        try:
            unpacker.feed(data)
            value = unpacker.unpack()
            if unpacker.read_bytes(1):
                raise ValueError("bytes left over behind a value")
        except BaseException:
            # It is in the middle of something now, and would spoil the next value.
            self._payload_unpackers[level] = self._new_unpacker()
            raise
        return value

    def packed(self, data: bytes) -> Any:
        """Return the value that lies packed in some bytes. For loaders only."""
        # They are here: whoever has sent them has sent as much as that takes.
        size = len(data)
        unpacker = new_unpacker(self.hook, max_size=size, first_buffer=1024, max_length=size)
        unpacker.feed(data)
        value = unpacker.unpack()
        if unpacker.read_bytes(1):
            raise ValueError("bytes left over behind a value")
        return value

    def buffer(self, index: int) -> Any:
        """Return a big buffer of this message, once. For loaders only."""
        found = self.buffers[index]
        if found is None:
            raise ValueError(f"buffer {index} used twice")
        if isinstance(found, MemoryError):
            raise found
        # Kept here, it would outlive the value that it belongs to.
        self.buffers[index] = None
        return found

    def _new_unpacker(self) -> Unpacker:
        return new_unpacker(self.hook, max_size=self._max_size, first_buffer=1024)

    def _fail(self, failure: Exception) -> None:
        if len(self.failures) < _MAX_FAILURES:
            self.failures.append(failure)
