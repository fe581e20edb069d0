"""The registries of a node: who has which name, decided here and nowhere else.

A child has the name of its description until it is gone for good. What is registered at run time
belongs to one incarnation, and goes with it. Each change is in the log before anybody is told, so
no process finds a name whose holder it knows to be down.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from noex_mp.core.registrations import (
    CLAIMED,
    FREED,
    GLOBAL,
    GROUPS,
    IS_OWN,
    IS_SUPERVISOR,
    IS_UNIQUE,
    UPDATED,
    Claim,
    RegistryState,
    Table,
)
from noex_mp.errors import (
    AlreadyRegisteredError,
    ConfigError,
    NoexError,
    NoServerError,
    NotRegisteredError,
    RegistryKeysError,
)
from noex_mp.node.children import Child
from noex_mp.node.events import Events
from noex_mp.node.key_watches import KeyWatches
from noex_mp.node.members import Member
from noex_mp.node.name_log import NameLog
from noex_mp.node.registry_files import RegistryFiles

__all__ = ["Registries"]

_KINDS: Final = {True: "unique", False: "duplicate"}


class Registries:
    """Gives keys to servers and supervisors, and frees them.

    Attributes:
        log: Where all processes read of it.
        watches: Who wants to hear of which key.
        methods: What programs may ask for, by name; each is answered at once.
    """

    def __init__(
        self,
        events: Events,
        known: Callable[[int | str], Member | None],
        files: RegistryFiles,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Make the registries of a node; nobody is registered.

        Args:
            events: Is told of names.
            known: Returns the member that a number, name or path means.
            files: Keeps what is to outlive the node.
            is_stopping: Tells whether the node stops: what is freed then is to come back.
        """
        self._events = events
        self._files = files
        self._is_stopping = is_stopping
        self._known = known
        self._state = RegistryState()
        self._versions = itertools.count(1)
        # What was claimed at run time, by sid: registry and key.
        self._claims_of: defaultdict[int, dict[tuple[str, str], None]] = defaultdict(dict)
        self.log = NameLog(self._state.records)
        self.watches = KeyWatches()
        self.methods: dict[str, Callable[..., Any]] = {
            "register": self._register,
            "unregister": self._unregister,
            "update_metadata": self._update_metadata,
        }

    # --- names of children -------------------------------------------------------------

    def holder_of(self, name: str) -> int | None:
        """Return the number of the server or supervisor that has a name, or None."""
        table = self._state.tables.get(GLOBAL)
        claim = table.first(name) if table is not None else None
        return claim.sid if claim is not None else None

    def names(self) -> list[str]:
        """Return the names in use, sorted."""
        table = self._state.tables.get(GLOBAL)
        return sorted(table.keys()) if table is not None else []

    def claim_own(self, member: Member) -> None:
        """Claim the name of a member's description.

        Raises:
            AlreadyRegisteredError: Another has it.
        """
        if member.name is not None:
            if self.holder_of(member.name) is not None:
                raise AlreadyRegisteredError(member.name, "server", GLOBAL)
            self._claim(GLOBAL, member.name, member, IS_UNIQUE | IS_OWN, b"")
            self._events.tell("name_claimed", member)

    def free_own(self, member: Member) -> None:
        """Free the name of a member that does not come back by itself."""
        if member.name is not None and self.holder_of(member.name) == member.sid:
            self._free(GLOBAL, member.name, member)
            self._events.tell("name_freed", member)

    def ready(self, member: Member) -> None:
        """Give a server back what one of its name had registered in the node before this one."""
        for saved in self._files.taken_by(member.name):
            # Unless it has registered that by itself, or somebody else has the key by now.
            with suppress(NoexError):
                self._register(*saved[:3], member.sid, None, saved.metadata)

    def ended(self, member: Member) -> None:
        """Free what an incarnation has claimed: it has ended."""
        for registry, key in self._claims_of.pop(member.sid, ()):
            self._free(registry, key, member)
            self._tell_freed(registry, key, member)

    # --- what is asked for -------------------------------------------------------------

    def _register(
        self,
        registry: str,
        is_unique: bool,
        key: str,
        target: int | str,
        incarnation: int | None,
        metadata: bytes,
    ) -> None:
        member = self._incarnation(target, incarnation)
        table = self._table(registry, is_unique)
        taken: Claim | None = None
        if table is not None:
            taken = table.first(key) if is_unique else table.get(key, member.sid)
        if taken is not None:
            if registry == GROUPS:
                # To join twice is to be in it once.
                return
            raise AlreadyRegisteredError(key, "server" if is_unique else "itself", registry)
        self._claim(registry, key, member, IS_UNIQUE if is_unique else 0, metadata)
        self._claims_of[member.sid][registry, key] = None
        self._files.keep(registry, key, member.name, metadata)
        if registry != GROUPS:
            self._events.tell("name_claimed", member, name=key, registry=registry)

    def _incarnation(self, target: int | str, incarnation: int | None) -> Member:
        """Return a member of which an incarnation is there to hold a key."""
        member = self._known(target)
        if member is None:
            raise NoServerError(repr(target) if isinstance(target, str) else str(target))
        if not _is_there(member) or incarnation not in (None, member.incarnation):
            raise NoServerError(member.title, member.report)
        return member

    def _unregister(self, registry: str, is_unique: bool, key: str, target: Any) -> None:
        table = self._table(registry, is_unique)
        member = None if target is None else self._known(target)
        if table is None or (target is not None and member is None):
            return
        claim = table.first(key) if member is None else table.get(key, member.sid)
        if claim is None:
            return
        if claim.flags & IS_OWN:
            raise ConfigError(
                f"{key!r} is the name that the child has of its description, as long as it is there"
            )
        self._claims_of[claim.sid].pop((registry, key), None)
        holder = self._known(claim.sid)
        assert holder is not None
        self._free(registry, key, holder)
        self._tell_freed(registry, key, holder)

    def _update_metadata(
        self,
        registry: str,
        is_unique: bool,
        key: str,
        target: int | str | None,
        version: int | None,
        metadata: bytes,
    ) -> bool:
        """Set the metadata of a claim; return False if it has changed since that version."""
        table = self._table(registry, is_unique)
        member = None if target is None else self._known(target)
        claim: Claim | None = None
        if table is not None:
            claim = table.first(key) if member is None else table.get(key, member.sid)
        if claim is None or (target is not None and member is None):
            raise NotRegisteredError(key, registry)
        if version not in (None, claim.version):
            return False
        self._write([UPDATED, registry, key, claim.sid, next(self._versions), metadata], claim)
        holder = member or self._known(claim.sid)
        if holder is not None and not claim.flags & IS_OWN:
            self._files.keep(registry, key, holder.name, metadata)
        return True

    def _table(self, registry: str, is_unique: bool) -> Table | None:
        table = self._state.tables.get(registry)
        if table is not None and table.is_unique != is_unique:
            raise RegistryKeysError(registry, _KINDS[is_unique], _KINDS[table.is_unique])
        return table

    # --- changes -----------------------------------------------------------------------

    def _claim(self, registry: str, key: str, member: Member, flags: int, metadata: bytes) -> None:
        flags |= 0 if isinstance(member, Child) else IS_SUPERVISOR
        version = next(self._versions)
        self._write([CLAIMED, registry, key, member.sid, member.label, flags, version, metadata])

    def _free(self, registry: str, key: str, member: Member) -> None:
        self._write([FREED, registry, key, member.sid])
        if not self._is_stopping():
            self._files.drop(registry, key, member.name)

    def _write(self, record: list[Any], replaced: Claim | None = None) -> None:
        # Into the log first: what is not there has not happened.
        size = self.log.append(record)
        claim = self._state.apply(record)
        if record[0] == FREED:
            size, replaced = 0, claim
        elif claim is not None:
            claim.size = size
        self.log.lives(size - (replaced.size if replaced is not None else 0))
        self.watches.changed(record[1], record[2])

    def _tell_freed(self, registry: str, key: str, member: Member) -> None:
        if registry != GROUPS:
            self._events.tell("name_freed", member, name=key, registry=registry)


def _is_there(member: Member) -> bool:
    if not isinstance(member, Child):
        return member.state in ("starting", "running", "stopping")
    worker = member.worker
    return worker is not None and worker.alive and member.exited is None
