"""A tree of supervisors in a few lines, after OTP's manual.

It keeps what an Erlang engineer would: who runs, and when there were restarts. It knows nothing of
plans, and nothing of processes: those are compared with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from noex_mp.core.specs import AutoShutdown, OnOom, Restart, Strategy

How = Literal["normal", "abnormal", "in init", "out of memory", "hung"]
"""How somebody ended: in good order, before it was ready, or in one of the other ways."""

# Where a restart is counted, by what it comes after.
COUNTED_IN: Final[dict[How, str]] = {
    "abnormal": "restarts",
    "normal": "restarts",
    "in init": "failed inits",
    "out of memory": "ooms",
    "hung": "hangs",
}


@dataclass(frozen=True)
class Described:
    """A server as its supervisor's description has it.

    Attributes:
        name: Nobody else in the tree has it.
        restart: When it comes back.
        significant: Whether its end may end its supervisor.
        on_oom: Whether it is started again when it has run out of memory, or is one too many.
    """

    name: str
    restart: Restart = "permanent"
    significant: bool = False
    on_oom: OnOom = "restart"


@dataclass(frozen=True)
class DescribedSupervisor(Described):
    """A supervisor, with those it starts with.

    Attributes:
        dynamic: It starts with none, has at most `max_children`, and keeps none that has ended.
    """

    dynamic: bool = False
    max_children: int | None = None
    strategy: Strategy = "one_for_one"
    auto: AutoShutdown = "never"
    max_restarts: int | None = 3
    max_failed_inits: int | None = None
    max_ooms: int | None = None
    max_hangs: int | None = None
    seconds: float = 5.0
    children: tuple[Described, ...] = ()


@dataclass
class World:
    """What is around a tree.

    Attributes:
        now: The time.
        log: What happened: `+a` for a start, `!a` for one that failed, `-a` for a stop.
        failing: How many of its next starts fail, by name.
        over: How the tree ended, or empty.
    """

    now: float = 100.0
    log: list[str] = field(default_factory=list[str])
    failing: Counter[str] = field(default_factory=Counter[str])
    over: str = ""

    def starts(self, who: str) -> bool:
        """A server is started; return whether it comes up."""
        comes_up = not self.failing[who]
        self.failing[who] -= not comes_up
        self.log.append(f"+{who}" if comes_up else f"!{who}")
        return comes_up


class Entry:
    """One of a supervisor's children."""

    def __init__(self, described: Described, world: World, above: Model) -> None:
        self.described = described
        self.up = False
        self.inside: Model | None = None
        if isinstance(described, DescribedSupervisor):
            self.inside = Model(described, world, above)


class Model:
    """A supervisor as OTP's manual describes it, with all that is in it.

    Attributes:
        children: Those that it knows, in start order.
        times: When there were restarts, and when they failed.
    """

    def __init__(
        self, described: DescribedSupervisor, world: World, above: Model | None = None
    ) -> None:
        self.described = described
        self.world = world
        self.above = above
        self.children: dict[str, Entry] = {}
        self.times: dict[str, list[float]] = {}

    def begin(self) -> bool:
        """Start, as the description has it, or not at all; return which of the two."""
        self.times = {kind: [] for kind in COUNTED_IN.values()}
        self.children = {
            each.name: Entry(each, self.world, self) for each in self.described.children
        }
        if all(self.start(each) for each in self.children):
            self.world.log.append(f"+{self.described.name}")
            return True
        self.take_down(list(self.children))
        self.world.log.append(f"!{self.described.name}")
        return False

    def start(self, who: str) -> bool:
        """Start a child; return whether it came up."""
        child = self.children[who]
        child.up = child.inside.begin() if child.inside else self.world.starts(who)
        return child.up

    def add(self, described: Described) -> None:
        """Start one more child, if there is room; if that fails, nothing has been."""
        if len(self.children) == self.described.max_children:
            return
        self.children[described.name] = Entry(described, self.world, self)
        if not self.start(described.name):
            del self.children[described.name]

    def exit(self, who: str, how: How, *, counted: bool = False) -> None:
        """A child has ended.

        Args:
            counted: It shared its process with one whose end this supervisor has counted.
        """
        child = self.children[who]
        child.up = False
        restart = child.described.restart
        wanted = {"permanent": True, "transient": how != "normal", "temporary": False}
        if not wanted[restart]:
            self.end_for_good(child)
        elif self.is_too_often(COUNTED_IN[how], counted) or (
            how == "out of memory" and child.described.on_oom == "escalate"
        ):
            self.finish("gave up")
        else:
            self.restart(who)

    def is_too_often(self, kind: str, counted: bool) -> bool:
        """Count a restart; return whether that was one too many."""
        own = self.described
        limits = {
            "failed inits": own.max_failed_inits,
            "ooms": own.max_ooms,
            "hangs": own.max_hangs,
        }
        limit = limits.get(kind)
        recent = [at for at in self.times[kind] if at >= self.world.now - own.seconds]
        self.times[kind] = recent if counted else [*recent, self.world.now]
        limit = own.max_restarts if limit is None else limit
        return limit is not None and len(self.times[kind]) > limit

    def restart(self, who: str) -> None:
        """Start a child again, with all who share its fate."""
        order = list(self.children)
        place = order.index(who)
        # Who is affected: nobody else, everybody, or those that were started later.
        first = {"one_for_one": place, "one_for_all": 0, "rest_for_one": place}
        last = place + 1 if self.described.strategy == "one_for_one" else len(order)
        affected = order[first[self.described.strategy] : last]
        self.take_down(affected)
        for each in affected:
            if self.children[each].described.restart == "temporary":
                del self.children[each]
            elif not self.start(each):
                # That is an exit, too; those behind it wait for what comes of it.
                self.exit(each, "in init")
                return

    def end_for_good(self, child: Entry) -> None:
        """A child has ended and does not come back."""
        others = [each for each in self.children.values() if each.described.significant]
        last = not any(each.up for each in others)
        done = {"never": False, "any_significant": True, "all_significant": last}
        if child.described.significant and done[self.described.auto]:
            self.finish("shut down")
        else:
            self.forget_unless_kept(child)

    def forget_unless_kept(self, child: Entry) -> None:
        """Keep the description of a child that has ended, or not."""
        if self.described.dynamic or child.described.restart == "temporary":
            del self.children[child.described.name]

    def take_down(self, some: list[str]) -> None:
        """Stop those of them that run, from right to left."""
        for each in reversed(some):
            child = self.children[each]
            if child.up:
                if child.inside:
                    child.inside.take_down(list(child.inside.children))
                self.world.log.append(f"-{each}")
                child.up = False

    def terminate(self, who: str) -> None:
        """Stop a child because somebody wants it to."""
        self.take_down([who])
        self.forget_unless_kept(self.children[who])

    def finish(self, how: str) -> None:
        """End, and all that runs before it; whoever is above sees an end in good order."""
        self.take_down(list(self.children))
        if self.above is None:
            self.world.over = how
        else:
            self.above.exit(self.described.name, "normal")

    def running(self) -> list[str]:
        """Return who runs, at any depth, in start order."""
        found: list[str] = []
        for name, child in self.children.items():
            if child.up:
                found += [*(child.inside.running() if child.inside else []), name]
        return found
