"""Who is registered where: the state of a node's registries, as records make it.

The root decides who gets a name, and writes every change as a record into a log (see
`node/name_log.py`). Every process, the root too, applies the records to a `RegistryState` of its
own, and finds names there.

A record is one msgpack array:

```text
SNAPSHOT  size                                            all claims that there are follow, in
                                                          so many bytes
CLAIMED   registry, key, sid, label, flags, version, metadata
FREED     registry, key, sid
UPDATED   registry, key, sid, version, metadata
```

Promise: no I/O here.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Final

from typing_extensions import override

__all__ = [
    "CLAIMED",
    "FREED",
    "GLOBAL",
    "GROUPS",
    "IS_OWN",
    "IS_SUPERVISOR",
    "IS_UNIQUE",
    "SNAPSHOT",
    "UPDATED",
    "Claim",
    "Duplicate",
    "RegistryState",
    "Table",
    "Unique",
]

SNAPSHOT: Final = 0
CLAIMED: Final = 1
FREED: Final = 2
UPDATED: Final = 3

# Flags of a claim: its registry has unique keys; who has it is a supervisor; it is the name that
# the child's description says, which is kept through restarts.
IS_UNIQUE: Final = 1
IS_SUPERVISOR: Final = 2
IS_OWN: Final = 4

#: The registry in which the names of children live.
GLOBAL: Final = ""
#: The registry of all groups. A name of a user's begins with no "@".
GROUPS: Final = "@groups"


_intern: Final = sys.intern


class Claim:
    """That a server or supervisor is registered under a key.

    Attributes:
        key: The key.
        sid: Whose it is.
        label: What that is, for people.
        flags: See above.
        version: No other claim of the node has it, and it changes with the metadata.
        metadata: What was said with it, as a payload; empty for None.
        size: How many bytes its record has.
        ref: A place for the address, for whoever makes it.
    """

    __slots__ = ("flags", "key", "label", "metadata", "ref", "sid", "size", "version")

    def __init__(
        self, key: str, sid: int, label: str, flags: int, version: int, metadata: bytes
    ) -> None:
        self.key = key
        self.sid = sid
        self.label = label
        self.flags = flags
        self.version = version
        self.metadata = metadata
        self.size = 0
        self.ref: Any = None

    def to_record(self, registry: str) -> list[Any]:
        """Return the record that makes this claim."""
        fields = [self.label, self.flags, self.version, self.metadata]
        return [CLAIMED, registry, self.key, self.sid, *fields]


class Table(ABC):
    """One registry.

    Attributes:
        is_unique: Whether a key has one holder at most.
    """

    is_unique: bool

    @abstractmethod
    def __len__(self) -> int:
        """Return how many claims there are."""

    @abstractmethod
    def first(self, key: str) -> Claim | None:
        """Return the oldest claim on a key, or None."""

    @abstractmethod
    def of(self, key: str) -> list[Claim]:
        """Return the claims on a key, the oldest first."""

    @abstractmethod
    def get(self, key: str, sid: int) -> Claim | None:
        """Return the claim that somebody has on a key."""

    @abstractmethod
    def add(self, claim: Claim) -> None:
        """Enter a claim."""

    @abstractmethod
    def remove(self, key: str, sid: int) -> Claim | None:
        """Strike a claim out, and return it if there was one."""

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the keys in use, the oldest first."""

    @abstractmethod
    def claims(self) -> list[Claim]:
        """Return all claims; those on one key stand together."""


# While one thread reads a table, another may be at work on it: so what is read is copied in one
# step of C.


class Unique(Table):
    """A registry in which a key has one holder at most."""

    is_unique = True

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}

    @override
    def __len__(self) -> int:
        return len(self._claims)

    @override
    def first(self, key: str) -> Claim | None:
        return self._claims.get(key)

    @override
    def of(self, key: str) -> list[Claim]:
        claim = self._claims.get(key)
        return [] if claim is None else [claim]

    @override
    def get(self, key: str, sid: int) -> Claim | None:
        claim = self._claims.get(key)
        return claim if claim is not None and claim.sid == sid else None

    @override
    def add(self, claim: Claim) -> None:
        self._claims[claim.key] = claim

    @override
    def remove(self, key: str, sid: int) -> Claim | None:
        return self._claims.pop(key) if self.get(key, sid) is not None else None

    @override
    def keys(self) -> list[str]:
        return list(self._claims)

    @override
    def claims(self) -> list[Claim]:
        return list(self._claims.values())


class Duplicate(Table):
    """A registry in which many may hold one key."""

    is_unique = False

    def __init__(self) -> None:
        self._claims: dict[str, dict[int, Claim]] = {}
        self._count = 0

    @override
    def __len__(self) -> int:
        return self._count

    @override
    def first(self, key: str) -> Claim | None:
        return next(iter(self.of(key)), None)

    @override
    def of(self, key: str) -> list[Claim]:
        claims = self._claims.get(key)
        return [] if claims is None else list(claims.values())

    @override
    def get(self, key: str, sid: int) -> Claim | None:
        return self._claims.get(key, {}).get(sid)

    @override
    def add(self, claim: Claim) -> None:
        claims = self._claims.setdefault(claim.key, {})
        self._count += claim.sid not in claims
        claims[claim.sid] = claim

    @override
    def remove(self, key: str, sid: int) -> Claim | None:
        claims = self._claims.get(key, {})
        claim = claims.pop(sid, None)
        self._count -= claim is not None
        if not claims:
            self._claims.pop(key, None)
        return claim

    @override
    def keys(self) -> list[str]:
        return list(self._claims)

    @override
    def claims(self) -> list[Claim]:
        return [claim for claims in list(self._claims.values()) for claim in list(claims.values())]


class RegistryState:
    """All registries of a node, as far as the records say that were applied.

    Attributes:
        tables: The registries that have entries, by name.
    """

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}

    def apply(self, record: list[Any]) -> Claim | None:
        """Take a record; return the claim that it made, changed or struck out."""
        if record[0] == CLAIMED:
            # Mostly: a new process reads a hundred thousand of them.
            _, registry, key, sid, label, flags, version, metadata = record
            claim = Claim(key, sid, _intern(label), flags, version, metadata)
            table = self.tables.get(registry) or self._new_table(registry, flags)
            table.add(claim)
            return claim
        kind, registry, key, sid = record[:4]
        table = self.tables[registry]
        if kind == UPDATED:
            return self._update(table, *record[2:])
        found = table.remove(key, sid)
        if not table:
            # Nobody knows of it any more: the next to register says what its keys are.
            del self.tables[registry]
        return found

    def _update(self, table: Table, key: str, sid: int, version: int, metadata: bytes) -> Claim:
        # Another one, in its place: whoever has just found the old one has version and metadata
        # that belong together.
        old = table.get(key, sid)
        assert old is not None  # the root knows
        claim = Claim(key, sid, old.label, old.flags, version, metadata)
        claim.ref = old.ref
        table.add(claim)
        return claim

    def _new_table(self, registry: str, flags: int) -> Table:
        table = self.tables[registry] = Unique() if flags & IS_UNIQUE else Duplicate()
        return table

    def records(self) -> Iterator[list[Any]]:
        """Yield the records that make this state."""
        for name, table in self.tables.items():
            for claim in table.claims():
                yield claim.to_record(name)
