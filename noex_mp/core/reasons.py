"""Why a server ended, and the report that says so.

A reason is one of a few small dataclasses, to be taken apart with `match`; `render` is the one
function that puts a reason into words, for logs, errors and the command line alike.

```python
>>> render(Killed("SIGKILL"))
'killed by SIGKILL'
>>> is_abnormal(Shutdown("node is stopping"))
False

```

Promise: plain data and pure functions, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, assert_never

__all__ = [
    "Begun",
    "Crash",
    "ExitReason",
    "ExitReport",
    "Exited",
    "Hung",
    "InitFailed",
    "InitTimedOut",
    "Killed",
    "Linked",
    "NoServer",
    "Normal",
    "OutOfMemory",
    "Replaced",
    "RootDied",
    "Rule",
    "Shutdown",
    "ShutdownTimedOut",
    "Unknown",
    "Verdict",
    "is_abnormal",
    "render",
]

# A message longer than this would bury the rest of a log line.
_MAX_TEXT: Final = 200


@dataclass(frozen=True)
class Normal:
    """The server had done its work and stopped by itself."""


@dataclass(frozen=True)
class Shutdown:
    """The server was told to stop, or stopped in good order for a reason of its own.

    Attributes:
        detail: Why, for people; may be empty.
    """

    detail: str = ""


@dataclass(frozen=True)
class Crash:
    """An exception left one of the server's callbacks or operations.

    Attributes:
        error: The name of the exception's class.
        message: Its text; may be empty and may have several lines.
    """

    error: str
    message: str


@dataclass(frozen=True)
class Exited:
    """The server's process ended by itself, for example through `os._exit`.

    This is abnormal whatever the code: a server that is done says so with `Stop()`.

    Attributes:
        code: The exit status, 0 to 255.
    """

    code: int


@dataclass(frozen=True)
class Killed:
    """A signal ended the server's process.

    Attributes:
        signal: The signal's name, for example `SIGKILL`.
    """

    signal: str


@dataclass(frozen=True)
class OutOfMemory:
    """The server's process had more memory than it may have, or than there was.

    Without a `limit` the system killed it to get memory back. The evidence: SIGKILL, not from us,
    and the kernel has counted an OOM kill in the node's cgroup (see `ExitReport.oom_kills`) that no
    other death explains.

    Attributes:
        limit: Its `memory_limit`, in bytes, if that ended it.
        used: The private memory that it had, in bytes; None where it was refused more at once,
            with a `MemoryError`.
    """

    limit: int | None = None
    used: int | None = None


Verdict: TypeAlias = Literal["python", "c", "blocked", "waiting", "stopped", "unknown"]
"""What a process was doing whose handler took too long.

- `python`: It computed in Python.
- `c`: It computed in C code, which kept the GIL: no Python could run.
- `blocked`: It was blocked in a system call.
- `waiting`: An async handler awaited something, and the event loop was idle.
- `stopped`: A signal had stopped it, as SIGSTOP does.
- `unknown`: The system does not say; as on macOS.
"""


@dataclass(frozen=True)
class Hung:
    """A handler of the server took longer than its `hang_timeout`, and its process was killed.

    So it is with the task of a pool that somebody wanted to stop, and that went on all the same.

    Attributes:
        limit: The time it had, in seconds; for which a task had run.
        verdict: What its process was doing.
        system_call: The name of the system call in which it was blocked, or empty.
        callback: The operation or callback that hung.
    """

    limit: float
    verdict: Verdict = "unknown"
    system_call: str = ""
    callback: str = ""


@dataclass(frozen=True)
class InitFailed:
    """The server's constructor or `init` raised, or its process ended in it.

    Attributes:
        detail: What happened, in a sentence.
    """

    detail: str


@dataclass(frozen=True)
class InitTimedOut:
    """The server's `init` took too long.

    Attributes:
        limit: The time it had, in seconds.
    """

    limit: float


@dataclass(frozen=True)
class ShutdownTimedOut:
    """The server was told to stop, did not, and was ended by force.

    Attributes:
        limit: The time it had, in seconds.
    """

    limit: float


@dataclass(frozen=True)
class Linked:
    """A server ended to which this one was linked.

    Attributes:
        server: The first of the chain to end, for people.
        reason: Why that one ended.
    """

    server: str
    reason: ExitReason


@dataclass(frozen=True)
class RootDied:
    """The root process of the server's node has died, and all of the node with it.

    There is nobody who could have seen how the server ended: a program outside of the node
    concludes it, from the end of the root.

    Attributes:
        os_pid: The root process, as the operating system counts; 0 where nobody knows.
    """

    os_pid: int


@dataclass(frozen=True)
class NoServer:
    """There is no such server, or no more: what `monitor` and `link` say of it."""


@dataclass(frozen=True)
class Replaced:
    """The server was taken down in good order, so that its next incarnation has other code.

    That is a reload: `node.reload()` or `noex-mp reload`. The next incarnation starts at once.
    """


@dataclass(frozen=True)
class Unknown:
    """The server's process is gone, and nobody could learn why.

    Attributes:
        detail: What is missing, for people; may be empty.
    """

    detail: str


ExitReason: TypeAlias = (
    Normal
    | Shutdown
    | Crash
    | Exited
    | Killed
    | OutOfMemory
    | Hung
    | InitFailed
    | InitTimedOut
    | ShutdownTimedOut
    | Linked
    | RootDied
    | NoServer
    | Replaced
    | Unknown
)
"""Any reason for the end of a server."""


def is_abnormal(reason: ExitReason) -> bool:
    """Return whether a transient server is started again after this reason.

    As in OTP, `Normal` and `Shutdown` are normal, and so is `Replaced`; all others are not. What a
    link has ended counts as the first of the chain.
    """
    while isinstance(reason, Linked):
        reason = reason.reason
    return not isinstance(reason, Normal | Shutdown | Replaced)


def render(reason: ExitReason) -> str:
    """Return the reason in words, on one line, to follow a server's name.

    ```python
    >>> render(Crash("ValueError", "by must not be negative"))
    'crashed with ValueError: by must not be negative'

    ```
    """
    match reason:
        case Normal():
            return "stopped normally"
        case Shutdown(detail):
            return _with("was shut down", detail)
        case Crash(error, message):
            return _with(f"crashed with {error}", message)
        case Exited(code):
            return f"exited with status {code}"
        case Killed(signal):
            return f"killed by {signal}"
        case OutOfMemory(limit, used):
            return _out_of_memory(limit, used)
        case Hung():
            return _hung(reason)
        case InitFailed(detail):
            return _with("failed in its init", detail)
        case InitTimedOut(limit):
            return f"did not finish its init within {limit:g} s"
        case ShutdownTimedOut(limit):
            return f"did not stop within {limit:g} s and was killed"
        case Linked(server, first):
            return f"ended with {server}, to which it was linked and which {render(first)}"
        case RootDied(os_pid):
            which = f" (os pid {os_pid})" if os_pid else ""
            return f"ended with the root process of its node{which}, which has died"
        case NoServer():
            return "does not exist"
        case Replaced():
            return "was replaced, to have other code"
        case Unknown(detail):
            return _with("ended for an unknown reason", detail)
        case _:
            assert_never(reason)


def _out_of_memory(limit: int | None, used: int | None) -> str:
    if limit is None:
        return "killed by the system, which was out of memory"
    if used is None:
        return f"asked for more than its memory_limit of {_mib(limit)}"
    return f"had {_mib(used)}, more than its memory_limit of {_mib(limit)}, and was killed"


def _mib(count: int) -> str:
    return f"{count / 2**20:.4g} MiB"


def _hung(reason: Hung) -> str:
    did = {
        "python": ", computing in Python",
        "c": ", computing in C with the GIL held",
        "blocked": f", blocked in {reason.system_call or 'a system call'}",
        "waiting": ", awaiting something",
        "stopped": ", stopped by a signal",
    }.get(reason.verdict, "")
    where = f" in {reason.callback}" if reason.callback else ""
    return f"hung for {reason.limit:g} s{where}{did}, and was killed"


def _with(what: str, detail: str) -> str:
    """Return `what: detail`, the detail cut to a line of decent length."""
    lines = detail.strip().splitlines()
    if not lines:
        return what
    first = lines[0].rstrip()[:_MAX_TEXT]
    return f"{what}: {first}" if first == detail.strip() else f"{what}: {first} ..."


Rule: TypeAlias = Literal[
    "",
    "stop",
    "group",
    "supervisor",
    "node",
    "hurry",
    "init_timeout",
    "shutdown_timeout",
    "hang_timeout",
    "task_stop",
    "memory_limit",
    "placement",
    "protocol",
    "exit_signal",
    "reload",
]
"""Which of our rules ended a server; empty where none did. `docs/exits.md` has what each means."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The message that a server was working on when it ended.

    Attributes:
        operation: The name of the operation, or of the callback (`handle_call`).
        size: How many bytes it had on its way here; None if that is not known, see `docs/exits.md`.
        age: How long ago it had begun, in seconds. Messages that are handled in a row have one time
            for all, so it may be 0.2 ms too long, and more after casts of which one was slow.
        attempts: At how many ends of the server it was this message that it worked on: more than 1
            only for `@call(idempotent=True)`.
        arguments: What it was called with, cut; empty without `Node(debug=True)`.
        steps: How many steps of it had begun, if its handler says so (`current_call().steps()`).
    """

    operation: str
    size: int | None = None
    age: float = 0.0
    attempts: int = 1
    arguments: str = ""
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class ExitReport:
    """How one incarnation of a server ended: the same object in errors, events and logs.

    It is bounded: 16 KiB on its way, whatever the server has raised, printed or was called.

    Attributes:
        server: The server's name or id, for people.
        sid: The server's number in its node; kept through restarts.
        incarnation: Which start of the server this was, from 1.
        reason: Why it ended.
        os_pid: The process it lived in, as the operating system counts.
        uptime: How long it ran, in seconds.
        requested: Whether somebody wanted it to end: a program, its supervisor, the node.
        rule: Which of our rules ended it: also where nobody wanted its end, as after a time limit.
        traceback: Where it crashed, as Python prints it; empty if it raised nothing.
        stack: Where its threads were when its process died, as faulthandler prints it: after a
            fatal signal like SIGSEGV, and after a time limit, where we asked before we killed.
        message: What it was working on; None if it waited, or was in a callback of its own, such
            as `init`.
        mailbox: How many messages had arrived in its process and waited for their turn. What the
            process had not looked at yet, still in its sockets, is not counted.
        casts_lost: How many casts had not begun and are lost, so far as their senders have said so.
        rss: The memory that its process had in the end, in bytes; None if nobody knows. A worker
            shares pages with its zygote, which count as well.
        rss_age: How long before the end it was seen, in seconds: a process that has died suddenly
            has none any more. 0 where it was asked in the end.
        peak_rss: The most that it had at any time (or a child process of it); None if nobody knows.
        oom_kills: How many processes the kernel has killed for want of memory, since this one
            started: in the node's cgroup, or on the machine where there is none.
        stderr: The last lines, at most 20, that its process wrote to standard error.
        time: When it ended, in seconds since the epoch.
        next: What its supervisor does now, for example `restarting`; may be empty.
        shared: Where its process died with a whole placement group: which, how many, and why it
            was ended, if we did it; empty if the server ended alone.
    """

    server: str
    sid: int
    incarnation: int
    reason: ExitReason
    os_pid: int
    uptime: float
    requested: bool = False
    rule: Rule = ""
    traceback: str = ""
    stack: str = ""
    message: Begun | None = None
    mailbox: int = 0
    casts_lost: int = 0
    rss: int | None = None
    rss_age: float = 0.0
    peak_rss: int | None = None
    oom_kills: int = 0
    stderr: tuple[str, ...] = ()
    time: float = 0.0
    next: str = ""
    shared: str = ""

    @property
    def restarts(self) -> int:
        """How often the server had been started again, up to this incarnation."""
        return max(0, self.incarnation - 1)

    @property
    def trace(self) -> str:
        """Its traceback, else the stack of its process; may be empty."""
        return self.traceback or self.stack

    @property
    def summary(self) -> str:
        """Why it ended and what follows, on one line: `killed by SIGKILL; restarting`."""
        why = f"{render(self.reason)} {self.shared}" if self.shared else render(self.reason)
        return f"{why}; {self.next}" if self.next else why

    @property
    def text(self) -> str:
        """All of it for people: at most 24 lines of at most 100 characters."""
        from noex_mp.core.report_text import text_of

        return text_of(self)
