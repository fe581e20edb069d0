"""A pytest plugin that fails every test which leaves something behind.

Left behind means: there when the test and its fixtures are done, and not there before. Looked at
are

- **processes**: every descendant, zombies too, and on Linux also those whose parent is gone;
- **fds** of the pytest process itself, with what they point to;
- **socket files** in the runtime folder;
- **shared memory**: entries in `/dev/shm`, memfds, and mappings of either.

Switch it on in your pytest configuration:

```toml
[tool.pytest.ini_options]
noex_mp_leaks = true
```

What module- and session-scoped fixtures opened before a test does not count. A test that keeps
something on purpose, say because it grows a node which its module shares, says so:

```python
@pytest.mark.may_leave("processes", "fds")
```

A reaper may still be at work when a test ends, so leftovers get up to `GRACE` seconds to go away;
a clean test waits for nothing. A test that has failed keeps its local variables alive in its
traceback, so only its processes and socket files are looked at.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

import psutil
import pytest

__all__ = ["GRACE", "Kind", "Leftovers", "Snapshot", "leftovers", "take_snapshot"]

Kind: TypeAlias = Literal["processes", "fds", "socket files", "shared memory"]
"""What can be left behind."""

Leftovers: TypeAlias = dict[Kind, list[str]]
"""What was left behind, each in words; kinds of which nothing was left are missing."""

GRACE = 2.0
"""How long leftovers may take to go away, in seconds."""

# Inherited by every descendant, so that one whose parent is gone can still be told to be ours.
# A pytest inside a pytest adds its own mark to the outer one's.
_MARK_VARIABLE = "NOEX_MP_LEAK_MARK"
_mark = ""

# Nearly every file of /proc fits into one read of so many bytes.
_MUCH = 8192

_ON_LINUX = sys.platform == "linux"
_SHM_FOLDER = Path("/dev/shm")
_FD_FOLDER = "/proc/self/fd" if _ON_LINUX else "/dev/fd"

_Described: TypeAlias = Mapping[object, str]


@dataclass(frozen=True)
class Snapshot:
    """What there is at one moment: for each kind an identity and its words.

    The identity is more than a number, so that a pid or an fd that was used again shows.
    """

    things: Mapping[Kind, _Described]


def take_snapshot() -> Snapshot:
    """Return what processes, fds, socket files and shared memory there are now."""
    files, memfds = _open_files()
    shared: dict[object, str] = {**memfds, **_shared_mappings(), **_shm_entries()}
    return Snapshot(
        {
            "processes": _processes(),
            "fds": files,
            "socket files": _socket_files(),
            "shared memory": shared,
        }
    )


def leftovers(
    before: Snapshot, *, ignoring: Collection[Kind] = (), grace: float = GRACE
) -> Leftovers:
    """Return what is there now and was not `before`, once it had its time to go away.

    Args:
        before: What may stay.
        ignoring: Kinds that do not count.
        grace: How long to wait for the rest to go, in seconds.
    """
    deadline = time.monotonic() + grace
    pause = 0.001
    collected = False
    while True:
        left = _difference(before, take_snapshot(), ignoring)
        if left and time.monotonic() >= deadline:
            _forgive_strangers(left)
            return left
        if not left:
            return left
        if not collected:
            # Sockets and mappings in a reference cycle go as soon as anyone collects it.
            gc.collect()
            collected = True
            continue
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _difference(before: Snapshot, after: Snapshot, ignoring: Collection[Kind]) -> Leftovers:
    left: Leftovers = {}
    for kind, things in after.things.items():
        if kind in ignoring:
            continue
        new = [words for key, words in things.items() if key not in before.things[kind]]
        if new:
            left[kind] = new
    return left


def _forgive_strangers(left: Leftovers) -> None:
    # Other programs of the same user come and go there.
    _forgive(left, "shared memory", _entries_of_strangers)
    _forgive(left, "socket files", _sockets_of_strangers)


def _forgive(left: Leftovers, kind: Kind, of_strangers: Callable[[list[str]], set[str]]) -> None:
    entries = left.pop(kind, [])
    theirs = of_strangers(entries)
    if kept := [words for words in entries if words not in theirs]:
        left[kind] = kept


def _entries_of_strangers(entries: list[str]) -> set[str]:
    """Return what of /dev/shm other programs have mapped."""
    files = [words for words in entries if words.startswith(str(_SHM_FOLDER))]
    if not _ON_LINUX or not files:
        return set()
    theirs = _mappings_of_strangers()
    return {words for words in files if _inode(words.partition(" (")[0]) in theirs}


def _sockets_of_strangers(paths: list[str]) -> set[str]:
    """Return the sockets at which other programs listen."""
    from noex_mp.transport.platform import peer_of

    found: set[str] = set()
    if not paths:
        return found
    processes = _linux_processes() if _ON_LINUX else _other_processes()
    ours = {os_pid for os_pid, _ in processes} | {os.getpid()}
    for path in paths:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.settimeout(1)
            probe.connect(path)
            if peer_of(probe)[0] not in ours:
                found.add(path)
    return found


def _inode(path: str) -> str:
    # Not by name: glibc gives a semaphore its name only once it is mapped.
    with contextlib.suppress(OSError):
        return str(os.stat(path, follow_symlinks=False).st_ino)
    return ""


def _mappings_of_strangers() -> set[str]:
    """Return the inodes of what other programs have mapped from there."""
    ours = {key[0] for key in _linux_processes()} | {os.getpid()}
    # What is gone by now has none.
    found = {""}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in ours:
            with contextlib.suppress(OSError):
                maps = Path("/proc", entry, "maps").read_text(errors="replace")
                lines = (
                    line.split(maxsplit=5) for line in maps.splitlines() if "/dev/shm/" in line
                )
                found |= {fields[4] for fields in lines}
    return found


# --- processes ---------------------------------------------------------------------------------


def _processes() -> _Described:
    found = _linux_processes() if _ON_LINUX else _other_processes()
    tracker = _resource_tracker_pid()
    return {key: words for key, words in found.items() if key[0] != tracker}


# The number that the system had given out last when there was no process of ours.
_none_since = b""


def _linux_processes() -> dict[tuple[int, float], str]:
    """Return our descendants, and every process that carries our mark."""
    global _none_since
    newest = b""
    with contextlib.suppress(OSError):
        newest = _read("/proc/sys/kernel/ns_last_pid")
    # No process has been started by anybody, nor a thread: so most tests of plain functions end.
    if newest and newest == _none_since:
        return {}
    found = _look_at_all_processes()
    _none_since = b"" if found else newest
    return found


def _look_at_all_processes() -> dict[tuple[int, float], str]:
    stats = dict(_read_stats())
    ours = {os.getpid()}
    grown = True
    while grown:
        children = {pid for pid, stat in stats.items() if stat.parent in ours and pid not in ours}
        grown = bool(children)
        ours |= children
    ours |= {pid for pid in stats.keys() - ours if _carries_mark(pid, stats[pid].started)}
    ours.discard(os.getpid())
    return {(pid, stats[pid].started): _process_in_words(pid, stats[pid]) for pid in sorted(ours)}


class _Stat(NamedTuple):
    head: bytes  # the number and the name
    state: bytes
    parent: int
    started: float

    @property
    def name(self) -> str:
        return self.head.partition(b"(")[2].decode(errors="replace")


def _read_stats() -> Iterator[tuple[int, _Stat]]:
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        # A process may end while we look at it.
        with contextlib.suppress(OSError):
            # The name stands in parentheses and may hold any character, also those.
            head, _, tail = _read(f"/proc/{entry}/stat").rpartition(b")")
            fields = tail.split(None, 20)
            yield int(entry), _Stat(head, fields[0], int(fields[1]), float(fields[19]))


def _read(path: str) -> bytes:
    # Two looks at all processes for each test: pathlib and buffers would be half of their time.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = read = os.read(fd, _MUCH)
        # Such a file comes in one piece, unless it is longer.
        while len(read) == _MUCH:
            read = os.read(fd, _MUCH)
            data += read
        return data
    finally:
        os.close(fd)


# A process can lose the mark by an exec, but no stranger ever gets it.
_strangers: set[tuple[int, float]] = set()


def _carries_mark(os_pid: int, started: float) -> bool:
    if not _mark or (os_pid, started) in _strangers:
        return False
    try:
        environment = _read(f"/proc/{os_pid}/environ")
    except OSError:
        return False  # another user's, or gone by now
    carries = _mark.encode() in environment
    # In the middle of an exec there is none for a moment.
    if environment and not carries:
        _strangers.add((os_pid, started))
    return carries


def _process_in_words(os_pid: int, stat: _Stat) -> str:
    command = ""
    with contextlib.suppress(OSError):
        raw = Path(f"/proc/{os_pid}/cmdline").read_bytes()
        command = raw.replace(b"\0", b" ").decode(errors="replace").strip()
    if stat.state == b"Z":
        return f"zombie {os_pid} ({stat.name}), nobody has waited for it"
    orphan = "" if stat.parent == os.getpid() else f", child of {stat.parent}"
    return f"process {os_pid}{orphan}: {_shorten(command or stat.name)}"


def _other_processes() -> dict[tuple[int, float], str]:
    found: dict[tuple[int, float], str] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            zombie = process.status() == psutil.STATUS_ZOMBIE
            words = (
                f"zombie {process.pid}, nobody has waited for it"
                if zombie
                else f"process {process.pid}: {_shorten(process.name())}"
            )
            found[process.pid, process.create_time()] = words
    return found


def _resource_tracker_pid() -> int | None:
    """Return the pid of multiprocessing's own helper process, which stays once it was used."""
    return _resource_tracker_number("_pid")


def _resource_tracker_number(attribute: str) -> int | None:
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker: object = getattr(module, "_resource_tracker", None)
    number: object = getattr(tracker, attribute, None)
    return number if isinstance(number, int) else None


def _shorten(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


# --- fds ---------------------------------------------------------------------------------------


def _open_files() -> tuple[dict[object, str], dict[object, str]]:
    """Return the plain fds and, apart from them, those that are shared memory."""
    plain: dict[object, str] = {}
    shared: dict[object, str] = {}
    tracker = _resource_tracker_number("_fd")
    for number in sorted(int(name) for name in os.listdir(_FD_FOLDER) if name.isdigit()):
        # The fd that lists the folder is among them, and closed by now.
        with contextlib.suppress(OSError):
            target = _fd_target(number)
            words = f"fd {number} -> {target}"
            if _is_shared_memory(target):
                shared["fd", number, target] = words
            elif number != tracker:
                plain[number, target] = words + _socket_in_words(number, target)
    return plain, shared


def _fd_target(number: int) -> str:
    if _ON_LINUX:
        return os.readlink(f"{_FD_FOLDER}/{number}")
    stat = os.fstat(number)
    return f"device {stat.st_dev} inode {stat.st_ino} mode {stat.st_mode:o}"


def _socket_in_words(number: int, target: str) -> str:
    if not target.startswith("socket:"):
        return ""
    # A duplicate, so that closing the socket object leaves the fd itself alone.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as duplicate:
        family = getattr(duplicate.family, "name", str(duplicate.family))
        kind = getattr(duplicate.type, "name", str(duplicate.type))
        name: object = duplicate.getsockname()
        return f" ({family} {kind}{f' at {name}' if name else ''})"
    return ""


# --- shared memory and socket files ------------------------------------------------------------


def _is_shared_memory(target: str) -> bool:
    return target.startswith(("/memfd:", f"{_SHM_FOLDER}/"))


def _shared_mappings() -> dict[object, str]:
    if not _ON_LINUX:
        return {}
    found: dict[object, str] = {}
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        if "/memfd:" not in line and "/dev/shm/" not in line:
            continue
        # address perms offset device inode path
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and _is_shared_memory(fields[5]):
            found["mapping", fields[4], fields[5]] = f"mapping of {fields[5]} (inode {fields[4]})"
    return found


def _shm_entries() -> dict[object, str]:
    found: dict[object, str] = {}
    with contextlib.suppress(OSError), os.scandir(_SHM_FOLDER) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                stat = entry.stat(follow_symlinks=False)
                if stat.st_uid == os.getuid():
                    found["file", entry.path, stat.st_ino] = f"{entry.path} ({stat.st_size} bytes)"
    return found


def _socket_files() -> dict[object, str]:
    # Imported when it is needed: pytest loads this module for everybody who has noex-mp.
    from noex_mp.transport.paths import runtime_folders

    found: dict[object, str] = {}
    for path in itertools.chain(*(folder.rglob("*") for folder in runtime_folders())):
        with contextlib.suppress(OSError):
            if path.is_socket():
                found[path, path.lstat().st_ino] = str(path)
    return found


# --- pytest ------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option that switches the plugin on."""
    parser.addini(
        "noex_mp_leaks",
        "fail tests that leave processes, fds, socket files or shared memory behind",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and mark ourselves for our descendants."""
    config.addinivalue_line(
        "markers",
        "may_leave(*kinds): keeps these on purpose: " + ", ".join(map(repr, get_args(Kind))),
    )
    if config.getini("noex_mp_leaks"):
        _set_mark()
        _open_what_stays()


def _open_what_stays() -> None:
    """Let libuv open its two descriptors, which it keeps for good, before the first test."""
    # Whatever NOEX_MP_LOOP says: a test may use the other loop.
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


def _set_mark() -> None:
    global _mark
    if not _mark:
        _mark = uuid.uuid4().hex
        outer = os.environ.get(_MARK_VARIABLE)
        os.environ[_MARK_VARIABLE] = f"{outer},{_mark}" if outer else _mark


_FAILED = pytest.StashKey[bool]()
_KEPT_BY_TRACEBACK: frozenset[Kind] = frozenset({"fds", "shared memory"})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note that a test has failed: its traceback then keeps its variables alive."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(autouse=True)
def noex_mp_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test if it leaves something behind."""
    # Autouse comes after the fixtures of wider scopes and before the test's own, and is torn
    # down in the opposite order: exactly the window that a test is to answer for.
    item: object = request.node
    assert isinstance(item, pytest.Item)
    if not item.config.getini("noex_mp_leaks"):
        yield
        return
    ignoring = _may_leave(item)
    before = take_snapshot()
    yield
    if item.stash.get(_FAILED, default=False):
        ignoring |= _KEPT_BY_TRACEBACK
    left = leftovers(before, ignoring=ignoring)
    if left:
        pytest.fail(_in_words(left), pytrace=False)


def _may_leave(item: pytest.Item) -> set[Kind]:
    named: set[object] = set()
    for marker in item.iter_markers("may_leave"):
        named.update(marker.args)
    allowed: set[Kind] = {kind for kind in get_args(Kind) if kind in named}
    if unknown := named - allowed:
        kinds = ", ".join(map(repr, get_args(Kind)))
        pytest.fail(f"may_leave expects some of {kinds}, got {unknown}", pytrace=False)
    return allowed


def _in_words(left: Leftovers) -> str:
    lines = ["the test left something behind:"]
    for kind, things in left.items():
        lines.append(f"  {kind}:")
        lines.extend(f"    {words}" for words in things)
    return "\n".join(lines)
