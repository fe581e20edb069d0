"""The code index: its index is the same whatever is killed while it is built."""

from __future__ import annotations

import errno
import io
import os
import signal
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.codeindex import CodeIndex, Crawler, Library, tree
from examples.codeindex.journal import Journal
from examples.codeindex.parsing import ParsedFile, module_name, parse_file, unparsable, words_of
from examples.codeindex.search import rank, search
from examples.codeindex.servers import Progress, Stats, digest_of
from noex_mp import Node, Normal, named

LIBRARY = Library(sysconfig.get_path("stdlib"), limit=200)
INDEX = named("index", CodeIndex).within(15)
CRAWLER = named("crawler", Crawler).within(15)

# --- with processes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, str]:
    """The digest of the index as a plain loop builds it."""
    files = LIBRARY.files()
    return {path: digest_of(parse_file(LIBRARY.root, path, files[path])) for path in files}


@pytest.mark.slow
@pytest.mark.parametrize(
    "victims",
    [(), ("parser-1",), ("index",), ("crawler",), ("parser-1", "parser-2", "index", "crawler")],
    ids=lambda victims: " and ".join(victims) or "nobody",
)
async def test_the_index_is_the_same_whoever_is_killed_in_the_middle(
    victims: tuple[str, ...], tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    async with Node(tree(LIBRARY, tmp_path, parsers=2)) as node:
        os_pids = {server["name"]: server["os_pid"] for server in await node.ps()}
        stats = await until(lambda stats: stats["files"] >= 50)
        for victim in victims:
            os.kill(os_pids[victim], signal.SIGKILL)
        assert not stats["complete"]
        await until(lambda stats: stats["complete"])
        progress = await crawled()
        restarts = {server["name"]: server["restarts"] for server in await node.ps()}
        assert await CodeIndex.digest(INDEX) == undisturbed
    assert restarts == {name: int(name in victims) for name in os_pids}
    # At most the one file that each had in hand.
    assert progress["retried"] <= sum(victim.startswith("parser") for victim in victims)
    assert sorted(paths_in(tmp_path / "journal")) == sorted(undisturbed)


@pytest.mark.slow
async def test_a_second_run_parses_only_what_the_first_did_not(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    async with Node(tree(LIBRARY, tmp_path)):
        await until(lambda stats: stats["files"] >= 50)
    known = len(paths_in(tmp_path / "journal"))
    async with Node(tree(LIBRARY, tmp_path)):
        assert (await crawled())["parsed"] == len(undisturbed) - known
        assert await CodeIndex.digest(INDEX) == undisturbed


@pytest.mark.slow
async def test_a_second_run_notices_what_has_changed(tmp_path: Path) -> None:
    library = Library(str(tmp_path / "library"))
    write(
        library, {"same.py": "a = 1", "changed.py": "def old(): ...", "gone.py": "def lost(): ..."}
    )
    async with Node(tree(library, tmp_path)):
        await until(lambda stats: stats["complete"])
        assert [hit["name"] for hit in await CodeIndex.search(INDEX, "old")] == ["changed.old"]
    write(library, {"changed.py": "def brand_new(): ...", "bad.py": "def"})
    os.unlink(tmp_path / "library" / "gone.py")
    async with Node(tree(library, tmp_path)):
        assert (await crawled())["parsed"] == 2
        stats = await CodeIndex.stats(INDEX)
        assert (stats["files"], stats["unparsable"], stats["complete"]) == (3, 1, True)
        assert [hit["name"] for hit in await CodeIndex.search(INDEX, "new")] == [
            "changed.brand_new"
        ]
        assert await CodeIndex.search(INDEX, "old") == []
        assert await CodeIndex.search(INDEX, "lost") == []


@pytest.mark.slow
async def test_a_file_in_hand_is_sent_once_more_and_given_up_after_three_deaths(
    tmp_path: Path,
) -> None:
    library = Library(str(tmp_path / "library"))
    write(library, {"good.py": "def good(): ..."})
    os.mkfifo(tmp_path / "library" / "deadly.py")
    async with Node(tree(library, tmp_path, parsers=1)) as node:
        for deaths in range(3):
            # The parser has opened the pipe, so it has the file in hand, and no end of it.
            with await opened_for_writing(library, "deadly.py"):
                assert (await Crawler.progress(CRAWLER))["retried"] == deaths
                os.kill((await node.ps())[1]["os_pid"], signal.SIGKILL)
                await until_retried(deaths + 1)
        stats = await until(lambda stats: stats["complete"])
    assert (stats["files"], stats["unparsable"]) == (2, 1)


@pytest.mark.slow
async def test_a_file_that_killed_its_parser_once_is_indexed_all_the_same(tmp_path: Path) -> None:
    library = Library(str(tmp_path / "library"))
    write(library, {"good.py": "def good(): ..."})
    os.mkfifo(tmp_path / "library" / "unlucky.py")
    async with Node(tree(library, tmp_path, parsers=1)) as node:
        with await opened_for_writing(library, "unlucky.py"):
            os.kill((await node.ps())[1]["os_pid"], signal.SIGKILL)
            await until_retried(1)
        with await opened_for_writing(library, "unlucky.py") as pipe:
            pipe.write(b"def survivor(): ...")
        await until(lambda stats: stats["complete"])
        assert len(await CodeIndex.search(INDEX, "survivor")) == 1


async def opened_for_writing(library: Library, name: str) -> io.FileIO:
    """Open a named pipe as soon as somebody reads it."""
    while True:
        try:
            fd = os.open(os.path.join(library.root, name), os.O_WRONLY | os.O_NONBLOCK)
            return io.FileIO(fd, "w")
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            await Crawler.progress(CRAWLER)


async def until_retried(times: int) -> None:
    while (await Crawler.progress(CRAWLER))["retried"] < times:
        pass


async def until(true: Callable[[Stats], bool]) -> Stats:
    """Ask the index again and again; each question waits for its reply."""
    while not true(stats := await CodeIndex.stats(INDEX)):
        pass
    return stats


async def crawled() -> Progress:
    """Return what the crawler did, once it has nothing to do any more."""
    while (progress := await Crawler.progress(CRAWLER))["waiting"] or progress["parsing"]:
        pass
    return progress


def write(library: Library, files: dict[str, str]) -> None:
    Path(library.root).mkdir(exist_ok=True)
    for name, text in files.items():
        Path(library.root, name).write_text(text)


def paths_in(journal: Path) -> list[str]:
    records = Journal(journal)
    paths = [value["path"] for kind, value in records.replay() if kind == "file"]
    records.close()
    return paths


# --- the parts, without ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("", ["m"]),
        ("def f(): ...\nasync def g(): ...", ["m", "m.f", "m.g"]),
        ("class A:\n  class B:\n    def f(self): ...", ["m", "m.A", "m.A.B", "m.A.B.f"]),
        ("def f():\n  def hidden(): ...", ["m", "m.f"]),
        ("if x:\n  def f(): ...\nelse:\n  def g(): ...", ["m", "m.f", "m.g"]),
        ("try:\n  ...\nexcept E:\n  def f(): ...", ["m", "m.f"]),
    ],
)
def test_a_file_has_the_symbols_that_can_be_reached_by_name(
    source: str, names: list[str], tmp_path: Path
) -> None:
    parsed = parsed_source(tmp_path, source)
    assert [symbol["name"] for symbol in parsed["symbols"]] == names


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"def", "SyntaxError"),
        (b"a = '\xff'", "SyntaxError"),
        (b"# coding: no-such", "SyntaxError"),
        (b"a\0", "Error"),
        (b"-" * 100_000 + b"1", "Error"),
    ],
)
def test_what_is_no_python_is_a_result_too(source: bytes, problem: str, tmp_path: Path) -> None:
    Path(tmp_path, "m.py").write_bytes(source)
    parsed = parse_file(str(tmp_path), "m.py", "1")
    assert problem in parsed["problem"]
    assert parsed["symbols"] == []


def test_a_symbol_has_its_place_and_the_first_line_of_its_docstring(tmp_path: Path) -> None:
    parsed = parsed_source(tmp_path, 'class A:\n  def f(self):\n    """Do it.\n\n    Twice."""')
    assert parsed["symbols"][2] == {
        "name": "m.A.f",
        "kind": "method",
        "line": 2,
        "summary": "Do it.",
    }
    assert parsed["words"]["twice"] == [2]
    assert parsed["words"]["m"] == [0, 1, 2]


def test_a_docstring_that_utf8_cannot_carry_is_repaired(tmp_path: Path) -> None:
    parsed = parsed_source(tmp_path, r'"""Half a pair: \ud800."""')
    assert parsed["symbols"][0]["summary"] == "Half a pair: ?."


@pytest.mark.parametrize(
    ("path", "name"),
    [("a.py", "a"), ("a/b.py", "a.b"), ("a/__init__.py", "a"), ("__init__.py", "__init__")],
)
def test_a_module_is_called_as_it_is_imported(path: str, name: str) -> None:
    assert module_name(path) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("put_nowait", {"put_nowait", "put", "nowait"}),
        ("HTTPServer", {"httpserver", "http", "server"}),
        ("a.b", {"a", "b"}),
    ],
)
def test_the_parts_of_a_word_are_words(text: str, words: set[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("query", "better", "worse"),
    [
        ("asyncio.Queue", "asyncio.Queue", "asyncio.queues.Queue"),
        ("Queue.put", "queue.Queue.put", "queue.Queue.put_nowait"),
        ("Queue.put", "queue.Queue.put", "queue.Queue.sub.put"),
        ("asyncio.Queue", "asyncio.queues.Queue", "asyncio.queues.LifoQueue"),
        ("asyncio.Queue", "asyncio.queues.Queue", "queue.asyncio.other"),
        ("Queue", "queue.Queue", "a.queue"),
        ("Queue", "queue.Queue", "asyncio.queues.Queue"),
        ("Queue", "asyncio.queues.Queue", "test.Queue"),
    ],
)
def test_of_two_hits_the_closer_one_is_better(query: str, better: str, worse: str) -> None:
    assert rank(better, query) < rank(worse, query)


def test_a_hit_has_all_words_of_the_query(tmp_path: Path) -> None:
    file = parsed_source(tmp_path, 'def cache():\n  "Recently used."\ndef used(): ...')
    assert [hit["name"] for hit in search([file], "used", 10)] == ["m.used", "m.cache"]
    assert [hit["name"] for hit in search([file], "recently used cache", 10)] == ["m.cache"]
    assert [hit["name"] for hit in search([file], "used", 1)] == ["m.used"]
    assert search([file], "used nowhere", 10) == []
    assert search([file], " ", 10) == []


def parsed_source(folder: Path, source: str) -> ParsedFile:
    Path(folder, "m.py").write_text(source)
    parsed = parse_file(str(folder), "m.py", "1")
    assert parsed["problem"] == ""
    return parsed


def test_a_result_that_comes_twice_or_too_late_is_written_once_or_never(tmp_path: Path) -> None:
    index = CodeIndex(str(tmp_path / "journal"))
    index.init()
    assert index.plan({"a.py": "1", "b.py": "1"}) == ["a.py", "b.py"]
    for path in ("a.py", "a.py", "gone.py"):
        index.add(unparsable(path, "1", ""))
    assert index.plan({"a.py": "1", "b.py": "1"}) == ["b.py"]
    index.terminate(Normal())
    assert paths_in(tmp_path / "journal") == ["a.py"]


def test_a_torn_tail_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first, second = unparsable("a.py", "1", "ä"), unparsable("b.py", "2", "")
    written(path, first)
    end_of_first = path.stat().st_size
    written(path, second)
    whole = path.read_bytes()
    for torn_at in range(end_of_first, len(whole)):
        path.write_bytes(whole[:torn_at])
        assert written(path, second) == [first]
        assert path.read_bytes() == whole
    assert written(path) == [first, second]


def test_a_damaged_record_ends_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path, "first")
    written(path, "second")
    path.write_bytes(path.read_bytes().replace(b"second", b"sexond"))
    assert written(path) == ["first"]


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    with pytest.raises(BlockingIOError):
        Journal(tmp_path / "journal")
    journal.close()


def written(path: Path, *records: object) -> list[object]:
    """Append records; return those that were there."""
    journal = Journal(path)
    found = list(journal.replay())
    for record in records:
        journal.append(record)
    journal.close()
    return found
