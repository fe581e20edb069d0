"""The zygote: a process of one thread that imports the application once and forks the workers.

The root executes its interpreter, with one end of a packet socket pair. It reads its configuration,
imports, audits, freezes the heap, and then forks a worker per request. It is the parent of all
workers: it reaps them and reports each wait status.

It never blocks on the root, runs no event loop, and starts no thread. When the root's end of
the pair closes, the root is gone: it ends everything that is left, and then itself.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from noex_mp.errors import PreloadError
from noex_mp.transport import fds, interpreters, lifeline, paths
from noex_mp.transport.packet_socket import PacketSocket, packet_socket
from noex_mp.transport.platform import DUMP_SIGNAL, FALLBACKS, open_fds
from noex_mp.wire import zygote_packets as packets
from noex_mp.worker import preload
from noex_mp.worker.bootstrap import EXIT_SOFTWARE, Birth, flush_output, run
from noex_mp.worker.rehearsal import fill_gaps, rehearse, rehearse_modules

# How long no request comes before the zygote looks for what dead workers left behind.
_QUIET: Final = 0.02  # seconds
# Under constant requests it looks after this time all the same.
_OVERDUE: Final = 1.0  # seconds
# What does not die of SIGKILL within this time hangs in the kernel; waiting would not help.
_LAST_SWEEP: Final = 5.0  # seconds
_LAST_CLOSE: Final = 1.0  # seconds
# In which `ru_maxrss` counts: kilobytes, but on macOS bytes.
_MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
# What a worker hears once it handles it by itself.
_LATER: Final = set[int]() if DUMP_SIGNAL is None else {DUMP_SIGNAL}
# The root pays for each byte of a failed preload's text; its end is what matters.
_MAX_TEXT: Final = 32 * 1024


# What a failed import's traceback begins with, and what is of no interest to the user.
_OUR_FRAMES: Final = (
    "noex_mp.worker.zygote",
    "noex_mp.worker.preload",
    "importlib",
    "importlib._bootstrap",
    "importlib._bootstrap_external",
    "_frozen_importlib",
    "_frozen_importlib_external",
)


class _RootGoneError(Exception):
    """The root closed its end."""


class Zygote:
    """The zygote's side of the request socket, and the workers it forked."""

    def __init__(self, requests: PacketSocket) -> None:
        self._requests = requests
        self._outbox: collections.deque[tuple[bytes, list[int]]] = collections.deque()
        self._workers: set[int] = set()
        self._unlink: list[str] = []
        # Only what the preload itself started: the look for orphans spares it.
        self._spared: set[int] = set()
        self._sweep_due = False
        self._last_sweep = 0.0
        self._wakeup, self._woken = _wakeup_pipe()
        self._signals_before = _Signals.now()
        self._mine: set[int] = {requests.fileno(), self._wakeup, self._woken}

    # --- becoming a zygote ---

    def prepare(self) -> bool:
        """Read the configuration and import the application; return whether that went well."""
        _, (config_fd, self._lifeline) = self._receive_first()
        self._mine.add(self._lifeline)
        with open(config_fd, "rb") as file:
            config = packets.ZygoteConfig.unpack(file.read())
        self._unlink += config.unlink
        _ignore_signals()
        try:
            with lifeline.tied_for_a_while(self._lifeline):
                self._preload(config)
        except preload.PreloadRefusedError as refusal:
            return self._fail(str(refusal))
        except BaseException as error:
            return self._fail(_how_it_failed(error))
        # From here on the zygote must outlive the root: to sweep.
        self._freeze()
        self._send([packets.READY])
        return True

    def _receive_first(self) -> tuple[list[Any], list[int]]:
        _poll(self._requests.fileno(), None)
        data, passed = self._requests.receive()
        if not data:
            raise _RootGoneError
        return packets.unpack(data), [fds.own(fds.high(fd)) for fd in passed]

    def _preload(self, config: packets.ZygoteConfig) -> None:
        gc.disable()
        self._config = config
        preload.take_over(config)
        changed = preload.set_thread_variables()
        self._entry = preload.import_runtime(config.entry)
        # What is garbage of all that stays. To look at it all takes longer than to start a worker.
        gc.freeze()
        fds.set_preloading(value=True)
        try:
            preload.import_application(config, self._report_import)
        finally:
            fds.set_preloading(value=False)
        # What a worker imports later sees what the user has set.
        for name in changed:
            os.environ.pop(name, None)

    def _report_import(self, name: str) -> None:
        self._send([packets.PRELOADING, name])

    def _fail(self, text: str) -> bool:
        flush_output()
        self._send([packets.PRELOAD_FAILED, text[-_MAX_TEXT:]])
        return False

    def _freeze(self) -> None:
        # The preload may have moved its own handlers in; the workers get them reset.
        _ignore_signals()
        _wake_on_sigchld(self._woken)
        self._signals = self._signals_before.changed()
        # Blocked for good, since a change for every fork would cost it a tenth of a millisecond:
        # what a worker gets before it handles them by itself waits until it does.
        blocked = (self._signals.keys() | _LATER) - {signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        # What stood in a buffer would be written by every worker.
        flush_output()
        # Of all forks from here on, only those of the user's code below a worker are not ours.
        fds.set_forking_a_worker(value=True)
        lifeline.become_subreaper()
        self._spared = set(lifeline.children())
        self._kept = frozenset(open_fds()) - self._mine - {0, 1, 2}
        with contextlib.suppress(Exception):
            # It is no more than that: without it the workers start all the same.
            rehearse()
            rehearse_modules(self._config.preload)
        gc.collect()
        self._gaps = fill_gaps()
        gc.freeze()

    # --- the loop ---

    def serve(self) -> NoReturn:
        """Fork and reap until the root is gone; then end everything and the process."""
        with contextlib.suppress(_RootGoneError):
            while True:
                self._turn()
        self.sweep_all()
        os._exit(0)

    def _turn(self) -> None:
        ready = self._wait()
        # Deaths first: a restart waits for the report.
        if self._wakeup in ready:
            _drain(self._wakeup)
            self._reap()
        self._flush()
        if self._requests.fileno() in ready:
            self._read_request()
        now = time.monotonic()
        if self._sweep_due and (not ready or now - self._last_sweep > _OVERDUE):
            self._sweep_due, self._last_sweep = False, now
            self._sweep_orphans()

    def _wait(self) -> set[int]:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        writing = select.POLLOUT if self._outbox or self._requests.unsent else 0
        poll.register(self._requests.fileno(), select.POLLIN | writing)
        if self._requests.has_packet:
            return {self._requests.fileno(), *_readable(poll, 0)}
        return _readable(poll, _QUIET * 1000 if self._sweep_due else None)

    def _read_request(self) -> None:
        try:
            data, passed = self._requests.receive()
        except BlockingIOError:
            return
        except fds.DescriptorsLostError as lost:
            self._refuse(packets.unpack(lost.data)[1], lost)
            return
        except ConnectionError:
            data, passed = b"", []
        if not data:
            raise _RootGoneError
        kind, *elements = packets.unpack(data)
        if kind == packets.FORK:
            request, fields = elements
            self._fork(request, fields, passed)
        elif kind == packets.UNLINK:
            self._unlink += elements

    # --- forking ---

    def _fork(self, request: int, fields: dict[str, Any], passed: list[int]) -> None:
        try:
            start = self._execute_worker if "exec" in fields else self._fork_worker
            os_pid = start(fields, passed)
            pidfd = self._adopt(os_pid)
        except OSError as error:
            self._refuse(request, error)
        else:
            self._send([packets.FORKED, request, os_pid], [pidfd] if pidfd != fds.NO_FD else [])
        finally:
            fds.close_all(passed)

    def _fork_worker(self, fields: dict[str, Any], passed: list[int]) -> int:
        control, stdout, stderr, black_box, names, *shared = passed
        os_pid = os.fork()
        if os_pid == 0:
            run(
                Birth(
                    entry=self._entry,
                    fields=fields,
                    control_fd=control,
                    stdout_fd=stdout,
                    stderr_fd=stderr,
                    black_box_fd=black_box,
                    names_fd=names,
                    shared_fd=shared[0] if shared else fds.NO_FD,
                    lifeline_fd=self._lifeline,
                    kept_fds=self._kept,
                    signals=self._signals,
                )
            )
        return os_pid

    def _execute_worker(self, fields: dict[str, Any], passed: list[int]) -> int:
        control, stdout, stderr, black_box, names, *shared = passed
        brief = {
            "config": asdict(self._config),
            "fields": fields,
            "control": control,
            "black_box": black_box,
            "names": names,
            "shared": shared[0] if shared else fds.NO_FD,
            "lifeline": self._lifeline,
        }
        file = fds.anonymous_file("noex-mp-brief")
        inherited = (file, control, black_box, names, *shared, self._lifeline)
        try:
            os.write(file, packets.pack(brief))
            os.lseek(file, 0, os.SEEK_SET)
            for fd in inherited:
                os.set_inheritable(fd, True)
            # Not by subprocess: it would wait for this child behind our back.
            argv = interpreters.command("noex_mp.worker.fresh", str(file), self._config.label)
            return os.posix_spawn(
                argv[0],
                argv,
                interpreters.environment(_changed(os.environ, fields["exec"])),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, stdout, 1),
                    (os.POSIX_SPAWN_DUP2, stderr, 2),
                ],
                setpgroup=0,
                setsigmask=_LATER,
                # SIGINT stays ignored: Ctrl-C goes to the root, which stops its workers in order.
                # So does what the program ignores itself: that is not handled differently here.
                setsigdef={signal.SIGTERM, signal.SIGHUP} & self._signals.keys(),
            )
        finally:
            os.set_inheritable(self._lifeline, False)
            os.close(file)

    def _adopt(self, os_pid: int) -> int:
        self._workers.add(os_pid)
        # The worker does it too; whoever comes first. Its group must exist before we kill it.
        with contextlib.suppress(OSError):
            os.setpgid(os_pid, os_pid)
        try:
            return fds.open_pidfd(os_pid)
        except OSError:
            _kill(os_pid)
            raise

    def _refuse(self, request: int, error: OSError) -> None:
        text = f"the zygote cannot fork a worker: {os.strerror(error.errno or 0)}"
        self._send([packets.FORK_FAILED, request, error.errno or 0, text])

    # --- reaping ---

    def _reap(self) -> None:
        for os_pid, status, peak_rss in _dead_children(self._kill_leftovers):
            # Whatever died may have left children, which are ours now.
            self._sweep_due = True
            self._spared.discard(os_pid)
            if os_pid in self._workers:
                self._workers.remove(os_pid)
                self._send([packets.EXITED, os_pid, status, peak_rss])

    def _kill_leftovers(self, os_pid: int) -> None:
        if os_pid in self._workers:
            _kill_group(os_pid)

    def _sweep_orphans(self) -> None:
        for os_pid in lifeline.children():
            if os_pid not in self._workers and os_pid not in self._spared:
                _kill(os_pid)

    def sweep_all(self) -> None:
        """End every process that this one is responsible for, and remove the named files."""
        deadline = time.monotonic() + _LAST_SWEEP
        for os_pid in self._workers:
            _kill_group(os_pid)
        while (left := lifeline.children()) and time.monotonic() < deadline:
            for os_pid in left:
                _kill(os_pid)
            # Each death may hand us more children.
            _poll(self._wakeup, 0.02)
            _drain(self._wakeup)
            self._reap()
            self._flush()
        for path in map(Path, self._unlink):
            with contextlib.suppress(OSError):
                self._remove(path)

    def _remove(self, path: Path) -> None:
        deadline = time.monotonic() + _LAST_CLOSE
        paths.remove_stale(path.parent, path.name)
        # Somebody listens there: the root's successor, or still the root, which is dead, and in the
        # middle of closing what it had open.
        while path.is_socket() and time.monotonic() < deadline:
            _drain(self._wakeup)
            _poll(self._wakeup, 0.02)
            paths.remove_stale(path.parent, path.name)

    # --- sending ---

    def _send(self, packet: list[Any], passed: Iterable[int] = ()) -> None:
        self._outbox.append((packets.pack(packet), list(passed)))
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(OSError):
            self._requests.flush()
        while self._outbox:
            data, passed = self._outbox[0]
            try:
                self._requests.send(data, passed)
            except BlockingIOError:
                return
            except OSError:
                # The root is gone. The loop sees that too, and sweeps.
                pass
            self._outbox.popleft()
            for fd in passed:
                os.close(fd)


def _how_it_failed(error: BaseException) -> str:
    """Return the text for a failed import: our own sentence, else the user's own traceback."""
    refusal: Any = error
    while isinstance(refusal, BaseExceptionGroup):
        # Of a task group. What else it holds comes from the refusal.
        group: Any = refusal.subgroup(PreloadError)  # pyright: ignore[reportUnknownMemberType]
        refusal = group and group.exceptions[0]
    if isinstance(refusal, PreloadError):
        return str(refusal)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "") in _OUR_FRAMES:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(error.with_traceback(trace)))
    if isinstance(error, SystemExit):
        text += 'Put what ends the program under: if __name__ == "__main__":\n'
    return f"it cannot be imported by a worker process:\n{text}"


# --- small things of the operating system --------------------------------------------------------


@dataclass(frozen=True)
class _Signals:
    """How this process handles its signals, as Python and as the kernel see it."""

    handlers: dict[int, Any]
    kernel: dict[int, tuple[bool, bool]]  # ignored, caught

    @classmethod
    def now(cls) -> _Signals:
        numbers = [int(n) for n in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}]
        return cls({n: signal.getsignal(n) for n in numbers}, _as_the_kernel_sees_them(numbers))

    def changed(self) -> dict[int, Any]:
        """Return the old handlers of the signals that are handled differently now.

        The kernel's view shows what C code has installed, of which Python knows nothing.
        """
        now = _Signals.now()
        return {
            n: handler
            for n, handler in self.handlers.items()
            # None: something that is not Python's own; it cannot be set again from here.
            if handler is not None
            and (now.handlers[n] is not handler or now.kernel.get(n) != self.kernel.get(n))
        }


def _as_the_kernel_sees_them(numbers: list[int]) -> dict[int, tuple[bool, bool]]:
    if sys.platform != "linux" or FALLBACKS:
        return {}
    status = Path("/proc/self/status").read_text()
    ignored, caught = (_mask(status, name) for name in ("SigIgn", "SigCgt"))
    return {n: (bool(ignored >> n - 1 & 1), bool(caught >> n - 1 & 1)) for n in numbers}


def _mask(status: str, name: str) -> int:
    return int(status.partition(f"\n{name}:")[2].split(maxsplit=1)[0], 16)


def _ignore_signals() -> None:
    """Ignore what ends programs: the zygote ends when the root does, and not before."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _changed(environ: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return the variables with some set, and those removed that are None."""
    both = {**environ, **changes}
    return {name: value for name, value in both.items() if value is not None}


def _wakeup_pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    return fds.own(fds.high(read_end)), fds.own(fds.high(write_end))


def _wake_on_sigchld(write_end: int) -> None:
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _wake)


def _wake(number: int, frame: object) -> None:
    """Do nothing: the byte that comes with the signal has ended the poll."""


def _drain(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 4096):
            pass


def _readable(poll: select.poll, timeout: float | None) -> set[int]:
    # POLLOUT alone is answered by the flush of every turn.
    return {fd for fd, events in poll.poll(timeout) if events & ~select.POLLOUT}


def _poll(fd: int, timeout: float | None) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(None if timeout is None else timeout * 1000)


def _dead_children(before_reaping: Callable[[int], None]) -> Iterable[tuple[int, int, int]]:
    """Reap the children that have ended; give os pid, wait status and peak memory of each.

    Args:
        before_reaping: Is called while the number still belongs to the dead one; or right
            after that, where the system cannot wait in two steps.
    """
    with contextlib.suppress(ChildProcessError):
        if sys.platform == "linux" and not FALLBACKS:
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                before_reaping(dead.si_pid)
                os_pid, status, usage = os.wait4(dead.si_pid, 0)
                yield os_pid, status, usage.ru_maxrss * _MAXRSS_UNIT
        else:
            while (reaped := os.wait4(-1, os.WNOHANG))[0]:
                before_reaping(reaped[0])
                yield *reaped[:2], reaped[2].ru_maxrss * _MAXRSS_UNIT


def _kill_group(os_pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(os_pid, signal.SIGKILL)


def _kill(os_pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(os_pid, signal.SIGKILL)


def main(fd: int) -> NoReturn:
    """Be a zygote on the request socket `fd`."""
    # The root's thread may have blocked signals, and SIGCHLD must get through.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    fds.open_standard_fds()
    fds.raise_fd_limit()
    requests = packet_socket(fds.high_socket(socket.socket(fileno=fd)))
    try:
        zygote = Zygote(requests)
        if zygote.prepare():
            zygote.serve()
        zygote.sweep_all()
    except _RootGoneError:
        os._exit(0)
    os._exit(EXIT_SOFTWARE)
