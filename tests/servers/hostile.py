"""Servers that are hostile to their own process, and leave the runtime in it little to live on.

Whatever blocks says with a fifo that it has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import resource
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from noex_mp import GenServer, Ref, Reply, Stop, call, cast, named
from noex_mp.client import current
from tests.servers.counters import Counter, RefusedError, blow, listen
from tests.servers.faulty import Faulty

MIB = 2**20


class Hostile(Faulty, expected=(RefusedError,)):
    """Keeps a journal of what it did, and does it."""

    def __init__(self, diary: str = "") -> None:
        super().__init__()
        self.diary = diary
        self.kept: list[Any] = []

    @call
    def log_step(self, number: int, path: str) -> int:
        """Note a number where another process would note it too."""
        with open(path, "a") as file:
            file.write(f"{number}\n")
        return number

    @call
    def fail_at_end(self) -> None:
        self.diary = "/nonexistent/diary"

    @cast
    def refuse(self) -> None:
        """Raise what is no crash; of a cast, the log hears of it."""
        raise RefusedError(1, 0)

    @call
    def big_and_say(self, size: int, started: str) -> bytes:
        blow(started)
        return bytes(size)

    @call
    async def recall(self, value: object) -> object:
        """Reply from another turn of the loop, with the help of a thread."""
        return await asyncio.to_thread(lambda: value)

    @call
    async def pause(self, started: str, release: str) -> None:
        """Wait without the event loop, which reads on."""
        await asyncio.to_thread(blow, started)
        await asyncio.to_thread(listen, release)

    def terminate(self, reason: object) -> None:
        if self.diary:
            with open(self.diary, "a") as file:
                file.write(f"terminate {os.getpid()}\n")

    # --- stack and memory ---

    @call
    def recurse(self) -> int:
        return self._recurse(0)

    @call
    async def recurse_slowly(self) -> int:
        await asyncio.sleep(0)
        return self._recurse(0)

    def _recurse(self, depth: int) -> int:
        return self._recurse(depth + 1) + 1

    @call
    def overflow(self) -> object:
        """Overflow the C stack: every level of this is one of C."""
        sys.setrecursionlimit(10**7)
        # What is left of the stack is little, so that it needs no million levels, and less than
        # any interpreter's own count of them.
        resource.setrlimit(resource.RLIMIT_STACK, (64 * 1024, resource.RLIM_INFINITY))
        return repr(_Deep())

    @call
    def reply_that_recurses(self) -> object:
        return RecursesWhenSent()

    @call
    def need_memory(self, limit: int) -> int:
        self.limit_memory(limit)
        return len(bytearray(1024 * MIB))

    @call
    async def need_memory_slowly(self, limit: int) -> int:
        await asyncio.sleep(0)
        return self.need_memory(limit)

    @call
    def reply_without_memory(self, size: int, *, nested: bool) -> object:
        """Return what there is memory for, but not for a copy of it."""
        data = "x" * size
        return [data] if nested else data

    @call
    def bytes_without_memory(self, size: int) -> object:
        return [1, bytes(size)]

    @call
    def limit_memory(self, limit: int = MIB) -> None:
        """Leave so many bytes of address space beyond what is in use."""
        _limit_memory(limit)

    # --- descriptors ---

    @call
    def close_low_fds(self) -> None:
        os.closerange(0, 51)

    @call
    def close_and_reuse_low_fds(self, path: str) -> list[int]:
        """Fill the numbers 0 to 50 with files of our own; return which we got."""
        os.closerange(0, 51)
        self.kept = [os.open(f"{path}-{n}", os.O_CREAT | os.O_RDWR) for n in range(51)]
        return self.kept

    @call
    def shorten_all_memory(self) -> list[str]:
        """Try to shorten each file in memory that this process has; return how that went."""
        outcomes: list[str] = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                if "/memfd:noex-mp" in os.readlink(f"/proc/self/fd/{fd}"):
                    outcomes.append(_shortened(f"/proc/self/fd/{fd}"))
        return outcomes

    @call
    def close_all_fds(self) -> None:
        os.closerange(0, 65536)

    @call
    def replace_fd(self, kind: str) -> None:
        """Put /dev/null in the place of one of the runtime's descriptors."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, _runtime_fds()[kind])
        os.close(null)

    @cast
    def loop_without_fds(self, started: str) -> None:
        os.closerange(0, 51)
        blow(started)
        while True:
            pass

    @call
    def runtime_fds(self) -> dict[str, int]:
        return _runtime_fds()

    @call
    def use_multiprocessing(self) -> int:
        """Run a function in a process that is forked by somebody else's library."""
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        process = context.Process(target=queue.put, args=(17,))
        process.start()
        process.join()
        found: int = queue.get()
        queue.close()
        return found

    # --- forks ---

    @call
    def fork(self, how: str, path: str) -> int:
        """Fork, and let the child end in some way; return its os pid."""
        os_pid = os.fork()
        if os_pid:
            self.kept.append(os_pid)
            return os_pid
        Path(path).write_text("forked")
        match how:
            case "os._exit":
                os._exit(3)
            case "sys.exit":
                sys.exit(3)
            case "raise":
                raise ValueError("in a child")
            case _:
                return 0

    @call
    async def fork_slowly(self, how: str, path: str) -> int:
        await asyncio.sleep(0)
        return self.fork(how, path)

    @call
    async def fork_and_wait(self, path: str) -> int:
        """Fork, and let the child wait in the loop of its parent."""
        os_pid = os.fork()
        if os_pid == 0:
            await asyncio.sleep(0.001)
            _write(path, "the loop ran in a child")
        self.kept.append(os_pid)
        return os_pid

    @call
    def fork_and_sleep(self) -> int:
        """Fork, and let the child live as long as it may."""
        os_pid = os.fork()
        if os_pid == 0:
            while True:
                signal.pause()
        self.kept.append(os_pid)
        return os_pid

    @call
    def child_status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.kept.pop(), 0)[1])

    @call
    def daemonize(self) -> int:
        """Start a daemon as in the textbook; return its os pid."""
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(write_end, str(os.getpid()).encode())
                os.closerange(0, 51)
                while True:
                    signal.pause()
            os._exit(0)
        os.wait()
        os_pid = int(os.read(read_end, 20))
        os.close(read_end)
        os.close(write_end)
        return os_pid

    # --- folder, signals, threads, output ---

    @call
    def change_folder(self, path: str) -> str:
        os.mkdir(path)
        os.chdir(path)
        os.rmdir(path)
        return path

    @call
    def folder(self) -> str:
        return os.getcwd()

    @call
    def handle_signals(self) -> None:
        """Take every signal that one can take, and do nothing."""
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, _ignore)
        signal.set_wakeup_fd(-1)

    @call
    def segfault_without_faulthandler(self) -> None:
        faulthandler.disable()
        ctypes.string_at(0)

    @call
    def block_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    @call
    def set_alarm(self, handled: bool, started: str) -> None:
        if handled:
            signal.signal(signal.SIGALRM, self._ring)
        blow(started)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while True:
            pass

    def _ring(self, *_: object) -> None:
        raise TimeoutError("the alarm rang")

    @call
    def start_thread(self, started: str) -> None:
        """Leave a thread behind that works on, and is no daemon."""

        def work() -> None:
            blow(started)
            while True:
                time.sleep(600)

        threading.Thread(target=work, daemon=False).start()

    @call
    def flood(self, started: str, release: str, least: int = 100 * MIB) -> int:
        """Print 100 MB, and go on until the test has seen enough; return how many bytes."""
        blow(started)
        line = "x" * 999
        fifo = os.open(release, os.O_RDONLY | os.O_NONBLOCK)
        size = 0
        while size < least or not select.select([fifo], [], [], 0)[0]:
            for _ in range(1000):
                print(line)
            size += 1_000_000
        os.close(fifo)
        return size

    @cast
    def flood_on(self, started: str, release: str) -> None:
        self.flood(started, release, 10 * MIB)

    @call
    async def spin(self, started: str) -> None:
        """Never await."""
        blow(started)
        while True:
            pass


def _runtime_fds() -> dict[str, int]:
    """Return the numbers of the descriptors that a worker lives on."""
    client = current.client()
    found = {"control": client._control.fd}  # pyright: ignore[reportPrivateUsage]
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if int(name) > 50 and target.startswith("pipe:"):
            found["lifeline"] = int(name)
        elif "eventpoll" in target:
            found["loop"] = int(name)
        elif target.startswith("socket:") and int(name) != found["control"]:
            found["link"] = int(name)
    return found


def _limit_memory(limit: int, hard: int = resource.RLIM_INFINITY) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if hard != resource.RLIM_INFINITY:
        hard += used
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, hard))


def _ignore(number: int, frame: object) -> None:
    """Handle a signal in Python, and so not at all while C code runs."""


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


class _Deep:
    def __repr__(self) -> str:
        return repr([self])


class RecursesWhenSent:
    def __reduce__(self) -> Any:
        return self.__reduce__()


class RecursesWhenRead:
    def __getstate__(self) -> int:
        return 1

    def __setstate__(self, state: object) -> None:
        self.__setstate__(state)


class ExpectsRecursion(Hostile, expected=(RecursionError, RefusedError)):
    """Takes an endless recursion for something that may happen."""


class Tight(Hostile):
    """Leaves itself hardly any memory, each time it starts."""

    def init(self) -> None:
        _limit_memory(MIB, hard=4 * MIB)


async def stop_half_way(faulty: Ref[Faulty], os_pid: int, size: int) -> None:
    """Stop the process that something big is on its way to, when a part of it has left.

    The rest leaves by our own event loop, which stands still meanwhile.
    """
    link = current.client().route(faulty.sid, "").link
    assert link is not None

    def left() -> int:
        return link._backlog_size  # pyright: ignore[reportPrivateUsage]

    while not left():  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0)
    os.kill(os_pid, signal.SIGSTOP)
    assert 0 < left() < size


class Asker(GenServer):
    """A caller in a process of its own, whose end or sleep the test brings about."""

    @call
    def os_pid(self) -> int:
        return os.getpid()

    @call
    async def ask_for_big(self, faulty: Ref[Faulty], size: int) -> int:
        return len(await Faulty.big(faulty.within(None), size))

    @call
    async def ask_for_big_and_stop(self, hostile: Ref[Hostile], size: int, started: str) -> int:
        """Ask, and stop the whole process before anything can be read."""
        await Hostile.echo(hostile, 1)
        asking = Hostile.big_and_say(hostile.within(None), size, started)
        os.kill(os.getpid(), signal.SIGSTOP)
        return len(await asking)

    @call
    async def ask_for_big_without_memory(self, faulty: Ref[Faulty], size: int) -> int:
        await Faulty.echo(faulty, 1)
        _limit_memory(MIB)
        return len(await Faulty.big(faulty.within(None), size))

    @call
    async def send_text_without_memory(
        self, hostile: Ref[Hostile], size: int, room: int
    ) -> list[object]:
        """Send what there is memory for, but not for a copy of it; return what became of it."""
        await Hostile.step(hostile, 0)
        before = resource.getrlimit(resource.RLIMIT_AS)
        _limit_memory(room)
        said: list[object] = []
        try:
            await Hostile.echo(hostile, "x" * size)
        except MemoryError:
            said.append("no memory")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        return [*said, await Hostile.step(hostile, 1)]

    @call
    async def send_big(self, faulty: Ref[Faulty], size: int, started: str) -> int:
        os_pid = await Faulty.os_pid(faulty)
        sending = Faulty.size(faulty.within(None), bytes(size))
        await stop_half_way(faulty, os_pid, size)
        blow(started)
        return await sending

    @call
    async def call_often(self, hostile: Ref[Hostile], times: int, started: str) -> None:
        """Have many calls on their way, and say so."""
        calls = [Hostile.step(hostile.within(None), n) for n in range(times)]
        # When we know where it is, as many leave as its window and the socket take.
        await hostile.is_running()
        await asyncio.sleep(0)
        blow(started)
        await asyncio.gather(*calls)

    @call
    async def cast_and_stop(self, hostile: Ref[Hostile], times: int) -> Reply[None]:
        for n in range(times):
            await Hostile.note(hostile, n)
        return Reply(None, Stop())

    @call
    async def ask_and_block(
        self, faulty: Ref[Faulty], times: int, size: int, started: str, release: str
    ) -> list[int]:
        """Ask for much, and read none of it until we are told."""
        await Faulty.echo(faulty, 1)
        calls = [Faulty.big(faulty.within(None), size) for _ in range(times)]
        await asyncio.sleep(0)
        blow(started)
        listen(release)
        return [len(reply) for reply in await asyncio.gather(*calls)]


class Calls(NamedTuple):
    """How many calls a pump has made, and how long the slowest took, in seconds."""

    calls: int
    slowest: float


class Pump(GenServer):
    """Calls the counter called "target" without end, and writes down how often."""

    @call
    async def begin(self, path: str) -> None:
        await Counter.increment(named("target", Counter))
        self._pump(path, 1, 0.0)
        self.task = asyncio.create_task(self._run(path))

    async def _run(self, path: str) -> None:
        slowest = 0.0
        while True:
            begun = time.monotonic()
            calls = await Counter.increment(named("target", Counter))
            slowest = max(slowest, time.monotonic() - begun)
            self._pump(path, calls, slowest)
            # Often enough to see a pause, and the machine has other tests to run.
            await asyncio.sleep(0.001)

    def _pump(self, path: str, calls: int, slowest: float) -> None:
        # Replaced as a whole, so that nobody reads half a line.
        _write(f"{path}.new", f"{calls} {slowest}")
        os.rename(f"{path}.new", path)

    @staticmethod
    def read(path: Path) -> Calls:
        calls, slowest = path.read_text().split()
        return Calls(int(calls), float(slowest))


def _shortened(path: str) -> str:
    try:
        os.truncate(path, 0)
    except PermissionError as error:
        return str(error.strerror)
    return "it was made shorter"
