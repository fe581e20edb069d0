"""Find symbols in parsed files, best hits first. No server is needed for that."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypedDict

from examples.codeindex.parsing import ParsedFile, Symbol

_TOKEN = re.compile(r"\w+")


class Hit(TypedDict):
    """A symbol that was found, and where."""

    name: str
    kind: str
    file: str
    line: int
    summary: str


def search(files: Iterable[ParsedFile], query: str, limit: int) -> list[Hit]:
    """Return the symbols that have all words of the query, best first."""
    found = ((rank(symbol["name"], query), file, symbol) for file, symbol in _having(files, query))
    best = heapq.nsmallest(limit, found, key=lambda hit: (hit[0], hit[1]["path"], hit[2]["line"]))
    return [
        Hit(
            name=symbol["name"],
            kind=symbol["kind"],
            file=file["path"],
            line=symbol["line"],
            summary=symbol["summary"],
        )
        for _, file, symbol in best
    ]


def rank(name: str, query: str) -> tuple[int, bool, bool, int, str]:
    """Return how well a qualified name answers a query; less is better.

    The name itself comes first, then its end (`Queue.put`), then its end with parts left out
    (`asyncio.Queue` for `asyncio.queues.Queue`), then any other place of the words. Among those,
    the right case, the library before its tests, and short names come first.
    """
    return (
        _kind_of_match(name.lower(), query.lower()),
        query.rpartition(".")[2] not in name,
        name.startswith("test."),
        name.count("."),
        name,
    )


def _kind_of_match(name: str, query: str) -> int:
    if name == query:
        return 0
    if name.endswith(f".{query}"):
        return 1
    asked, parts = query.split("."), name.split(".")
    if asked[-1] == parts[-1]:
        return 2 if _in_order(asked, parts) else 3
    return 4


def _in_order(asked: Sequence[str], parts: Sequence[str]) -> bool:
    rest = iter(parts)
    return all(part in rest for part in asked)


def _having(files: Iterable[ParsedFile], query: str) -> Iterator[tuple[ParsedFile, Symbol]]:
    words: list[str] = _TOKEN.findall(query.lower())
    for file in files:
        postings = [file["words"].get(word, ()) for word in words]
        if postings and all(postings):
            for number in set(postings[0]).intersection(*postings[1:]):
                yield file, file["symbols"][number]
