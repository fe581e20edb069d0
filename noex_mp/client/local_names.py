"""A process's own copy of the registries: to find a name is a function call, and no message.

The root writes every change into a log in shared memory, before it tells anybody about it. Whoever
looks something up compares one word with how far it has read, and first reads what is new. So what
a process knows of names is never older than what it knows of anything else.
"""

from __future__ import annotations

import mmap
import os
import threading
from typing import Any

import msgpack

from noex_mp.core.name_log import BASE, END, HEADER_SIZE, KEPT
from noex_mp.core.ref import Ref
from noex_mp.core.registrations import IS_SUPERVISOR, SNAPSHOT, Claim, RegistryState, Table
from noex_mp.errors import NodeDownError
from noex_mp.transport import fds

__all__ = ["LocalNames"]


class LocalNames:
    """What one process knows of the registries of a node; any thread may ask.

    Attributes:
        node: The node's id.
        allow_pickle: Whether metadata may be pickled.
    """

    def __init__(self, node: str, fd: int, *, allow_pickle: bool) -> None:
        """Make a copy, of which nothing is read yet.

        Args:
            node: The node's id.
            fd: A descriptor that reads the log; it is ours from now on.
            allow_pickle: Whether metadata may be pickled.
        """
        self.node = node
        self.allow_pickle = allow_pickle
        self._fd = fd
        self._lock = threading.Lock()
        self._state = RegistryState()
        self._tables = self._state.tables
        # Something that never agrees, until the log is mapped: many processes never look.
        self._words = memoryview(bytes(24)).cast("Q")
        self._end = -1

    def table(self, registry: str) -> Table | None:
        """Return a registry as it is now, or None if nobody is in it.

        Raises:
            NodeDownError: The node has stopped.
        """
        if self._words[END] != self._end:
            self._catch_up()
        return self._tables.get(registry)

    def ref_of(self, claim: Claim) -> Any:
        """Return the address of whoever has a claim: always the same object."""
        ref: Any = claim.ref
        if ref is None:
            if claim.flags & IS_SUPERVISOR:
                # Few ask: it is loaded then.
                from noex_mp.client.supervisors import SupervisorRef

                ref = SupervisorRef(self.node, claim.sid, label=claim.label)
            else:
                # Not Ref[Any](...): that takes five times as long.
                server: Ref[Any] = Ref(self.node, claim.sid, label=claim.label)
                ref = server
            claim.ref = ref
        return ref

    def _catch_up(self) -> None:
        with self._lock:
            if self._fd == fds.NO_FD:
                raise NodeDownError("the node has stopped")
            if self._end < 0:
                header = mmap.mmap(self._fd, HEADER_SIZE, prot=mmap.PROT_READ)
                self._words = memoryview(header).cast("Q")
                self._end = 0
            while not self._read():
                pass

    def _read(self) -> bool:
        """Apply what is new; return False if it was given back meanwhile."""
        words = self._words
        is_complete = self._end >= words[KEPT]
        # In this order: the root moves the end first.
        start = self._end if is_complete else words[BASE]
        end = words[END]
        data = _read_all(self._fd, start, end)
        if words[KEPT] > start:
            return False
        state = self._state if is_complete else RegistryState()
        _apply(state, data, skip_snapshots=is_complete)
        self._state, self._tables = state, state.tables
        self._end = end
        return True

    def close(self) -> None:
        """Close the descriptor: the node has stopped."""
        with self._lock:
            fds.close_all([self._fd])
            self._fd = fds.NO_FD
            self._end = -1


def _read_all(fd: int, start: int, end: int) -> bytes:
    data = os.pread(fd, end - start, start)
    while len(data) < end - start:
        more = os.pread(fd, end - start - len(data), start + len(data))
        if not more:
            raise OSError("the log of names ends before its end")
        data += more
    return data


def _apply(state: RegistryState, data: bytes, *, skip_snapshots: bool) -> None:
    # The size of its first buffer; without it, 1 MiB each time.
    unpacker = msgpack.Unpacker(read_size=max(1, len(data)), max_buffer_size=0)
    unpacker.feed(data)
    for record in unpacker:
        if record[0] != SNAPSHOT:
            state.apply(record)
        elif skip_snapshots:
            # It says nothing that is not known already.
            unpacker.read_bytes(record[1])
        skip_snapshots = True
