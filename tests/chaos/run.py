"""A chaos run: servers under load that are killed at random, and what is left of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import signal
import sys
import time
from bisect import bisect_right
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from noex_mp import (
    ChildSpec,
    Crash,
    DynamicSupervisor,
    Node,
    Ref,
    Supervisor,
    child,
    named,
    supervisor,
    whereis,
)
from noex_mp.client.events import Event, Listener, Wants
from noex_mp.node.config import RootConfig
from noex_mp.node.output import Sink
from tests.chaos.ledger import Audit, Ledger, audit
from tests.chaos.senders import BlockingSender, Load, Sender, Sending, Share, ends
from tests.chaos.targets import Target

__all__ = ["Plan", "Report", "Resources", "run"]

GRACE: Final = 0.25
"""How late an answer may be, in seconds: limits are looked at every 50 ms, and the machine has
other things to do."""

SETTLE: Final = 10.0
"""How long what is left of the run may take to go away, in seconds."""

WORKERS: Final = 3
"""So many servers send, beside the program's event loop and a thread of it."""

SIGNALS: Final = (signal.SIGKILL,) * 8 + (signal.SIGSEGV, signal.SIGTERM)

MORE_MEMORY: Final = 12.0
"""So many MB more a process may have afterwards: a burst leaves holes in what it had allocated."""

MORE_IN_USE: Final = 1.0
"""So many MB more of it may be in use in the program: there the holes do not count."""

MORE_OBJECTS: Final = 2000
"""So many objects more there may be in the program; a leak at each death would be thousands."""

MORE_BLOCKS: Final = 10_000
"""So many pieces of memory more it may have for small objects; likewise tens of thousands."""

WARM_UP: Final = 8.0
"""Before the first look at memory, the run goes on for so many seconds ..."""

WARM_UP_KILLS: Final = 300
"""... and so many servers are killed: then what keeps the last so many of anything is full."""


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        seconds: How long it goes on.
        servers: How many servers there are to kill.
        rate: How many calls are sent in a second.
        casts: How many casts for each call.
        kills: How many servers are killed in all that time.
        seed: Of all that is random.
    """

    seconds: float = 60.0
    servers: int = 50
    rate: float = 5000.0
    casts: float = 0.5
    kills: int = 1000
    seed: int = 1


@dataclass(frozen=True)
class Resources:
    """What the node has at one moment.

    Attributes:
        processes: How many processes there are below the program.
        fds: How many descriptors the program has open.
        names: The servers: their names and numbers.
        objects: How many objects Python keeps track of in the program.
        blocks: How many pieces of memory Python has for small objects there.
        in_use: What else the program has allocated and not freed, in MB. All that it has beyond
            these two is room that the allocators keep.
        memory: What each process has for itself, in MB, by os pid.
    """

    processes: int
    fds: int
    names: frozenset[tuple[Any, ...]]
    objects: int
    blocks: int
    in_use: float
    memory: dict[int, float]

    @property
    def countable(self) -> tuple[object, ...]:
        """What must be the same afterwards."""
        return self.processes, self.fds, self.names

    @property
    def in_words(self) -> str:
        """All of it, on one line."""
        ours = self.memory[os.getpid()]
        return (
            f"{self.processes} processes, {self.fds} descriptors, {len(self.names)} names, "
            f"{self.objects:,} objects, {self.blocks:,} blocks, {self.in_use:.1f} MB beside them, "
            f"{ours:.1f} MB in the program"
        )


@dataclass(frozen=True)
class Report:
    """What a run has found.

    Attributes:
        seconds: How long the load took.
        calls_per_second: How many calls were sent in one.
        kills: How many servers were killed.
        deaths: How many servers died, also with those in one process with them.
        restarts: How many restarts there were.
        late: How late the latest answer was, in seconds.
        lag: How late an event loop of the senders was, in seconds.
        held_back: How many messages were not sent, since too many were out.
        audit: What became of the messages.
        before: What there was before.
        after: What there is afterwards.
        faults: What must not be, in words; empty if all is well.
    """

    seconds: float
    calls_per_second: float
    kills: int
    deaths: int
    restarts: int
    late: float
    lag: float
    held_back: int
    audit: Audit
    before: Resources
    after: Resources
    faults: list[str] = field(default_factory=list[str])


class _Node(Node):
    """Counts what its root has to say."""

    def __init__(self, tree: Supervisor) -> None:
        super().__init__(tree, preload=["tests.chaos.targets", "tests.chaos.senders"])
        self.counts: Counter[str] = Counter()
        self.complaints: list[str] = []

    def root_config(
        self,
        *,
        sink: Sink,
        listener: Listener | None = None,
        wants: Wants | None = None,
        name: str | None = None,
    ) -> RootConfig:
        return super().root_config(sink=self._on_line, listener=self._on_event, name=name)

    def _on_line(self, label: str, stream: str, line: bytes) -> None:
        """Servers that die of SIGSEGV write their stack; nobody wants to read it."""

    def _on_event(self, event: Event) -> None:
        self.counts[event.kind] += event.count or 1
        report = event.report
        # Of an exception: killed by us, they have no time for one.
        if event.kind == "crashed" and report is not None and isinstance(report.reason, Crash):
            self.complaints.append(f"{event.server} {report.summary}")


def _tree(plan: Plan, ledger: tuple[str, int, int]) -> Supervisor:
    """Return a tree with every kind of supervisor; the last servers are started dynamically."""
    specs, tenth = _specs(plan, ledger), _tenth(plan)
    limits: dict[str, Any] = {"max_restarts": 1_000_000, "max_seconds": 1.0}
    groups = [specs[n : n + tenth] for n in range(0, 5 * tenth, tenth)]
    shared = [spec.options(placement="shared") for spec in groups[4]]
    return Supervisor(
        *(child(Sending).options(id=f"sending {n}", name=f"sending {n}") for n in range(WORKERS)),
        Supervisor(*groups[0], strategy="one_for_all", id="all", **limits),
        Supervisor(
            *groups[1],
            Supervisor(*groups[2], strategy="one_for_all", id="inner", **limits),
            strategy="rest_for_one",
            id="rest",
            **limits,
        ),
        Supervisor(*shared, id="shared", **limits),
        DynamicSupervisor(id="dynamic", name="dynamic", **limits),
        *specs[5 * tenth :],
        **limits,
    )


def _specs(plan: Plan, ledger: tuple[str, int, int]) -> list[ChildSpec[Target]]:
    return [
        child(Target, n, ledger).options(id=f"t{n}", name=f"t{n}", shutdown=2.0)
        for n in range(plan.servers)
    ]


async def run(plan: Plan, folder: Path) -> Report:
    """Run it.

    Args:
        plan: What to do.
        folder: For the ledger.
    """
    path = folder / "ledger"
    path.touch()
    shares = _shares(plan)
    messages = shares[-1].first + shares[-1].messages
    ledger = Ledger(str(path), plan.servers, messages)
    try:
        return await _Run(plan, ledger, shares).run()
    finally:
        ledger.close()


def _shares(plan: Plan) -> list[Share]:
    # The program's event loop sends half of all, its thread a little.
    shares: list[Share] = []
    first = 0
    for sender, part in enumerate([0.5, 0.05, *([0.45 / WORKERS] * WORKERS)]):
        rate = plan.rate * part
        # And one to each server before and behind each part of the run.
        most = int((plan.seconds + WARM_UP) * rate * (1 + plan.casts)) + 3 * plan.servers + 100
        shares.append(Share(sender, first, most, rate))
        first += most
    return shares


class _Run:
    def __init__(self, plan: Plan, ledger: Ledger, shares: list[Share]) -> None:
        self._plan = plan
        self._ledger = ledger
        self._random = random.Random(plan.seed)
        self._kills = 0
        self._killed: set[tuple[int, int]] = set()
        self._shares = shares
        self._opening = (ledger.path, ledger.servers, ledger.messages)
        self._node = _Node(_tree(plan, self._opening))

    async def run(self) -> Report:
        async with self._node:
            targets = await self._targets()
            load = Load(self._plan.casts, self._plan.seed)
            ours = Sender(self._shares[0], load, self._ledger, targets)
            threads = BlockingSender(self._shares[1], load, self._ledger, targets)
            workers = [named(f"sending {n}", Sending) for n in range(WORKERS)]
            for share, worker in zip(self._shares[2:], workers, strict=True):
                await Sending.prepare(worker, share, load, self._opening, targets)

            # One thread for both parts of the run, and not one of the loop's.
            with ThreadPoolExecutor(1) as thread:
                loop = asyncio.get_running_loop()

                async def reach_all() -> None:
                    await ours.reach_all()
                    await loop.run_in_executor(thread, threads.reach_all)
                    await asyncio.gather(*(Sending.reach_all(w.within(60)) for w in workers))

                async def send(seconds: float, kills: int) -> list[dict[str, float]]:
                    *_, figures = await asyncio.gather(
                        self._kill_some(seconds, kills),
                        ours.run(seconds),
                        loop.run_in_executor(thread, threads.run, seconds),
                        asyncio.gather(*(Sending.send(w.within(None), seconds) for w in workers)),
                    )
                    # Only now, that nobody is killed any more.
                    await reach_all()
                    return [*figures, ours.figures(), threads.figures()]

                # So that each way is known, also to who has a name, before it is numbered.
                await reach_all()
                await send(WARM_UP, WARM_UP_KILLS)
                before = await self._settled()
                counts, self._kills = self._node.counts.copy(), 0
                start = time.monotonic()
                figures = await send(self._plan.seconds, self._plan.kills)
                took = time.monotonic() - start
                after = await self._settled(before)
                theirs = [await Sending.ends(worker) for worker in workers]
        unseen = self._killed_at_their_begin([ends.all, ends.all, *theirs])
        return self._report(before, after, took, figures, counts, unseen)

    async def _targets(self) -> list[Ref[Target]]:
        """Return the servers to kill, half of them by name."""
        specs = _specs(self._plan, self._opening)
        for spec in specs[3 * _tenth(self._plan) : 4 * _tenth(self._plan)]:
            await supervisor("dynamic").start_child(spec)
        found: list[Ref[Target]] = []
        for n, spec in enumerate(specs):
            assert spec.name is not None
            ref = whereis(spec.name, Target)
            assert ref is not None
            found.append(named(spec.name, Target) if n % 2 else ref)
        return found

    # --- killing -----------------------------------------------------------------------

    async def _kill_some(self, seconds: float, count: int) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for moment in sorted(self._random.uniform(0, seconds) for _ in range(count)):
            await asyncio.sleep(max(0.0, start + moment - loop.time()))
            await self._kill_one()

    async def _kill_one(self) -> None:
        # One that runs: what was killed before is perhaps being started again.
        while True:
            index = self._random.randrange(self._plan.servers)
            os_pid, starts = self._ledger.process_of(index)
            if (index, starts) not in self._killed:
                self._killed.add((index, starts))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(os_pid, self._random.choice(SIGNALS))
                    self._kills += 1
                    return
            await asyncio.sleep(0.001)

    # --- looking -----------------------------------------------------------------------

    async def _settled(self, before: Resources | None = None) -> Resources:
        """Return what there is, once it is what there was, or after a while."""
        end = time.monotonic() + SETTLE
        while True:
            gc.collect()
            # What the allocator keeps for next time is no leak.
            ctypes.CDLL(None).malloc_trim(0)
            now = await self._look()
            if before is None and now.processes == self._expected():
                return now
            if before is not None and now.countable == before.countable:
                return now
            if time.monotonic() > end:
                return now
            await asyncio.sleep(0.1)

    def _expected(self) -> int:
        shared = _tenth(self._plan)
        return 1 + WORKERS + self._plan.servers - shared + 1

    async def _look(self) -> Resources:
        children = psutil.Process().children(recursive=True)
        return Resources(
            processes=len(children),
            fds=len(os.listdir("/proc/self/fd")),
            names=frozenset((each["name"], each["sid"]) for each in await self._node.ps()),
            objects=len(gc.get_objects()),
            blocks=sys.getallocatedblocks(),
            in_use=_in_use(),
            memory={
                os_pid: _memory_of(os_pid) for os_pid in (os.getpid(), *(c.pid for c in children))
            },
        )

    def _killed_at_their_begin(self, told: list[list[tuple[int, int]]]) -> int:
        """Return how many casts left no trace although the runtime says that they had begun."""
        begun = {
            (share.sender, *end)
            for share, of_one in zip(self._shares, told, strict=True)
            for end in of_one
        }
        firsts = [share.first for share in self._shares]
        return sum(
            (bisect_right(firsts, number) - 1, way, seq) in begun
            for number, way, seq in self._ledger.casts_without_a_trace()
        )

    def _report(
        self,
        before: Resources,
        after: Resources,
        took: float,
        figures: list[dict[str, float]],
        counts: Counter[str],
        unseen: int,
    ) -> Report:
        counted = self._node.counts - counts
        audited = audit(
            self._ledger.table(), lost=self._node.counts["messages_lost"], unseen=unseen
        )
        # What came late because an event loop did is the machine's fault. It may do so twice: as
        # it looks at the limits, and in the turn after that, which wakes whoever waits.
        lag = max(each["lag"] for each in figures)
        late = max(each["late"] for each in figures)
        faults = [*audited.faults, *self._node.complaints, *_differences(before, after)]
        if late > GRACE + 2 * lag:
            faults.append(f"an answer came {late:.2f} s after the end of its time limit")
        return Report(
            seconds=took,
            calls_per_second=audited.calls / (took + WARM_UP),
            kills=self._kills,
            deaths=counted["crashed"],
            restarts=counted["restarted"],
            late=late,
            lag=lag,
            held_back=int(sum(each["held_back"] for each in figures)),
            audit=audited,
            before=before,
            after=after,
            faults=faults,
        )


def _tenth(plan: Plan) -> int:
    return max(1, plan.servers // 10)


# glibc's `struct mallinfo2`. Made by a call: the checkers take a list in the class for a mistake.
_NAMES: Final = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)
_MallInfo: Any = type(
    "MallInfo", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in _NAMES]}
)


def _in_use() -> float:
    """Return what has been allocated and not freed in this process, in MB.

    Small objects are not in it: Python has arenas of its own for them.
    """
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _MallInfo
    found = mallinfo()
    in_use: float = (found.uordblks + found.hblkhd) / 1e6
    return in_use


def _memory_of(os_pid: int) -> float:
    """Return what a process has for itself and its forks, in MB; not the ledger."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{os_pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _differences(before: Resources, after: Resources) -> list[str]:
    found: list[str] = []
    if before.countable != after.countable:
        found.append(
            f"afterwards there is not what was before: {before.in_words} became {after.in_words}"
        )
    if after.objects > before.objects + MORE_OBJECTS:
        found.append(f"{before.objects:,} objects became {after.objects:,}")
    if after.blocks > before.blocks + MORE_BLOCKS:
        found.append(f"{before.blocks:,} blocks became {after.blocks:,}")
    if after.in_use > before.in_use + MORE_IN_USE:
        found.append(f"{before.in_use:.1f} MB in use became {after.in_use:.1f}")
    # Who lives through the run: the program with the root, the zygote, the senders.
    for os_pid in before.memory.keys() & after.memory.keys():
        was, now = before.memory[os_pid], after.memory[os_pid]
        if now > was + MORE_MEMORY:
            found.append(f"process {os_pid} had {was:.1f} MB for itself, and has {now:.1f}")
    return found
