"""The root's end of the zygote: start it, ask it for workers, hear of their deaths.

```python
zygote = await Zygote.start(loop, config, lifeline, on_exit, on_death)
await zygote.ready()
os_pid, pidfd = await zygote.fork([control, stdout, stderr, black_box], {"worker": 1})
```

The root never forks: it executes a fresh interpreter. Everything here runs in the loop that was
given to `start`, asyncio's or uvloop's.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from noex_mp.errors import PreloadError
from noex_mp.transport import fds, interpreters
from noex_mp.transport.packet_socket import PacketSocket, packet_pair
from noex_mp.wire import zygote_packets as packets
from noex_mp.wire.classes import main_program

# More requests on their way gain nothing, and the kernel limits the descriptors in flight.
_WINDOW: Final = 64
# When that limit is reached all the same, by others, try again.
_RETRY: Final = 0.005  # seconds
# How often to look whether the zygote has ended, once it has closed its socket; where there are
# no pidfds.
_LOOK_AGAIN: Final = 0.005  # seconds
# The zygote itself gives up on a sweep after 5 s.
_CLOSE_TIMEOUT: Final = 7.0  # seconds


def config_of_this_process(**options: Any) -> packets.ZygoteConfig:
    """Return the configuration that makes a zygote look like this process.

    Args:
        options: Fields of `ZygoteConfig`; `main_of_this_process()` gives two of them.
    """
    seen: dict[str, Any] = {
        "sys_path": list(sys.path),
        "cwd": _current_folder(),
        "argv": list(sys.argv),
        "environ": dict(os.environ),
    }
    return packets.ZygoteConfig(**(seen | options))


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        # It has been removed; whoever is executed from here is there too.
        return os.curdir


def main_of_this_process() -> dict[str, str | None]:
    """Return `main_path` or `main_name` of the user's program, where it can be imported again."""
    main = main_program()
    if main is None or main.path is None:
        return {"main_name": None if main is None else main.name}
    return {"main_path": str(Path(main.path).absolute())}


class Zygote:
    """A running zygote process.

    Attributes:
        os_pid: Its process id.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        process: subprocess.Popen[bytes],
        requests: PacketSocket,
        on_exit: Callable[[int, int, int], None],
        on_death: Callable[[], None],
    ) -> None:
        self.os_pid = process.pid
        self._loop = loop
        self._process = process
        self._requests = requests
        self._on_exit = on_exit
        self._on_death = on_death
        self._pidfd = _own(fds.open_pidfd(process.pid))
        self._ready: asyncio.Future[None] = loop.create_future()
        # Nobody has to wait for it.
        self._ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._ended: asyncio.Future[None] = loop.create_future()
        self._failure: Exception | None = None
        self._importing = ""
        self._closing = False
        self._retry: asyncio.TimerHandle | None = None
        self._last_request = 0
        self._forks: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._on_their_way = 0
        self._outbox: collections.deque[tuple[int, bytes, Sequence[int]]] = collections.deque()
        loop.add_reader(requests.fileno(), self._read)
        if self._pidfd != fds.NO_FD:
            loop.add_reader(self._pidfd, self._dead)

    @classmethod
    async def start(
        cls,
        loop: asyncio.AbstractEventLoop,
        config: packets.ZygoteConfig,
        lifeline: int,
        on_exit: Callable[[int, int, int], None],
        on_death: Callable[[], None],
    ) -> Zygote:
        """Execute a zygote and hand it its configuration; `ready` waits for the preload.

        Args:
            loop: The running loop.
            config: What the zygote makes of itself.
            lifeline: The read end of the node's lifeline; it stays the caller's.
            on_exit: Is called with the os pid, the wait status and the peak memory, in bytes, of
                each worker that ended, after its `fork` has returned to a task that awaits it
                directly.
            on_death: Is called when the zygote died without being asked to; running workers
                live on.
        """
        ours, theirs = packet_pair()
        try:
            process = _execute(theirs.fileno(), config)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            zygote = cls(loop, process, ours, on_exit, on_death)
        except BaseException:
            process.kill()
            process.wait()
            fds.disown(ours.fileno())
            ours.close()
            raise
        try:
            zygote._configure(config, lifeline)
        except BaseException:
            await zygote.close()
            raise
        return zygote

    def _configure(self, config: packets.ZygoteConfig, lifeline: int) -> None:
        file = fds.anonymous_file("noex-mp-config")
        try:
            os.write(file, config.pack())
            os.lseek(file, 0, os.SEEK_SET)
            with contextlib.suppress(ConnectionError):
                self._requests.send(packets.pack([packets.CONFIGURE]), [file, lifeline])
        finally:
            os.close(file)

    @property
    def ended(self) -> bool:
        """Whether its process has ended and was reaped."""
        return self._ended.done()

    @property
    def importing(self) -> str:
        """The module whose import has begun last; empty if none has."""
        return self._importing

    @property
    def was_ready(self) -> bool:
        """Whether the application was preloaded."""
        ready = self._ready
        return ready.done() and not ready.cancelled() and ready.exception() is None

    # --- what the node asks for ---

    async def ready(self) -> None:
        """Wait until the application is preloaded.

        Raises:
            PreloadError: It could not be; the text says why.
        """
        await asyncio.shield(self._ready)

    async def failed(self) -> None:
        """End what is left of a zygote whose preload failed, and wait for that."""
        self._kill()
        await asyncio.wait((self._ended,))

    async def fork(self, passed: Sequence[int], fields: dict[str, Any]) -> tuple[int, int]:
        """Return the os pid and a pidfd (or `NO_FD`) of a new worker.

        It may be called before `ready`; the request waits at the zygote then. When the caller is
        cancelled, the worker that may come all the same is killed.

        Args:
            passed: The worker's control socket, standard output, standard error, black box,
                log of names. They
                stay the caller's, and open until this returns.
            fields: What the worker's `Boot` holds; small (128 KiB).

        Raises:
            PreloadError: There is no zygote, because its preload failed.
            ConnectionResetError: The zygote has died, or is closed.
            OSError: The system has no room for another process.
        """
        if self._failure is not None:
            raise self._failure
        self._last_request = request = self._last_request + 1
        data = packets.pack([packets.FORK, request, fields])
        if len(data) > packets.MAX_PACKET:
            raise ValueError(
                f"a request to fork has at most {packets.MAX_PACKET} bytes, got {len(data)}; "
                f"send large values on the control socket"
            )
        forked: asyncio.Future[tuple[int, int]] = self._loop.create_future()
        self._forks[request] = forked
        self._outbox.append((request, data, passed))
        self._flush()
        try:
            return await forked
        except asyncio.CancelledError:
            # The answer may have come in the same turn of the loop as the cancellation.
            if forked.done() and not forked.cancelled() and forked.exception() is None:
                _discard(*forked.result())
            raise
        finally:
            del self._forks[request]

    def unlink_at_end(self, path: str) -> None:
        """Have the zygote remove the file at `path` when the root is gone."""
        self._outbox.append((0, packets.pack([packets.UNLINK, path]), ()))
        self._flush()

    async def close(self) -> None:
        """End the zygote and all that runs below it, and wait for it, at most 7 s."""
        if self._ended.done():
            return
        if not self._closing:
            self._closing = True
            self._fail(ConnectionResetError("the node's zygote is closed"))
            if self._ready.done() and not self._ready.exception():
                # The zygote reads the end, sweeps, and may still report exits meanwhile.
                self._requests.end()
            else:
                self._kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._ended), _CLOSE_TIMEOUT)
        if not self._ended.done():
            self._kill()
            await self._ended

    def _kill(self) -> None:
        if self._process.returncode is not None:
            return  # reaped: its number may be another's by now
        # Its group: what the preload has started goes with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.os_pid, signal.SIGKILL)
        self._process.kill()

    # --- sending ---

    def _flush(self) -> None:
        try:
            self._requests.flush()
            self._send_requests()
        except BlockingIOError:
            self._flush_later()
        except ConnectionError:
            # The news of its death is on its way to us.
            return
        if self._requests.unsent:
            self._flush_later()

    def _send_requests(self) -> None:
        while self._outbox and self._on_their_way < _WINDOW and self._failure is None:
            request, data, passed = self._outbox[0]
            if request and request not in self._forks:
                # Its caller was cancelled; the descriptors may be closed by now.
                self._outbox.popleft()
                continue
            self._requests.send(data, passed)
            self._outbox.popleft()
            self._on_their_way += bool(request)

    def _flush_later(self) -> None:
        if self._retry is None:
            self._retry = self._loop.call_later(_RETRY, self._flush_now)

    def _flush_now(self) -> None:
        self._retry = None
        self._flush()

    # --- receiving ---

    def _read(self) -> None:
        # All that is there, so that exits in a row cost one wake-up.
        while True:
            try:
                data, passed = self._requests.receive()
            except BlockingIOError:
                return
            except fds.DescriptorsLostError as lost:
                self._lost(*packets.unpack(lost.data)[1:])
                continue
            except ConnectionError:
                data, passed = b"", []
            if not data:
                # The pidfd says the rest. Should the zygote live without its socket, it is of
                # no use to anybody.
                self._loop.remove_reader(self._requests.fileno())
                self._kill()
                if self._pidfd == fds.NO_FD:
                    self._look_for_its_end()
                return
            self._receive(packets.unpack(data), passed)

    def _receive(self, packet: list[Any], passed: list[int]) -> None:
        match packet:
            case [packets.FORKED, request, os_pid]:
                self._forked(request, os_pid, passed[0] if passed else fds.NO_FD)
            case [packets.EXITED, os_pid, status, peak_rss]:
                # One turn later: the task that awaits this worker's fork comes first.
                self._loop.call_soon(self._on_exit, os_pid, status, peak_rss)
            case [packets.FORK_FAILED, request, number, text]:
                self._answer(request, OSError(number, text))
            case [packets.PRELOADING, name]:
                self._importing = name
            case [packets.READY]:
                if not self._ready.done():
                    self._ready.set_result(None)
            case [packets.PRELOAD_FAILED, text]:
                self._fail(PreloadError(text))
            case _:
                fds.close_all(passed)

    def _forked(self, request: int, os_pid: int, pidfd: int) -> None:
        pidfd = _own(pidfd)
        waiting = self._forks.get(request)
        self._on_their_way -= 1
        if waiting is None or waiting.done():
            # Nobody wants this worker any more.
            _discard(os_pid, pidfd)
        else:
            waiting.set_result((os_pid, pidfd))
        self._flush()

    def _lost(self, request: int, *_: Any) -> None:
        self._answer(request, fds.DescriptorsLostError(b""))

    def _answer(self, request: int, error: OSError) -> None:
        self._on_their_way -= 1
        waiting = self._forks.get(request)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        self._flush()

    # --- the end ---

    def _look_for_its_end(self) -> None:
        if self._process.poll() is None:
            self._loop.call_later(_LOOK_AGAIN, self._look_for_its_end)
        elif not self._ended.done():
            self._dead()

    def _dead(self) -> None:
        """Reap the zygote, after what it still had to say."""
        if self._retry is not None:
            self._retry.cancel()
        if self._pidfd != fds.NO_FD:
            self._loop.remove_reader(self._pidfd)
            self._read()
            self._loop.remove_reader(self._requests.fileno())
            fds.close(self._pidfd)
        self._requests.close()
        status = self._process.wait()
        if not self._ready.done():
            self._fail(PreloadError(self._last_words(status)))
        self._fail(ConnectionResetError(f"the node's zygote {self.os_pid} has died ({status})"))
        self._ended.set_result(None)
        if not self._closing:
            self._loop.call_soon(self._on_death)

    def _last_words(self, status: int) -> str:
        how = f"exited with status {status}" if status >= 0 else f"was killed by signal {-status}"
        where = f"while it imported {self._importing}" if self._importing else "at its start"
        return f"the process that preloads the application {how} {where}"

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        if not self._ready.done():
            self._ready.set_exception(self._failure)
        for waiting in list(self._forks.values()):
            if not waiting.done():
                waiting.set_exception(self._failure)


def _discard(os_pid: int, pidfd: int) -> None:
    """Kill a worker that nobody wants any more."""
    fds.send_signal(pidfd, os_pid, signal.SIGKILL)
    if pidfd != fds.NO_FD:
        fds.close(pidfd)


def _own(pidfd: int) -> int:
    return pidfd if pidfd == fds.NO_FD else fds.own(fds.high(pidfd))


def _execute(request_fd: int, config: packets.ZygoteConfig) -> subprocess.Popen[bytes]:
    """Execute the zygote's interpreter: a group of its own, one descriptor, no stdin."""
    return subprocess.Popen(
        interpreters.command(
            "noex_mp.worker.zygote", str(request_fd), *filter(None, [config.label])
        ),
        stdin=subprocess.DEVNULL,
        env=interpreters.environment(config.environ),
        pass_fds=[request_fd],
        process_group=0,
    )
