"""A supervisor in a few lines, after OTP's manual.

It keeps what an Erlang engineer would: which children run, and when there were restarts. It knows
nothing of plans, and nothing of processes: those are compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from noex_mp.core.specs import AutoShutdown, Restart, Strategy


@dataclass
class Model:
    """A supervisor as OTP's manual describes it.

    Attributes:
        restart: Of each child it knows, in start order.
        up: Those that run.
        log: What it did: `+a` for a start, `-a` for a stop.
        over: How it ended, or empty.
    """

    strategy: Strategy
    auto: AutoShutdown
    limits: dict[str, int]
    seconds: float
    restart: dict[str, Restart] = field(default_factory=dict[str, Restart])
    significant: set[str] = field(default_factory=set[str])
    up: set[str] = field(default_factory=set[str])
    times: dict[str, list[float]] = field(
        default_factory=lambda: {"restarts": [], "failed inits": []}
    )
    log: list[str] = field(default_factory=list[str])
    over: str = ""

    def exit(self, who: str, *, normal: bool, now: float, in_init: bool, counted: bool) -> None:
        """A child has ended."""
        self.up.discard(who)
        wanted = {"permanent": True, "transient": not normal, "temporary": False}
        if not wanted[self.restart[who]]:
            self.end_for_good(who)
            return
        kind = "failed inits" if in_init else "restarts"
        self.times[kind] = [at for at in self.times[kind] if at >= now - self.seconds]
        if not counted:
            self.times[kind].append(now)
        if len(self.times[kind]) > self.limits[kind]:
            self.finish("gave up")
            return
        order = list(self.restart)
        place = order.index(who)
        # Who is affected: nobody else, everybody, or those that were started later.
        first = {"one_for_one": place, "one_for_all": 0, "rest_for_one": place}[self.strategy]
        affected = order[first : place + 1] if self.strategy == "one_for_one" else order[first:]
        self.take_down(affected)
        for each in affected:
            if self.restart[each] == "temporary":
                self.forget(each)
            else:
                self.start(each)

    def end_for_good(self, who: str) -> None:
        """A child has ended and does not come back."""
        last = not (self.significant - {who}) & self.up
        done = {"never": False, "any_significant": True, "all_significant": last}[self.auto]
        if who in self.significant and done:
            self.finish("shut down")
        elif self.restart[who] == "temporary":
            self.forget(who)

    def forget(self, who: str) -> None:
        """Keep nothing of a child: a temporary one that has ended, or a deleted one."""
        del self.restart[who]
        self.significant.discard(who)

    def take_down(self, some: list[str]) -> None:
        """Stop those of them that run, from right to left."""
        for each in reversed(some):
            if each in self.up:
                self.log.append(f"-{each}")
                self.up.discard(each)

    def start(self, who: str) -> None:
        """Start a child."""
        self.log.append(f"+{who}")
        self.up.add(who)

    def finish(self, how: str) -> None:
        """End, and all that runs before it."""
        self.take_down(list(self.restart))
        self.over = how
