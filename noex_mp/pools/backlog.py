"""What waits in a pool of servers, and in which order its turn comes: pure, time comes in.

```python
>>> backlog: Backlog[str] = Backlog()
>>> for name, priority in (("a", 0), ("b", 5), ("c", 0)):
...     _ = backlog.put(name, now=0.0, priority=priority)
>>> [backlog.take(1), backlog.take(1), backlog.take(1), backlog.take(1)]
['b', 'a', 'c', None]

```

A message of a higher priority goes first; of one priority, the one that came first. One may be
bound to a member of the pool: then nobody else takes it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Generic, Literal, TypeAlias, TypeVar

__all__ = ["Backlog", "Discard", "Place"]

T = TypeVar("T")

Discard: TypeAlias = Literal["oldest", "newest"]
"""Which message goes where more of them wait than may: of the lowest priority, the oldest or the
newest."""


@dataclass(eq=False, slots=True)
class Place(Generic[T]):
    """A message in the backlog.

    Attributes:
        item: The message.
        member: Who is to have it; None means anybody.
        priority: The higher it is, the sooner its turn comes.
        since: When it came, in seconds of the caller's clock.
        until: When it is of no use any more, likewise; inf is never.
        number: In which order they come.
        waits: It is in the backlog.
    """

    item: T
    member: int | None
    priority: int
    since: float
    until: float
    number: int = 0
    waits: bool = False


# By priority; of each, in their order.
_Ranks: TypeAlias = "dict[int, OrderedDict[int, Place[T]]]"


class Backlog(Generic[T]):
    """What waits."""

    def __init__(self) -> None:
        self._all: _Ranks[T] = {}
        self._by_member: dict[int | None, _Ranks[T]] = {}
        self._first = self._last = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Place[T]]:
        for rank in self._all.values():
            yield from rank.values()

    # --- in and out --------------------------------------------------------------------

    def put(
        self,
        item: T,
        *,
        now: float,
        member: int | None = None,
        priority: int = 0,
        until: float = inf,
    ) -> Place[T]:
        """Let a message wait, behind all others of its priority."""
        self._last += 1
        place = Place(item, member, priority, now, until, self._last)
        self._enter(place)
        return place

    def put_back(self, place: Place[T]) -> None:
        """Let one wait again that was taken, ahead of all others of its priority."""
        self._first -= 1
        place.number = self._first
        self._enter(place)
        for ranks in self._ranks_of(place):
            ranks[place.priority].move_to_end(place.number, last=False)

    def _enter(self, place: Place[T]) -> None:
        for ranks in self._ranks_of(place):
            ranks.setdefault(place.priority, OrderedDict())[place.number] = place
        place.waits = True
        self._count += 1

    def remove(self, place: Place[T]) -> None:
        """Let one wait no more."""
        for ranks in self._ranks_of(place):
            rank = ranks[place.priority]
            del rank[place.number]
            if not rank:
                del ranks[place.priority]
        if not self._by_member[place.member]:
            del self._by_member[place.member]
        place.waits = False
        self._count -= 1

    def _ranks_of(self, place: Place[T]) -> tuple[_Ranks[T], _Ranks[T]]:
        return self._all, self._by_member.setdefault(place.member, {})

    def take_place(self, member: int) -> Place[T] | None:
        """Take out what a member does next: what is bound to it, or to nobody."""
        choices = [_first(self._by_member.get(each, {})) for each in (None, member)]
        found = [place for place in choices if place is not None]
        if not found:
            return None
        place = min(found, key=lambda place: (-place.priority, place.number))
        self.remove(place)
        return place

    def take(self, member: int) -> T | None:
        """Take out what a member does next, as the message itself."""
        place = self.take_place(member)
        return None if place is None else place.item

    # --- what is too much ----------------------------------------------------------------

    def excess(self, limit: int | None, discard: Discard) -> list[Place[T]]:
        """Take out what is more than may wait, and return it."""
        taken: list[Place[T]] = []
        while limit is not None and self._count > limit:
            rank = self._all[min(self._all)]
            place = next(iter(rank.values() if discard == "oldest" else reversed(rank.values())))
            self.remove(place)
            taken.append(place)
        return taken

    def take_own(self, member: int, is_own: Callable[[T], bool]) -> Place[T] | None:
        """Take out the next that is bound to a member, of those that nobody else may have."""
        own = (place for place in self._bound_to(member) if is_own(place.item))
        place = min(own, key=lambda place: (-place.priority, place.number), default=None)
        if place is not None:
            self.remove(place)
        return place

    def has_own(self, member: int, is_own: Callable[[T], bool]) -> bool:
        """Return whether one of these waits."""
        return any(is_own(place.item) for place in self._bound_to(member))

    def expired(self, now: float) -> list[Place[T]]:
        """Take out what is of no use any more, and return it."""
        taken = [place for place in self if place.until <= now]
        for place in taken:
            self.remove(place)
        return taken

    def of_member(self, member: int) -> list[Place[T]]:
        """Take out all that is bound to a member, and return it in its order."""
        taken = self._bound_to(member)
        for place in taken:
            self.remove(place)
        return sorted(taken, key=lambda place: place.number)

    def _bound_to(self, member: int) -> list[Place[T]]:
        ranks = self._by_member.get(member, {})
        return [place for rank in ranks.values() for place in rank.values()]

    def has_any_for(self, member: int | None) -> bool:
        """Return whether something waits that is bound to a member; None: to nobody."""
        return member in self._by_member

    def age(self, now: float) -> float:
        """Return for how long the oldest message waits, in seconds; 0 if none does."""
        firsts = [next(iter(rank.values())).since for rank in self._all.values()]
        return max((now - since for since in firsts), default=0.0)


def _first(ranks: _Ranks[T]) -> Place[T] | None:
    return next(iter(ranks[max(ranks)].values())) if ranks else None
