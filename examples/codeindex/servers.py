"""The three servers of the code index, each in a process of its own.

```text
crawler --parse--> parser-1, parser-2, ... --add--> index --> journal
        ----------------------plan----------------->
```

Any of them may be killed at any time:

- A **parser** keeps nothing. The crawler gets `ServerExitedError` for the file that it was
  working on, and sends it again; the next one in its mailbox waits for its next incarnation.
- The **index** keeps everything in its journal, and reads it back. `plan` and `add` are
  idempotent: one that was under way is run again, and its caller notices no more than a delay.
- The **crawler** asks the index what is still to be done whenever it starts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypedDict

from typing_extensions import override

from examples.codeindex.journal import Journal
from examples.codeindex.library import Library
from examples.codeindex.parsing import ParsedFile, parse_file, unparsable
from examples.codeindex.search import Hit, search
from noex_mp import Continue, ExitReason, GenServer, Ref, ServerExitedError, call, cast, named

# Two files for each parser: one in hand, one in its mailbox.
IN_FLIGHT: Final = 2

# How often a file may be the death of its parser.
ATTEMPTS: Final = 3

# The index says how far it is whenever it has so many more files.
NEWS_EVERY: Final = 200


class Stats(TypedDict):
    """How far the index is."""

    files: int
    symbols: int
    unparsable: int
    pending: int
    complete: bool


class Progress(TypedDict):
    """How far the crawler is, since it was started."""

    waiting: int
    parsing: int
    parsed: int
    retried: int


class CodeIndex(GenServer):
    """Keeps what the parsers found, and answers searches."""

    def __init__(self, journal: str) -> None:
        self._path = Path(journal)
        self._journal: Journal | None = None
        self._plan: dict[str, str] | None = None
        self._files: dict[str, ParsedFile] = {}
        self._pending: set[str] = set()
        self._symbols = 0

    @override
    def init(self) -> Continue:
        self._journal = Journal(self._path)
        # Not here: a start has a time limit. Messages wait until `handle_continue` is done.
        return Continue("replay")

    @override
    async def handle_continue(self, argument: Any) -> None:
        assert self._journal is not None
        for kind, value in self._journal.replay():
            if kind == "plan":
                self._set_plan(value)
            else:
                self._keep(value)
            await asyncio.sleep(0)
        if self._files:
            print(f"read {len(self._files):,} files from the journal", flush=True)

    @override
    def terminate(self, reason: ExitReason) -> None:
        if self._journal is not None:
            self._journal.close()

    @call(idempotent=True)
    def plan(self, files: dict[str, str]) -> list[str]:
        """Take the list of all files, with their stamps, and return those that are missing."""
        if files != self._plan:
            self._write("plan", files)
            self._set_plan(files)
        self._tell()
        return sorted(self._pending)

    @call(idempotent=True)
    def add(self, file: ParsedFile) -> None:
        """Take the result for one file."""
        if file["path"] in self._pending:
            self._write("file", file)
            self._keep(file)
            self._tell()

    @call
    def search(self, query: str, limit: int = 10) -> list[Hit]:
        """Return the symbols that fit best, for example for `asyncio.Queue` or `binary tree`."""
        return search(self._files.values(), query, limit)

    @call
    def stats(self) -> Stats:
        """Return how far the index is."""
        return Stats(
            files=len(self._files),
            symbols=self._symbols,
            unparsable=sum(1 for file in self._files.values() if file["problem"]),
            pending=len(self._pending),
            complete=self._plan is not None and not self._pending,
        )

    @call
    def digest(self) -> dict[str, str]:
        """Return a hash of what is known of each file, by its path."""
        return {path: digest_of(file) for path, file in sorted(self._files.items())}

    def _set_plan(self, plan: dict[str, str]) -> None:
        self._plan = plan
        for path in [path for path, file in self._files.items() if plan.get(path) != file["stamp"]]:
            self._symbols -= len(self._files.pop(path)["symbols"])
        self._pending = plan.keys() - self._files.keys()

    def _keep(self, file: ParsedFile) -> None:
        self._files[file["path"]] = file
        self._pending.discard(file["path"])
        self._symbols += len(file["symbols"])

    def _write(self, kind: str, value: object) -> None:
        # Before anything else changes: what the journal has, the next incarnation has.
        assert self._journal is not None
        self._journal.append([kind, value])

    def _tell(self) -> None:
        known, all_files = len(self._files), len(self._plan or ())
        if not self._pending:
            print(f"complete: {known:,} files, {self._symbols:,} symbols", flush=True)
        elif known % NEWS_EVERY == 0:
            print(f"{known:,} of {all_files:,} files", flush=True)


class Parser(GenServer):
    """Parses one file after the other. This is where the time goes."""

    def __init__(self, library: Library) -> None:
        self._root = library.root

    @call
    async def parse(self, path: str, stamp: str) -> None:
        """Parse a file and give the result to the index."""
        await CodeIndex.add(the_index, parse_file(self._root, path, stamp))


class Crawler(GenServer):
    """Gives files to parsers until the index has all of them."""

    def __init__(self, library: Library, parsers: Sequence[str]) -> None:
        self._library = library
        self._parsers = [named(name, Parser).within(60) for name in parsers]
        self._stamps: dict[str, str] = {}
        self._todo: deque[str] = deque()
        self._busy: dict[asyncio.Future[None], tuple[Ref[Parser], str]] = {}
        self._deaths: Counter[str] = Counter()
        self._parsed = 0

    @override
    def init(self) -> Continue:
        return Continue("crawl")

    @override
    async def handle_continue(self, argument: Any) -> None:
        self._stamps = self._library.files()
        self._todo.extend(await CodeIndex.plan(the_index, self._stamps))
        await Crawler.step(self.ref)

    @cast
    async def step(self) -> None:
        """Take back the files that are done, and hand out others; sent whenever one is done.

        A loop in one handler would keep all other messages waiting, `Stop` among them.
        """
        for reply in [reply for reply in self._busy if reply.done()]:
            await self._take_back(reply)
        self._hand_out()

    @call
    def progress(self) -> Progress:
        """Return how far the crawler is."""
        return Progress(
            waiting=len(self._todo),
            parsing=len(self._busy),
            parsed=self._parsed,
            retried=self._deaths.total(),
        )

    def _hand_out(self) -> None:
        load = Counter(parser for parser, _ in self._busy.values())
        for parser in self._parsers * IN_FLIGHT:
            if self._todo and load[parser] < IN_FLIGHT:
                path = self._todo.popleft()
                reply = Parser.parse(parser, path, self._stamps[path])
                reply.add_done_callback(lambda _: Crawler.step(self.ref))
                self._busy[reply] = (parser, path)
                load[parser] += 1

    async def _take_back(self, reply: asyncio.Future[None]) -> None:
        _, path = self._busy.pop(reply)
        try:
            reply.result()
            self._parsed += 1
        except ServerExitedError as error:
            self._deaths[path] += 1
            if self._deaths[path] < ATTEMPTS:
                self._todo.appendleft(path)
            else:
                problem = unparsable(path, self._stamps[path], f"parser {error.report.summary}")
                await CodeIndex.add(the_index, problem)


def digest_of(file: ParsedFile) -> str:
    """Return a hash of what is known of a file."""
    return hashlib.sha256(json.dumps(file, sort_keys=True).encode()).hexdigest()


# Reading a long journal back takes a moment, in which calls wait.
the_index: Final = named("index", CodeIndex).within(60)
