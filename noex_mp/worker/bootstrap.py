"""The first acts of a forked worker, before any code of the user's runs in it.

The worker starts as a copy of the zygote. Step by step it becomes a process of its own: its own
group, the signals as they were, no descriptor that is not meant for it, tied to the lifeline.
Then it runs its entry, `noex_mp.worker.host:main`, and never returns into the zygote's code.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingModuleSource]
import contextlib
import faulthandler
import gc
import io
import itertools
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from noex_mp.transport import fds, lifeline
from noex_mp.transport.platform import DUMP_SIGNAL

# sysexits.h: an internal error. Ours, not the server's.
EXIT_SOFTWARE: Final = 70
# As numbers: to look at an enum writes to its page.
_HANG_UP: Final = int(signal.SIGHUP)
_DEFAULT: Final = int(signal.SIG_DFL)
# Where to stop closing when there is no limit.
_MANY: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What a new worker knows of itself.

    Attributes:
        control_fd: Its end of the control socket to the root; non-blocking.
        black_box_fd: The file in memory that the root reads after a death.
        names_fd: The log of names, which it reads.
        shared_fd: The file that values are shared in, or `NO_FD`.
        stderr_fd: The pipe for standard error once more, out of the way of user code.
        black_box_offset: Where this worker's region of it begins, in bytes.
        node: The id of the node.
        worker: The number of the worker.
        token: The node's token of this run.
        fields: Everything that came with the request to fork.
    """

    control_fd: int
    black_box_fd: int
    names_fd: int
    stderr_fd: int
    shared_fd: int = fds.NO_FD
    black_box_offset: int = 0
    node: str = ""
    worker: int = 0
    token: bytes = b""
    fields: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Birth:
    """What the zygote hands to the worker that it has just forked.

    Attributes:
        entry: The function to run.
        fields: What came with the request. Read here: `node`, `worker`, `token`,
            `black_box_offset`, `core_dumps`.
        control_fd: The control socket.
        stdout_fd: The pipe for standard output.
        stderr_fd: The pipe for standard error.
        black_box_fd: The file for the last words.
        names_fd: The log of names.
        shared_fd: The file that values are shared in, or `NO_FD`.
        lifeline_fd: The zygote's read end of the lifeline.
        kept_fds: What the preload left open on purpose, such as a log file.
        signals: What to do at each signal that the zygote or the preload handles differently.
    """

    entry: Callable[[Boot], object]
    fields: dict[str, Any]
    control_fd: int
    stdout_fd: int
    stderr_fd: int
    black_box_fd: int
    names_fd: int
    lifeline_fd: int
    shared_fd: int = fds.NO_FD
    kept_fds: frozenset[int] = frozenset()
    signals: Mapping[int, Any] = field(default_factory=dict[int, Any])


def run(birth: Birth) -> NoReturn:
    """Become a worker and run the entry; end the process with its status.

    The signals that it handles or resets are blocked when this is called. The entry's `SystemExit`
    gives the status, its return means 0, any other exception 70, with the traceback on standard
    error.
    """
    status = EXIT_SOFTWARE
    try:
        birth.entry(_become_worker(birth))
        status = 0
    except SystemExit as end:
        status = _status_of(end)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            flush_output()
        os._exit(status)


def flush_output() -> None:
    """Write out what standard output and error still hold, where that is possible."""
    for stream in (sys.stdout, sys.stderr):
        # Closed, replaced by something odd, or a reader that is gone: nothing we could do.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def end_fork(error: BaseException | None) -> NoReturn:
    """End a process that a handler forked and that comes back from it, as a program would end.

    Args:
        error: What left the handler; None if it returned, which is a mistake.
    """
    status = EXIT_SOFTWARE
    with contextlib.suppress(BaseException):
        if isinstance(error, SystemExit):
            status = _status_of(error)
        elif error is not None:
            status = 1
            traceback.print_exception(error)
        else:
            sys.stderr.write(f"noex-mp: {_BACK_FROM_HANDLER}\n")
        flush_output()
    os._exit(status)


_BACK_FROM_HANDLER: Final = (
    "a process that a handler forked came back from the handler, and was ended: there it would "
    "be a second server with the same messages; end it with os._exit, or use subprocess"
)


def _status_of(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    print(end.code, file=sys.stderr)  # noqa: T201
    return 1


def _become_worker(birth: Birth) -> Boot:
    os.setpgid(0, 0)
    _reset_signals(birth.signals)
    boot = _take_descriptors(birth)
    lifeline.become_subreaper()
    reseed_numpy()
    _listen_for_faults(boot)
    # Not before: the root may have asked already, and its signal would be the end of this.
    _signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if not birth.fields.get("core_dumps"):
        # Writing out a core of 400 MB delays the news of the death by 0.4 s.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    gc.enable()
    return boot


def _reset_signals(original: Mapping[int, Any]) -> None:
    signal.set_wakeup_fd(-1)
    # Else it believes later that its handlers are still in place.
    faulthandler.disable()
    # Not by the functions of the module signal: those make enums of all they take and return, which
    # writes to 25 pages that the worker shares with the zygote.
    for number, handler in original.items():
        # Ctrl-C goes to the root, which stops its workers in order: ignored, as in the zygote.
        if number != signal.SIGINT:
            _signal.signal(number, handler if callable(handler) else int(handler))
    outlive_the_zygote()


def outlive_the_zygote() -> None:
    """Let SIGHUP end this process no more.

    The zygote alone ties its group to the session. When that dies, and a member is stopped (by a
    debugger, or by us for a moment), the kernel sends SIGHUP to all of them.
    """
    # As it is, where whoever has started the program ignores it (nohup). Elsewhere it is not
    # ignored: unlike a handler, that would go on to the programs that are executed here.
    if _signal.getsignal(_HANG_UP) == _DEFAULT:
        _signal.signal(_HANG_UP, _go_on)
        # Nor is it to interrupt what C code waits for.
        _signal.siginterrupt(_HANG_UP, False)


def _go_on(number: int, frame: object) -> None:
    """Do nothing."""


def _take_descriptors(birth: Birth) -> Boot:
    os.dup2(birth.stdout_fd, 1)
    os.dup2(birth.stderr_fd, 2)
    mine = {birth.control_fd, birth.black_box_fd, birth.names_fd, birth.lifeline_fd}
    if birth.shared_fd != fds.NO_FD:
        mine.add(birth.shared_fd)
    _close_all_but({0, 1, 2, *mine, *birth.kept_fds})
    fds.start_register()
    lifeline.arm(birth.lifeline_fd)
    os.close(birth.lifeline_fd)
    for stream in (sys.stdout, sys.stderr):
        # A pipe would keep a line until its buffer is full, and lose it when the worker is killed.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    fields = birth.fields
    return Boot(
        control_fd=fds.own(fds.high(birth.control_fd)),
        black_box_fd=fds.own(fds.high(birth.black_box_fd)),
        names_fd=fds.own(fds.high(birth.names_fd)),
        stderr_fd=fds.own(fds.high(os.dup(2))),
        shared_fd=birth.shared_fd,
        black_box_offset=fields.get("black_box_offset", 0),
        node=fields.get("node", ""),
        worker=fields.get("worker", 0),
        token=fields.get("token", b""),
        fields=fields,
    )


def _close_all_but(kept: set[int]) -> None:
    """Close every other descriptor: one call to the kernel for each gap."""
    numbers = sorted(kept)
    for left, right in itertools.pairwise(numbers):
        os.closerange(left + 1, right)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.closerange(numbers[-1] + 1, _MANY if limit == resource.RLIM_INFINITY else limit)


def reseed_numpy() -> None:
    """Give numpy's old generator, if numpy is loaded, a seed of this process's own."""
    # The standard library's `random` sees to itself after a fork.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _listen_for_faults(boot: Boot) -> None:
    # faulthandler writes at the descriptor's offset, so it needs one that nobody else moves.
    last_words = lifeline.own_description(boot.black_box_fd)
    os.lseek(last_words, boot.black_box_offset, os.SEEK_SET)
    faulthandler.enable(last_words)
    if DUMP_SIGNAL is not None:
        # In C, and without the GIL: the root asks before it kills a worker that hangs.
        faulthandler.register(DUMP_SIGNAL, last_words)
